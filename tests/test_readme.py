"""What the README says of settings, commands and the start is so."""

from pathlib import Path

import msgspec

from banner import banner
from settings import Settings
from version import VERSION

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_readme() -> None:
    """The table names each."""
    names = [field.name.upper() for field in msgspec.structs.fields(Settings)]
    assert [name for name in names if f"`{name}`" not in README] == []


def test_every_make_target_in_the_readme_exists() -> None:
    """No command that is not there."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {part.split("`")[0].split()[0] for part in README.split("`make ")[1:]}
    assert {target for target in targets if "=" not in target and f"\n{target}:" not in makefile} == set()


def test_the_tour_shows_the_banner() -> None:
    """As it is printed."""
    assert banner(VERSION, Settings(), "127.0.0.1", 3001) in README
