"""What systemd and the server tell each other: sockets handed in, states handed out, the watchdog.

The protocols are sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3). Without systemd nothing of it happens.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

# sd_listen_fds(3): the first descriptor that is handed in.
_FIRST_DESCRIPTOR = 3


class Notifier:
    """Tells systemd how the service is doing. Without ``NOTIFY_SOCKET`` it tells nobody.

    :param environment: the variables that systemd set are taken out, so that no child process takes them for its own.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ where its name has a NUL.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        micros = environment.pop("WATCHDOG_USEC", "")
        is_ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # How long the watchdog waits for a sign of life before it ends the process; None without one.
        self.watchdog_s = int(micros) / 1e6 if micros.isdecimal() and int(micros) and is_ours else None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    @property
    def listening(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Say that the server answers: after its start, and after a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the configuration is read again; ``ready`` says that it was."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def alive(self, status: str) -> None:
        """Feed the watchdog, and say how things are."""
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def patience(self, seconds: float, status: str) -> None:
        """Ask for ``seconds`` from now for the start or the end that is under way."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS={status}")

    def _tell(self, *assignments: str) -> None:
        if self._socket is not None:
            # systemd may restart itself just now; what the server is for goes on all the same.
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)


def passed_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that were handed in, none without socket activation.

    The variables are taken out of ``environment``. Raises ``OSError`` for a descriptor that takes no connections.
    """
    count = int(environment.pop("LISTEN_FDS", "") or 0)
    is_ours = environment.pop("LISTEN_PID", "") == str(os.getpid())
    environment.pop("LISTEN_FDNAMES", None)
    if not is_ours:
        return []
    passed = [socket.socket(fileno=_FIRST_DESCRIPTOR + number) for number in range(count)]
    for listening in passed:
        is_tcp = listening.family in (socket.AF_INET, socket.AF_INET6) and listening.type == socket.SOCK_STREAM
        if not is_tcp or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(f"descriptor {listening.fileno()} is no listening TCP socket")
        listening.setblocking(False)
        listening.set_inheritable(False)
    return passed
