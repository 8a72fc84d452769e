"""What the peers need, installed once: a virtual environment of their own, Node packages, a compiled C program.

What the machine can't do is skipped, with a line that says so.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.paths import BENCH as HERE
from bench.paths import DATA, NODE, PEERS, VENV

_INSTALL_TIMEOUT_S = 300


def prepare() -> dict[str, str]:
    """Install what is missing; return {what can't be had: why}."""
    DATA.mkdir(exist_ok=True)
    missing: dict[str, str] = {}
    for what, install in {"python": _python, "node": _node, "c": _compile}.items():
        try:
            install()
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            missing[what] = str(detail).strip().splitlines()[-1][:200] if str(detail).strip() else type(error).__name__
    return missing


def _python() -> None:
    wanted = HERE / "requirements.txt"
    if _is_done(VENV, wanted):
        return
    print("Installing the Python peers into bench/.venv …", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(VENV))
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run(*pip, "--no-deps", "--require-hashes", "-r", str(wanted))
    _mark_done(VENV, wanted)


def _node() -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        raise FileNotFoundError("node and npm are not installed")
    wanted = PEERS / "package.json"
    if _is_done(NODE, wanted):
        return
    print("Installing the Node peers into bench/.node …", flush=True)
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir()
    shutil.copy(wanted, NODE)
    _run("npm", "install", "--prefix", str(NODE), "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
    _mark_done(NODE, wanted)


def _compile() -> None:
    if not shutil.which("cc"):
        raise FileNotFoundError("there is no C compiler")
    source, program = PEERS / "send_loop.c", DATA / "send_loop"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        _run("cc", "-O2", "-o", str(program), str(source))


def _is_done(directory: Path, wanted: Path) -> bool:
    mark = directory / ".installed"
    return mark.exists() and mark.read_text() == _digest(wanted)


def _mark_done(directory: Path, wanted: Path) -> None:
    (directory / ".installed").write_text(_digest(wanted))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
