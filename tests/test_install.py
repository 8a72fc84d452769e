"""deploy/install.sh into a directory of its own: what it makes, that it can be repeated, rolled back, removed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from settings import SECRETS
from storage.migrate import pending
from tests.harness import SECRET
from tests.test_command import ROOT
from tests.test_migrations import bare

__all__ = ["bare"]

SCRIPT = ROOT / "deploy" / "install.sh"
# A virtual environment with all that is pinned, from a cache or from far away.
PATIENCE_S = 240


class Machine:
    """A directory that stands for the file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.opt = directory / "opt" / "bountyexpo-realtime"
        self.etc = directory / "etc" / "bountyexpo-realtime"
        self.units = directory / "etc" / "systemd" / "system"

    def install(self, *options: str, status: int = 0) -> str:
        """Run the script; return all that it said."""
        end = subprocess.run(
            [SCRIPT, *options],
            env={**os.environ, "DESTDIR": str(self.directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert end.returncode == status, end.stdout
        return end.stdout

    def files(self) -> dict[str, tuple[int, int]]:
        """Return {path: (mode, time of its last change)} of all but the environments' insides."""
        found = (
            path for path in self.directory.rglob("*") if ".venv" not in path.parts and "__pycache__" not in path.parts
        )
        return {str(path): (path.lstat().st_mode & 0o777, path.lstat().st_mtime_ns) for path in found}


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
def test_from_nothing_to_removed(tmp_path: Path, bare: str) -> None:
    """Each step in turn, as a person takes them: one after the other, for making a release takes its time."""
    machine = Machine(tmp_path)
    assert "+ mkdir -p" in machine.install("--dry-run")
    assert machine.files() == {}, "a dry run leaves nothing"

    said = machine.install()
    assert "now fill in" in said
    release = (machine.opt / "current").resolve()
    assert release.parent == machine.opt / "releases"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (machine.etc / "secrets").iterdir()}
    assert modes == {name.replace("_", "-"): 0o600 for name in SECRETS}
    assert (machine.etc / "secrets").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in machine.units.iterdir()) == [
        "bountyexpo-realtime.service", "bountyexpo-realtime.socket",
    ]  # fmt: skip
    assert not (release / "tests").exists() and (release / "storage" / "migrations" / "0001-core.sql").exists()

    (machine.etc / "secrets" / "database-url").write_text(bare)
    (machine.etc / "secrets" / "supabase-jwt-secret").write_text(SECRET)
    said = machine.install()
    assert "0001-core" in said and SECRET not in said
    assert pending(bare) == []
    before = machine.files()
    said = machine.install()
    assert "is there already" in said and "Nothing to do" in said
    assert machine.files() == before, "doing it again changes nothing"

    machine.install("--rollback", status=1)
    newer = release.with_name("9.9.9-newer")
    shutil.copytree(release, newer, ignore=shutil.ignore_patterns(".venv"))
    (machine.opt / "previous").symlink_to(newer)
    assert "rolling back to 9.9.9-newer" in machine.install("--rollback")
    assert (machine.opt / "current").resolve() == newer
    assert "rolling back" in machine.install("--rollback")
    assert (machine.opt / "current").resolve() == release

    machine.install("--uninstall")
    assert not machine.opt.exists() and not list(machine.units.iterdir())
    assert (machine.etc / "secrets" / "database-url").read_text() == bare, "the configuration stays"
    machine.install("--purge")
    assert not machine.etc.exists()


def test_wrong_options(tmp_path: Path) -> None:
    """One sentence, and nothing done."""
    machine = Machine(tmp_path)
    assert "unknown option: --fast" in machine.install("--fast", status=1)
    assert "--keep wants a number" in machine.install("--keep", "1", status=1)
    assert "--rollback" in machine.install("--help")
    assert machine.files() == {}


def test_it_wants_root() -> None:
    """Where it would write to the system."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": ()} if os.geteuid() == 0 else {}
    # By its standard input: whoever it runs as need not be able to read where this is.
    end = subprocess.run(
        ["/bin/sh", "-s"], input=SCRIPT.read_text(), cwd="/", capture_output=True, text=True, check=False, **nobody
    )
    assert end.returncode == 1 and "must be run as root" in end.stderr
