"""The open connections of one worker, the applications that run for them, and how far a stop has come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

__all__ = ["Connection", "Registry"]


class Connection(Protocol):
    """What the server needs of a connection, whichever protocol it speaks."""

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline."""

    @property
    def spreads_drain(self) -> bool:
        """Whether `begin_shutdown` makes its client reconnect: a WebSocket, an event stream."""

    def begin_shutdown(self) -> None:
        """Finish what is open and then end: the server stops."""

    def abort(self) -> None:
        """End now."""


class Registry:
    """What is open, and whether the server drains or stops."""

    __slots__ = ("_loop", "connections", "draining", "quiet", "replaced", "stopping", "tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.connections: set[Connection] = set()
        self.tasks: dict[asyncio.Task[None], str | bytes] = {}
        """The applications that run for a connection, with the path of the request; referenced here so that none is
        garbage-collected while it waits."""
        self.draining = False
        """Whether the server was asked to stop: responses from now on say that the connection ends."""
        self.stopping = False
        """Whether connections are being ended; from then on, no new ones are accepted."""
        self.replaced = False
        """Whether another process accepts in place of this one, so that no client has to see a refusal."""
        self.quiet = asyncio.Event()
        """Set when, while stopping, the last connection and the last application have ended."""

    def start(self, application: Coroutine[Any, Any, None], path: str | bytes = "") -> None:
        """Run an application's coroutine as a task of its own; at its end it calls `on_application_end`."""
        self.tasks[self._loop.create_task(application)] = path

    def on_application_end(self) -> None:
        """Let go of the current task; a callback of the task would cost a turn through the loop."""
        task = asyncio.current_task(self._loop)
        if task is not None:  # an application that ignored its cancellation is destroyed outside of any task
            self.tasks.pop(task, None)
        if self.stopping:
            self._check_quiet()

    def forget_done(self) -> None:
        """Remove applications that ended without a call of `on_application_end`: cancelled before their first step."""
        for task in [task for task in self.tasks if task.done()]:
            del self.tasks[task]

    def remove(self, connection: Connection) -> None:
        """Take an ended connection out of the registry."""
        self.connections.discard(connection)
        if self.stopping:
            self._check_quiet()

    def _check_quiet(self) -> None:
        if not self.connections and not self.tasks:
            self.quiet.set()
