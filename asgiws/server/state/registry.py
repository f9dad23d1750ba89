"""The open connections of one worker, the applications that run for them, and the phase that the server is in.

Phases, in their order; a stop moves through some of them, and never back:

    SERVING         connections are accepted
    DRAINING        they still are; responses say that their connection ends
    HANDING_OVER    another process accepts on the same sockets; a request or handshake on its way is still served, so
                    that no client sees a refusal
    STOPPING        connections end; a new one is closed
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

__all__ = ["DRAINING", "HANDING_OVER", "SERVING", "STOPPING", "Connection", "Registry"]

SERVING, DRAINING, HANDING_OVER, STOPPING = range(4)


class Connection(Protocol):
    """What the server needs of a connection, whichever protocol it speaks."""

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline."""

    @property
    def spreads_drain(self) -> bool:
        """Whether `begin_shutdown` makes its client reconnect: a WebSocket, an event stream."""

    def begin_shutdown(self) -> None:
        """Finish what is open, and then end: the server stops."""

    def abort(self) -> None:
        """End now."""


class Registry:
    """What is open, and the phase of the server."""

    __slots__ = ("_loop", "connections", "phase", "quiet", "tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.connections: dict[Connection, None] = {}
        """In the order in which they came. A set would take up to twice the memory of a dict."""
        self.tasks: dict[asyncio.Task[None], str | bytes] = {}
        """The applications that run for a connection, with the path of the request; referenced here so that none is
        garbage-collected while it waits."""
        self.phase = SERVING
        self.quiet = asyncio.Event()
        """Set when the last connection and the last application have ended during a stop."""

    @property
    def draining(self) -> bool:
        """Whether the server was ordered to stop."""
        return self.phase >= DRAINING

    def enter(self, phase: int) -> None:
        """Move to a phase; do nothing when it is past."""
        self.phase = max(self.phase, phase)

    def start(self, application: Coroutine[Any, Any, None], path: str | bytes = "") -> None:
        """Run an application's coroutine as a task of its own; at its end it calls `on_application_end`."""
        self.tasks[self._loop.create_task(application)] = path

    def on_application_end(self) -> None:
        """Remove the current task. A callback of the task would cost a turn of the loop."""
        task = asyncio.current_task(self._loop)
        if task is not None:  # an application that ignored its cancellation is destroyed outside of any task
            self.tasks.pop(task, None)
        if self.phase >= HANDING_OVER:
            self._check_quiet()

    def forget_done(self) -> None:
        """Remove applications that ended without a call of `on_application_end`: cancelled before their first step."""
        for task in [task for task in self.tasks if task.done()]:
            del self.tasks[task]

    def remove(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self.connections.pop(connection, None)
        if self.phase >= HANDING_OVER:
            self._check_quiet()

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Put a connection in the place of another on the same transport. The registry is not empty in between."""
        self.connections[successor] = None
        self.connections.pop(connection, None)

    def _check_quiet(self) -> None:
        if not self.connections and not self.tasks:
            self.quiet.set()
