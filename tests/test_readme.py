"""What the README says of settings and commands is so."""

from pathlib import Path

import msgspec

from settings import Settings

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
