"""The interface of systemd: socket activation and notifications.

    LISTEN_FDS, LISTEN_PID      sd_listen_fds(3): listening sockets, from descriptor 3 on
    NOTIFY_SOCKET               sd_notify(3): READY, RELOADING, STOPPING, STATUS
    WATCHDOG_USEC, WATCHDOG_PID sd_watchdog_enabled(3): a regular sign of life

The variables are removed from the environment, so that no child process uses them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from asgiws.protocol.printable import escape

__all__ = ["Notifier", "inherited_addresses"]

_FIRST_FD: Final = 3


def inherited_addresses(environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """Return the sockets that systemd opened for this process as addresses for `--bind`, and unset the variables."""
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return ()
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        # Programs that the application starts while it is imported must not inherit it. `Listeners` checks whether it
        # is open.
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
    return tuple(f"fd:{fd}" for fd in fds)


class Notifier:
    """Notifies the service manager; does nothing where there is none."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = usec.isdecimal() and pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 2_000_000 if mine and self._address else 0.0
        """Seconds between two signs of life, half of what is allowed; 0 when none are wanted."""
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """Report that the service has started or reloaded."""
        self._notify(f"READY=1\nSTATUS={escape(status)}")

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` ends it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._notify("STOPPING=1\nSTATUS=draining connections")

    def keep_alive(self) -> None:
        """Send signs of life until `end`, as long as the loop turns."""
        if self.watchdog_s:
            self._notify("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self.watchdog_s, self.keep_alive)

    def end(self) -> None:
        """Stop sending signs of life."""
        if self._timer is not None:
            self._timer.cancel()

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is in the abstract namespace (unix(7)).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A service manager that does not listen must not keep us from serving.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
