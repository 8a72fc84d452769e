"""A server to check: ours, on a free port, with an embedded PostgreSQL in a directory that is removed afterwards."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parent.parent
_ADDRESS = re.compile(r"listening on (http://\S+)")
# Nothing of the settings that somebody may have for a server of theirs.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
_START_S = 60
_STOP_S = 20


class NotStarted(Exception):
    """The server did not start; ``str(error)`` is the end of what it said."""


class OwnServer(Struct, frozen=True):
    """Where it listens, and the key that its tokens are signed with."""

    url: str
    secret: str


@contextlib.contextmanager
def own_server() -> Iterator[OwnServer]:
    """Run one. Raises ``NotStarted``."""
    directory = Path(tempfile.mkdtemp(prefix="bountyexpo-verify-"))
    secret = secrets.token_urlsafe(48)
    environment = {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PORT": "0",
        "HOST": "127.0.0.1",
        "DATA_DIR": str(directory),
        "SUPABASE_JWT_SECRET": secret,
    }
    with (directory / "server.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py")], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield OwnServer(_address(process, directory / "server.log"), secret)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(directory, ignore_errors=True)


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    """Return where it listens, as it says; from then on what it says is read and dropped, so that it never waits."""
    giving_up = threading.Timer(_START_S, process.kill)
    giving_up.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            found = _ADDRESS.search(line)
            if found:
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return found[1]
    finally:
        giving_up.cancel()
    process.wait()
    raise NotStarted("\n".join(log.read_text().splitlines()[-5:]) or f"it ended with {process.returncode}")
