"""CPU and memory of processes, from /proc: nanoseconds from the scheduler, resident pages from statm."""

import os
import time
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Above this part of a core the load generator may have been what was measured.
LIMIT = 0.9


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, all of its threads together."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    if total:
        return total / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children_cpu_s(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each child of a process, and of itself: a postmaster and its backends."""
    found = {pid: cpu_s(pid)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found[int(entry.name)] = cpu_s(int(entry.name))
    return found


def rss_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has worked, or wanted to and could not (steal)."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


class Meter:
    """What the server, PostgreSQL and the load generator itself use from now on."""

    def __init__(self, server_pid: int, postgres_pid: int) -> None:
        self._server_pid = server_pid
        self._postgres_pid = postgres_pid
        self._postgres = children_cpu_s(postgres_pid)
        self._server = cpu_s(server_pid)
        self._own = time.process_time()
        self._busy = _busy_s()
        self._at = time.monotonic()

    def read(self, units: int) -> dict[str, float]:
        """Return CPU microseconds per unit (message, recipient, connection), and the load generator's own share."""
        elapsed = time.monotonic() - self._at
        own = (time.process_time() - self._own) / elapsed
        server = cpu_s(self._server_pid) - self._server
        postgres = sum(
            seconds - self._postgres.get(pid, 0.0) for pid, seconds in children_cpu_s(self._postgres_pid).items()
        )
        others = _busy_s() - self._busy - server - postgres - own * elapsed
        units = max(1, units)
        return {
            "server_us": server * 1e6 / units,
            "postgres_us": postgres * 1e6 / units,
            "server_core": server / elapsed,
            "load_core": own,
            "others_core": max(0.0, others / elapsed),
            "load_was_limit": float(own > LIMIT),
        }
