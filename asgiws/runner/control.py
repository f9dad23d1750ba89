"""A server while it runs (`Run`), and what controls it (`Control`): signals, or the supervisor of a worker.

The methods of `Run` may be called from the thread of the loop and from signal handlers. They only set events; the loop
does the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from asgiws.runner.watchdog import FORCED_MOST_S, Watchdog, stop_most_s
from asgiws.server.server import Server

__all__ = ["Control", "Run"]

# An application that blocks the loop has this long after the second signal.
_BLOCKED_MOST_S = FORCED_MOST_S / 2


class Run:
    """A server while it runs."""

    def __init__(self, server: Server, watchdog: Watchdog) -> None:
        self.server = server
        self.replaced = False
        """Whether another process accepts on the same sockets from now on."""
        self.told_to_stop = asyncio.Event()
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()

    def stop(self, *, replaced: bool = False) -> None:
        """Stop gracefully."""
        self.replaced = replaced
        self._watchdog.end_process_after(stop_most_s(self.server.config))
        self.call_soon(self.told_to_stop.set)

    def force(self) -> None:
        """Stop without waiting for requests and WebSockets."""
        self._watchdog.end_process_after(_BLOCKED_MOST_S, if_blocked=True)
        self._watchdog.end_process_after(FORCED_MOST_S)
        self.call_soon(self.told_to_stop.set)
        self.call_soon(self.server.force_stop)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in a turn of the loop."""
        self._loop.call_soon_threadsafe(function)


class Control(Protocol):
    """Controls a server, and reacts to what it does."""

    def attach(self, run: Run) -> AbstractAsyncContextManager[None]:
        """Control `run` until the context ends."""

    def on_ready(self, server: Server) -> None:
        """React when the server listens."""

    def on_due(self, why: str) -> None:
        """React when the process has reached a limit after which it is replaced."""

    def on_stopping(self) -> None:
        """React when a stop begins."""

    def on_stopped(self) -> None:
        """React when a stop has ended; also called when the stop came before the server listened."""
