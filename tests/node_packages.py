"""Node and the npm packages that tests of the documents need, installed once into tests/.node."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = HERE / ".node"
_WANTED = HERE / "node" / "package.json"
_INSTALL_TIMEOUT_S = 120


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """Return the directory with ``node_modules``; skip, saying what is missing, where they can't be had."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install nodejs npm")
    NODE.mkdir(exist_ok=True)
    mark = NODE / ".installed"
    wanted = hashlib.sha256(_WANTED.read_bytes()).hexdigest()
    with (NODE / ".lock").open("w") as lock:  # the tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            _install()
            mark.write_text(wanted)
    return NODE


def _install() -> None:
    shutil.copy(_WANTED, NODE)
    command = ["npm", "install", "--prefix", str(NODE), "--no-audit", "--no-fund", "--no-package-lock"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {_WANTED.name} within {_INSTALL_TIMEOUT_S} s")
    if done.returncode:
        pytest.skip(f"npm could not install {_WANTED.name}: {done.stderr.strip().splitlines()[-1:]}")
