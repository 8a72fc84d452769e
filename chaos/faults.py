"""The nemesis: one fault after the other on a seeded schedule, each of which ends and is followed by calm."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import psutil
import psycopg2
from msgspec import Struct

from chaos.clients import Device
from chaos.record import FAULT, HEALED, Record
from chaos.server_process import ServerProcess
from chaos.subscribers import Subscriber
from chaos.world import connect

_OURS = "application_name = 'bountyexpo-realtime'"
# How long a killed PostgreSQL may stay away before the run gives up waiting for it.
_BACK_WITHIN_S = 30.0


class Fault(Struct):
    """One entry of the schedule: what, for how long (where it lasts), and the calm after it."""

    kind: str
    lasts_s: float
    calm_s: float


# Kind: least and most seconds that it lasts. Freezes outlast the server's own deadline of 2 s, or stay below it.
KINDS: dict[str, tuple[float, float]] = {
    "kill-server": (0.0, 1.0),
    "restart-server": (0.0, 0.5),
    "kill-backends": (0.0, 0.0),
    "freeze-postgres": (0.5, 5.0),
    "freeze-backend": (1.5, 5.0),
    "kill-postgres": (0.0, 0.0),
    "kill-both": (0.0, 1.0),
    "read-only": (0.5, 4.0),
    "stall-readers": (2.0, 12.0),
}
# What a fault takes besides, on a busy machine: a start of the server, a recovery of PostgreSQL.
_COSTS_S = {"kill-server": 1.5, "restart-server": 2.0, "kill-postgres": 1.0, "kill-both": 2.0}
# From this length on a run has the times above; a shorter one has shorter ones, but for the freezes.
_FULL_S = 120.0
_DEADLINE_S = 2.0


def schedule(seed: int, seconds: float) -> list[Fault]:
    """Return the faults of a run: every kind in turn, shuffled anew each time round, for ``seconds`` or a bit less."""
    rng = random.Random(seed)
    scale = min(1.0, seconds / _FULL_S)
    faults: list[Fault] = []
    used_s = 0.0
    while True:
        for kind in rng.sample(sorted(KINDS), len(KINDS)):
            lasts_s = rng.uniform(*KINDS[kind]) * scale
            if kind == "freeze-backend":
                lasts_s = max(lasts_s, _DEADLINE_S * rng.uniform(0.9, 1.4))
            calm_s = rng.uniform(2.5, 7.0) * scale + 0.3
            used_s += lasts_s + calm_s + _COSTS_S.get(kind, 0.0)
            if used_s > seconds and faults:
                return faults
            faults.append(Fault(kind, lasts_s, calm_s))


class Nemesis:
    """Does what the schedule says. Whatever happens, a fault that was begun is ended."""

    def __init__(
        self, server: ServerProcess, devices: list[Device], subscribers: list[Subscriber], record: Record,
        rng: random.Random,
    ) -> None:  # fmt: skip
        self._server, self._devices, self._subscribers = server, devices, subscribers
        self._record, self._rng = record, rng
        self.starts_s: list[float] = []
        self.statuses: list[int] = []
        self._acts: dict[str, Callable[[float], Awaitable[Any]]] = {
            "kill-server": self._kill_server,
            "restart-server": self._restart_server,
            "kill-backends": self._kill_backends,
            "freeze-postgres": self._freeze_postgres,
            "freeze-backend": self._freeze_backend,
            "kill-postgres": self._kill_postgres,
            "kill-both": self._kill_both,
            "read-only": self._read_only,
            "stall-readers": self._stall_readers,
        }

    async def run(self, faults: list[Fault], *, until: float, say: Callable[[str], None]) -> int:
        """Do the faults, starting none past ``until`` (monotonic seconds); return how many were done."""
        for done, fault in enumerate(faults):
            if time.monotonic() >= until:
                return done
            self._record.add(FAULT, data={"kind": fault.kind, "lasts_s": round(fault.lasts_s, 2)})
            began = time.monotonic()
            await self._acts[fault.kind](fault.lasts_s)
            self._record.add(HEALED, data={"kind": fault.kind})
            say(f"  {done + 1:3} {fault.kind:16} {time.monotonic() - began:5.1f} s")
            await asyncio.sleep(fault.calm_s)
        return len(faults)

    async def _start(self) -> None:
        self.starts_s.append(await self._server.start())

    async def _kill_server(self, lasts_s: float) -> None:
        await self._server.kill()
        await asyncio.sleep(lasts_s)
        await self._start()

    async def _restart_server(self, lasts_s: float) -> None:
        self.statuses.append(await self._server.terminate())
        await asyncio.sleep(lasts_s)
        await self._start()

    async def _kill_backends(self, _lasts_s: float) -> None:
        limit = self._rng.choice(("1", "2", "ALL"))
        await asyncio.to_thread(
            self._sql,
            "SELECT pg_terminate_backend(pid) FROM"
            f" (SELECT pid FROM pg_stat_activity WHERE {_OURS} ORDER BY random() LIMIT {limit}) ours",
        )

    async def _freeze_postgres(self, lasts_s: float) -> None:
        postmaster = self._server.postmaster()
        if postmaster is None:
            return
        with contextlib.suppress(psutil.Error):
            await _freeze([postmaster, *postmaster.children(recursive=True)], lasts_s)

    async def _freeze_backend(self, lasts_s: float) -> None:
        """Stop the one that works most: it runs the writer's statements, so the most is at stake."""
        rows = await asyncio.to_thread(
            self._sql, f"SELECT pid FROM pg_stat_activity WHERE {_OURS} ORDER BY query_start DESC NULLS LAST LIMIT 1"
        )
        with contextlib.suppress(psutil.Error):
            await _freeze([psutil.Process(row[0]) for row in rows], lasts_s)

    async def _kill_postgres(self, _lasts_s: float) -> None:
        killed = self._kill_postmaster()
        give_up = time.monotonic() + _BACK_WITHIN_S
        while time.monotonic() < give_up:
            postmaster = self._server.postmaster()
            if postmaster is not None and postmaster.pid != killed:
                with contextlib.suppress(psycopg2.Error, OSError):
                    await asyncio.to_thread(self._sql, "SELECT 1")
                    return
            await asyncio.sleep(0.05)

    async def _kill_both(self, lasts_s: float) -> None:
        await self._server.kill()
        self._kill_postmaster()
        await asyncio.sleep(lasts_s)
        await self._start()

    async def _read_only(self, lasts_s: float) -> None:
        try:
            await asyncio.to_thread(self._sql, "ALTER SYSTEM SET default_transaction_read_only = on")
            await asyncio.to_thread(self._sql, "SELECT pg_reload_conf()")
            await asyncio.sleep(lasts_s)
        finally:
            await asyncio.to_thread(self._sql, "ALTER SYSTEM RESET default_transaction_read_only")
            await asyncio.to_thread(self._sql, "SELECT pg_reload_conf()")

    async def _stall_readers(self, lasts_s: float) -> None:
        stalled: list[Device | Subscriber] = [
            *self._rng.sample(self._devices, min(len(self._devices), 5)),
            self._rng.choice(self._subscribers),
        ]
        try:
            for reader in stalled:
                reader.stall()
            await asyncio.sleep(lasts_s)
        finally:
            for reader in stalled:
                reader.flow()

    def _kill_postmaster(self) -> int:
        postmaster = self._server.postmaster()
        if postmaster is None:
            return 0
        with contextlib.suppress(psutil.Error):
            postmaster.send_signal(signal.SIGKILL)
        return int(postmaster.pid)

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(connect(self._server.dsn())) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


async def _freeze(processes: list[psutil.Process], lasts_s: float) -> None:
    try:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        await asyncio.sleep(lasts_s)
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.Error):
                process.resume()
