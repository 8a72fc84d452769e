"""The Autobahn testsuite's fuzzing client, which is Python 2 code: found an interpreter, installed apart, run, read."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from conformance.runner import Tally

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"
_INSTALLED = _HERE / ".autobahn"
_REPORTS = _HERE / ".reports"
# Compression is off (nothing to try in 12 and 13).
_LEFT_OUT = ["12.*", "13.*"]
_QUICK_LEFT_OUT = ["9.*", "10.*"]
_TIMEOUT_S = 900.0
_INSTALL_TIMEOUT_S = 300.0
# `site` is for the namespace package among them (zope), which PYTHONPATH alone does not make importable.
_START = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()"
_GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")

SECTIONS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close handling",
    "9": "limits",
    "10": "auto-fragmentation",
}


class Unavailable(Exception):
    """The suite can't be run here; ``str(error)`` says why."""


def install() -> str:
    """Install the suite, unless it is there; return the Python to run it with. Raises ``Unavailable``."""
    python = _python()
    if python is None:
        raise Unavailable("no Python 2.7 was found (PYTHON2 may name one)")
    mark = _INSTALLED / ".complete"
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return python
    print("Installing the Autobahn testsuite …", flush=True)
    shutil.rmtree(_INSTALLED, ignore_errors=True)
    command = [python, "-W", "ignore", "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    command += ["--require-hashes", "--target", str(_INSTALLED), "-r", str(_REQUIREMENTS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable("installing it took too long") from None
    if done.returncode:
        raise Unavailable(f"it can't be installed: {done.stderr.strip()[-300:]}")
    mark.write_text(wanted)
    return python


async def run(python: str, port: int, *, quick: bool) -> Tally:
    """Run the suite against an echo socket; return what came out, by section. Raises ``Unavailable``."""
    shutil.rmtree(_REPORTS, ignore_errors=True)
    _REPORTS.mkdir()
    spec = {
        "outdir": str(_REPORTS),
        "servers": [{"agent": "ours", "url": f"ws://127.0.0.1:{port}"}],
        "cases": ["*"],
        "exclude-cases": _LEFT_OUT + (_QUICK_LEFT_OUT if quick else []),
        "exclude-agent-cases": {},
    }
    path = _REPORTS / "spec.json"
    path.write_text(json.dumps(spec))
    with (_REPORTS / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            python, "-W", "ignore", "-c", _START, str(_INSTALLED), "-m", "fuzzingclient", "-s", str(path),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            await asyncio.wait_for(process.wait(), _TIMEOUT_S)
        except TimeoutError:
            raise Unavailable(f"it did not end within {_TIMEOUT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    index = _REPORTS / "index.json"
    if not index.exists():
        raise Unavailable(f"it wrote no report: {(_REPORTS / 'log.txt').read_text(errors='replace')[-300:]}")
    return _tally(json.loads(index.read_text())["ours"])


def _tally(cases: dict[str, dict[str, str]]) -> Tally:
    tally = Tally()
    for name in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
        outcome = cases[name]
        section = name.split(".")[0]
        behavior, closing = outcome["behavior"], outcome["behaviorClose"]
        good = behavior in _GOOD and closing in _GOOD
        tally.add(f"{section} {SECTIONS[section]}", None if good else f"{name}: {behavior}, close: {closing}")
        tally.notes[behavior] += 1
    return tally


def _python() -> str | None:
    """Return a Python 2.7 that runs: PYTHON2, of the PATH (where it may be a shim of nothing), or pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = map(str, sorted(root.glob("versions/2.7*/bin/python2.7")))
    for python in (os.environ.get("PYTHON2"), shutil.which("python2.7"), *found):
        if (
            python
            and subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
        ):
            return python
    return None
