"""One run: start everything, let the nemesis loose, bring everybody back, compare."""

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from msgspec import Struct

from chaos.checker import check
from chaos.clients import Device
from chaos.faults import Nemesis, schedule
from chaos.findings import Finding
from chaos.people import Person
from chaos.record import FAULT, FRAME, QUIET, SENT, UP, Record
from chaos.recovery import recovered, recoveries, stalls, table
from chaos.rest import Rest
from chaos.server_process import ServerProcess
from chaos.subscribers import Changer, Subscriber
from chaos.world import Stored, World, new_world, read_back, settle_in

_PEOPLE, _GROUPS, _SUBSCRIBERS = 30, 4, 6
# The end: for outboxes to empty, for what is under way to arrive, for everybody to be back.
_SETTLE_S, _QUIET_S, _RETURN_S = 40.0, 2.5, 40.0


class Options(Struct):
    """What ``python -m chaos`` was asked for."""

    seconds: float
    seed: int
    fault_in: str | None
    record: Path | None


class Run:
    """Everything of one run. ``play`` may be called once."""

    def __init__(self, options: Options) -> None:
        rng = random.Random(options.seed)
        self._options = options
        self._rng = rng
        self._record = Record()
        self.server = ServerProcess(options.fault_in)
        self._rest = Rest(self.server, self._record)
        self._world: World = new_world(rng, people=_PEOPLE, groups=_GROUPS)
        self._healthy = set(self._world.people[-2:])
        self._people = [self._person(user_id) for user_id in self._world.people]
        self._devices = [device for person in self._people for device in person.devices]
        self._subscribers = [self._subscriber(place) for place in range(_SUBSCRIBERS)]
        self._changer = Changer(self._world, self.server, self._rest, self._record, rng, every_s=0.25)
        self._tasks: list[asyncio.Task[None]] = []

    async def play(self) -> int:
        """Return the exit status: 0, or 1 with any breach."""
        options = self._options
        wanders = [device for person in self._people[:-2] for device in person.devices]
        nemesis = Nemesis(self.server, wanders, self._subscribers, self._record, self._rng)
        pinger: asyncio.subprocess.Process | None = None
        watch: asyncio.Task[None] | None = None
        broken: list[Finding] = []
        try:
            started_s = await self.server.start()
            await asyncio.to_thread(settle_in, self.server.dsn(), self._world)
            _say(
                f"chaos: seed {options.seed}, {options.seconds:.0f} s, {len(self._people)} people with"
                f" {len(self._devices)} devices, {len(self._subscribers)} subscribers, started in {started_s:.1f} s"
                + (f", with the fault {options.fault_in}" if options.fault_in else "")
            )
            pinger = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "chaos.pinger", str(self.server.directory), str(self.server.port),
                cwd=Path(__file__).resolve().parent.parent, start_new_session=True,
            )  # fmt: skip
            lives: list[Person | Subscriber | Changer] = [*self._people, *self._subscribers, self._changer]
            self._tasks = [asyncio.create_task(life.run()) for life in lives]
            watch = asyncio.create_task(self._watch(broken))
            await self._in_step(self._devices, 20.0)
            await asyncio.sleep(min(2.0, options.seconds / 20))
            done = await nemesis.run(
                schedule(options.seed, options.seconds), until=time.monotonic() + options.seconds, say=_say
            )
            unacked = await self._calm_down()
            stored = await asyncio.to_thread(read_back, self.server.dsn(), self._world)
            watch.cancel()
            nemesis.statuses.append(await self.server.terminate())
        finally:
            for task in [*self._tasks, *([watch] if watch else [])]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if pinger is not None and pinger.returncode is None:
                pinger.send_signal(signal.SIGKILL)
                await pinger.wait()
            self._rest.close()
            await self.server.clean_up()
            if options.record:
                self._record.dump(options.record)
        bad = [status for status in nemesis.statuses if status != 0]
        exits = Finding(
            "SIGTERM that did not end with status 0", len(nemesis.statuses), [f"status {one}" for one in bad]
        )
        return self._judge(stored, unacked, done, nemesis, [exits, *broken])

    def _judge(self, stored: Stored, unacked: dict[str, int], done: int, nemesis: Nemesis, more: list[Finding]) -> int:
        entries = self._record.entries
        holdings = {device.name: (device.user_id, device.held) for device in self._devices}
        found = recoveries(entries, self._healthy)
        stalled, stall_line = stalls(self.server.directory / "pings", entries)
        errors = Finding("error in the server's log", 1, self._log_errors())
        findings = [
            *check(entries, stored, self._world, holdings, unacked), *more, errors, recovered(found), stalled,
        ]  # fmt: skip
        kinds = Counter(entry.data["kind"] for entry in entries if entry.kind == FAULT)
        frames = sum(entry.kind == FRAME for entry in entries)
        sent = sum(entry.kind == SENT for entry in entries)
        _say(f"faults done: {done} ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})")
        _say(
            f"stored: {len(stored.messages)} messages, {len(stored.events)} events; clients sent {sent} frames and got"
            f" {frames}; restarts took {max(nemesis.starts_s, default=0.0):.1f} s at most"
        )
        _say(table(found))
        _say(stall_line)
        for finding in findings:
            _say(finding.lines())
        breached = sum(bool(finding.breaches) for finding in findings)
        _say(f"chaos: {breached} properties breached" if breached else "chaos: every property held")
        if breached:
            _say(f"the server's log: {self.server.log}")
        return 1 if breached else 0

    async def _calm_down(self) -> dict[str, int]:
        """Let everything settle, then bring everybody back and in step; return how many messages were never acked."""
        for person in self._people:
            person.writing = False
        give_up = time.monotonic() + _SETTLE_S
        while any(device.outbox for device in self._devices) and time.monotonic() < give_up:
            await asyncio.sleep(0.1)
        self._changer.stopping = True
        await asyncio.wait([self._tasks[-1]], timeout=15.0)
        await asyncio.sleep(_QUIET_S)
        self._record.add(QUIET)
        unacked = {device.name: len(device.outbox) for device in self._devices}
        for device in self._devices:
            device.stay_away_until = 0.0
            device.drop(cleanly=True)
        for subscriber in self._subscribers:
            subscriber.drop()
        await asyncio.sleep(0.5)
        await self._in_step(self._devices, _RETURN_S)
        await asyncio.sleep(1.0)
        for device in self._devices:
            device.stopping = True
        for subscriber in self._subscribers:
            subscriber.stopping = True
        return unacked

    async def _in_step(self, devices: list[Device], timeout: float) -> None:
        """Wait until everybody is connected and synced; whoever is not by then shows in the findings."""
        waiting = [asyncio.create_task(device.in_step.wait()) for device in devices]
        _, late = await asyncio.wait(waiting, timeout=timeout)
        for task in late:
            task.cancel()

    async def _watch(self, broken: list[Finding]) -> None:
        """Notice when the server ends by itself, and when it comes up."""
        finding = Finding("server ended by itself", 1, [])
        broken.append(finding)
        known = 0
        while True:
            await asyncio.sleep(0.1)
            if self.server.running:
                if self.server.pid != known:
                    known = self.server.pid
                    self._record.add(UP, data={"pid": known})
            elif not self.server.expected_down and not finding.breaches:
                finding.breaches.append(f"the log ends with:\n{self.server.log_tail(5)}")

    def _person(self, user_id: str) -> Person:
        is_healthy = user_id in self._healthy
        count = 1 if is_healthy else self._rng.choice((1, 2))
        devices = [
            Device(
                user_id, f"{user_id[:8]}/{number}", self._world.of(user_id), self.server, self._rest, self._record,
                random.Random(self._rng.random()), eager=is_healthy,
            )
            for number in range(count)
        ]  # fmt: skip
        every_s = 0.1 if is_healthy else 2.5
        rng = random.Random(self._rng.random())
        return Person(user_id, devices, self._rest, rng, writes_every_s=every_s, steady=is_healthy)

    def _subscriber(self, place: int) -> Subscriber:
        wanted = self._rng.sample(list(self._world.bounties), 3) if place % 3 == 2 else []
        return Subscriber(f"subscriber{place}", wanted, self.server, self._record, random.Random(self._rng.random()))

    def _log_errors(self) -> list[str]:
        lines = self.server.log.read_text(errors="replace").splitlines()
        return [line[:400] for line in lines if '"level": "error"' in line or '"level": "critical"' in line]


def _say(text: str) -> None:
    print(text, flush=True)
