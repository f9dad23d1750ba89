"""Accepting connections on one listening socket, also when the process has run out of descriptors.

asyncio and uvloop can accept for a server, but without descriptors they try again without a pause. With a limit of 40
and 80 clients that was 500,000 log lines in three seconds on asyncio and 100,000 on uvloop, a busy core, and on asyncio
no recovery. So the accept is ours: such an error stops it, is logged once, and the sweep tries again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from asgiws.server.scope import shared_address
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.logs import LOG

__all__ = ["OF_ONE_CLIENT", "Acceptor"]

# Connections accepted in one turn of the loop, so that the open ones are served in between
_ACCEPTS_A_TURN: Final = 64
# accept(2): errors of one connection, such as a client that left before it was accepted. All others, such as a lack of
# descriptors or memory, would occur again at once. Not every system has all of them (ENONET: Linux only).
OF_ONE_CLIENT: Final = frozenset(
    getattr(errno, name, errno.ECONNABORTED)
    for name in (
        "ECONNABORTED", "EPROTO", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
        "EOPNOTSUPP", "EPERM",
    )
)  # fmt: skip


class _Accepted(socket.socket):
    """A socket whose family and type are plain numbers, and whose address is one object for all connections to it.

    Reading enumerations costs about a microsecond each time, five times per accept with uvloop. The address, which
    the transports of asyncio keep, takes 160 bytes.
    """

    __slots__ = ()
    family = socket.SocketType.family  # type: ignore[assignment]  # a plain number instead of the enumeration
    type = socket.SocketType.type  # type: ignore[assignment]  # the same

    def getsockname(self) -> Any:
        """Return the address of our end."""
        return shared_address(socket.SocketType.getsockname(self))


class Acceptor:
    """Accepts on one listening socket, and does not close it."""

    __slots__ = ("_worker", "_kind", "_listener", "_paused", "_protocol")

    def __init__(
        self, worker: WorkerState, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self._worker = worker
        self._listener = listener
        self._kind = int(listener.family), int(listener.type), listener.proto
        """Plain numbers, see `_Accepted`."""
        self._protocol = protocol
        self._paused = False

    def start(self) -> None:
        """Accept from now on."""
        self._worker.loop.add_reader(self._listener.fileno(), self._on_readable)

    def stop(self) -> None:
        """Stop accepting; connections that wait in the kernel stay there."""
        if self._worker.registry.phase == HANDING_OVER:
            # If no other process accepts on this very socket (one worker less), those that wait would be reset.
            self._on_readable()
        self._worker.loop.remove_reader(self._listener.fileno())
        self._paused = False

    def on_tick(self) -> None:
        """Try again if descriptors had run out."""
        if self._paused:
            self._worker.loop.add_reader(self._listener.fileno(), self._on_readable)
            self._on_readable()

    def _on_readable(self) -> None:
        listener = self._listener
        for _ in range(_ACCEPTS_A_TURN):
            try:
                # What `socket.accept` calls, before it makes a socket with enumerations of the result
                descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # not in the stubs
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in OF_ONE_CLIENT:
                    continue
                self._worker.loop.remove_reader(listener.fileno())
                self.report_failure(error)
                return
            if self._paused:
                self.report_recovery()
            accepted = _Accepted(*self._kind, fileno=descriptor)
            self._worker.registry.start(self.connect(accepted))  # which also makes it non-blocking

    async def connect(self, accepted: socket.socket) -> None:
        """Make a connection of an accepted socket."""
        try:
            await self._worker.loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:
            accepted.close()  # reset between the accept and here
        finally:
            self._worker.registry.on_application_end()

    def report_recovery(self) -> None:
        """Log that there are descriptors again."""
        self._paused = False
        LOG.warning("accepting connections again, %d are open", len(self._worker.registry.connections))

    def report_failure(self, error: OSError) -> None:
        """Count that descriptors have run out, and log it once."""
        self._worker.counters.accept_errors += 1
        if not self._paused:
            self._paused = True
            LOG.error(
                "cannot accept connections: %s; %d are open; raise the limit of open files (ulimit -n), or set "
                "--max-connections below it", os.strerror(error.errno or 0), len(self._worker.registry.connections),
            )  # fmt: skip
