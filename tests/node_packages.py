"""Node and the npm packages that tests need, installed once into tests/.node."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = HERE / ".node"
_WANTED = HERE / "node" / "package.json"
# Less than a test may take: where no registry answers, the tests are skipped, and say so.
_INSTALL_TIMEOUT_S = 45
_FLAGS = ["--no-audit", "--no-fund", "--no-package-lock", "--fetch-timeout=15000", "--fetch-retries=1"]


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """Return the directory with ``node_modules``; skip, saying what is missing, where they can't be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install nodejs npm")
    NODE.mkdir(exist_ok=True)
    mark, failed = NODE / ".installed", NODE / ".failed"
    wanted = hashlib.sha256(_WANTED.read_bytes()).hexdigest()
    with (NODE / ".lock").open("w") as lock:  # the tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(mark) != wanted:
            run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
            tried, _, reason = _read(failed).partition("\n")
            if tried != run:  # once a run, for all of its processes
                reason = _install()
                if reason:
                    failed.write_text(f"{run}\n{reason}")
                else:
                    mark.write_text(wanted)
            if reason:
                names = _WANTED.relative_to(HERE.parent)
                pytest.skip(
                    f"npm could not install what {names} names ({reason.splitlines()[-1]}): is there a registry?"
                )
    return NODE


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _install() -> str:
    """Install; return what went wrong, if anything did."""
    shutil.copy(_WANTED, NODE)
    command = ["npm", "install", "--prefix", str(NODE), *_FLAGS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"nothing within {_INSTALL_TIMEOUT_S} s"
    return (done.stderr.strip() or "npm failed") if done.returncode else ""
