"""Prints ``deploy/env.example``: every setting with its default, and what the README says of it.

``make env-example`` writes the file; a test compares it with what this prints.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from settings import LIVE_SETTINGS, SECRETS, Settings

_ROOT = Path(__file__).resolve().parent.parent
_SECRETS_DIR = "/etc/bountyexpo-realtime/secrets"
# What a server behind a proxy on its own machine is started with.
_SET = {"environment": "production", "trusted_proxies": "127.0.0.1,::1"}
_HEAD = """\
# The settings of BountyExpo Realtime. A line that begins with #NAME= is not set, and shows the default.
# Made by: make env-example
#
# `systemctl reload bountyexpo-realtime` takes these over; secrets and all others take a restart, which nobody notices:
# {live}
"""


def env_example() -> str:
    """Return the file's text."""
    said = _said()
    live = textwrap.fill(" ".join(sorted(LIVE_SETTINGS - SECRETS)).upper(), 118, subsequent_indent="# ")
    lines = [_HEAD.format(live=live)]
    told = ""
    for field in msgspec.structs.fields(Settings):
        name = field.name.upper()
        if field.name == "env_file":  # names this file
            continue
        if said[name] and said[name] != told:
            told = said[name]
            lines.append(f"# {told[0].upper()}{told[1:]}.")
        if field.name in SECRETS:
            lines.append(f"# A secret: the systemd unit reads it from {_SECRETS_DIR}/{name.lower().replace('_', '-')}.")
            lines.append(f"#{name}_FILE=")
        elif field.name in _SET:
            lines.append(f"{name}={_SET[field.name]}")
        else:
            lines.append(f"#{name}={_shown(field.default)}")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default is None:
        return ""
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _said() -> dict[str, str]:
    """Return what the README's table says of each setting."""
    said: dict[str, str] = {}
    for row in (_ROOT / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("| `") and len(cells) == 3:
            about = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cells[2]).replace("`", "")
            said |= dict.fromkeys(re.findall(r"`([A-Z][A-Z0-9_]+)`", cells[0]), about)
    return said


if __name__ == "__main__":
    print(env_example(), end="")
