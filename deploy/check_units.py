"""``make lint``: systemd-analyze finds nothing wrong with the units, and the sandbox is as tight as is said of it."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_UNITS = Path(__file__).with_name("systemd")
# systemd's own measure, from 0 (nothing to reach) to 10.
_MOST_EXPOSURE = 1.5


def main() -> int:
    """Return 0 if all is well."""
    with tempfile.TemporaryDirectory() as directory:
        for unit in _UNITS.iterdir():
            # What it would start is not installed here: any program stands for it.
            text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.MULTILINE)
            (Path(directory) / unit.name).write_text(text)
        units = sorted(str(path) for path in Path(directory).iterdir())
        verified = _run("verify", "--man=no", *units)
        service = next(unit for unit in units if unit.endswith(".service"))
        rated = _run("security", "--offline=true", "--no-pager", service)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", rated.stdout)
    exposure = float(found[1]) if found else 10.0
    if verified.returncode or verified.stderr.strip():
        print(verified.stdout + verified.stderr, file=sys.stderr)
        return 1
    print(f"The units are sound; exposure {exposure}, at most {_MOST_EXPOSURE}.")
    return 0 if exposure <= _MOST_EXPOSURE else 1


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
