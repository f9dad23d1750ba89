"""Accepting connections on one listening socket where the event loop has no `add_reader` (Windows).

The loop waits for connections itself (`sock_accept`), so a task does what the callback of `acceptor` does elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from asgiws.server.sockets.acceptor import OF_ONE_CLIENT, Acceptor
from asgiws.server.state.worker_state import WorkerState

__all__ = ["make_acceptor"]


class AcceptingTask(Acceptor):
    """Accepts on one listening socket, and does not close it."""

    __slots__ = ("_resumed", "_task")

    def start(self) -> None:
        """Accept from now on."""
        self._resumed = asyncio.Event()
        self._task = self._worker.loop.create_task(self._accept_all())

    def stop(self) -> None:
        """Stop accepting."""
        self._task.cancel()

    def on_tick(self) -> None:
        """Try again if descriptors had run out."""
        self._resumed.set()

    async def _accept_all(self) -> None:
        while True:
            try:
                accepted, _ = await self._worker.loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in OF_ONE_CLIENT:
                    self._resumed.clear()
                    self.report_failure(error)
                    await self._resumed.wait()
            else:
                if self._paused:
                    self.report_recovery()
                self._worker.registry.start(self.connect(accepted))


def make_acceptor(
    worker: WorkerState, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]
) -> Acceptor:
    """Return what accepts on `listener` with the means of the worker's loop."""
    has_readers = type(worker.loop).add_reader is not asyncio.AbstractEventLoop.add_reader
    return (Acceptor if has_readers else AcceptingTask)(worker, listener, protocol)
