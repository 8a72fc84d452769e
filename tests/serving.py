"""``server.py`` as a process of its own, with an embedded PostgreSQL and the development data."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parent.parent
_STOP_S = 20


class Serving(Struct, frozen=True):
    """A running server: its address, and the environment that it was started with."""

    url: str
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def token(self, *arguments: str) -> str:
        """Return a development token; ``arguments`` are the command's."""
        command = [sys.executable, str(ROOT / "server.py"), "token", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def serving() -> Iterator[Serving]:
    """Run one on a free port, in a directory that is removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bountyexpo-serving-"))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {**kept, "PORT": "0", "DATA_DIR": str(directory), "REST_RATE_PER_MINUTE": "0"}
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "listening on " in line:
                yield Serving(line.strip().rpartition(" ")[2], environment)
                break
        else:
            raise AssertionError((directory / "server.log").read_text()[-2000:])
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)
