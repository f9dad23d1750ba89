"""The lifespan of an application (ASGI Lifespan 2.0): startup before the first connection, shutdown after the last.

States, moved by the application's messages and by its return:

    STARTING    lifespan.startup was sent
    STARTED     lifespan.startup.complete was received
    FAILED      lifespan.startup.failed was received, the application must have a lifespan and has none, or it was
                stopped before it had started
    ABSENT      the application raised or returned before it completed: it has no lifespan (ASGI L3)
    STOPPING    lifespan.shutdown was sent
    ENDED       lifespan.shutdown.complete or .failed was received, or the application returned
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from asgiws.protocol.printable import escape
from asgiws.server.asgi import ASGIApp, Event
from asgiws.telemetry.logs import LOG

__all__ = ["Lifespan", "StartupFailed"]

STARTING, STARTED, FAILED, ABSENT, STOPPING, ENDED = range(6)

# For a lifespan that was cancelled to end
_CANCEL_S: Final = 0.5


class StartupFailed(Exception):  # noqa: N818 - what happened, not an error of ours
    """The application reported that it cannot start (ASGI L5); the message is its own."""


class Lifespan:
    """Runs the application's lifespan in a task of its own, on the loop that serves its connections (ASGI L1)."""

    def __init__(self, app: ASGIApp, mode: str) -> None:
        self._app = app
        self._mode = mode
        self._state = STARTING
        self._message = ""
        self._error: BaseException | None = None
        self._moved = asyncio.Event()
        self._shutdown = asyncio.Event()
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] | None = None
        """The application's state, copied into every scope; None when it has no lifespan."""

    async def start(self) -> None:
        """Wait until the application has started. Raises StartupFailed when it says that it cannot."""
        if self._mode == "off":
            self._state = ABSENT
            return
        self.state = {}
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._moved.wait()
        if self._state == ABSENT:
            self.state = None
            if self._mode == "on":
                raise StartupFailed("application has no lifespan, and --lifespan on asks for one")
            LOG.debug("application has no lifespan")
        elif self._state == FAILED:
            # Starlette sends its traceback as the message and raises the exception as well, which shows the same.
            repeated = self._error is not None and ": Traceback (most recent call last)" in self._message
            message = "application startup failed" if repeated else self._message
            raise StartupFailed(message) from self._error

    async def stop(self, timeout_s: float) -> None:
        """Send lifespan.shutdown and wait for its answer, at most `timeout_s` seconds; or end a `start` that waits."""
        if self._task is None:
            return
        if self._state == STARTING:
            self._message = "the server was stopped while the application started"
            self._move(FAILED)
        elif self._state == STARTED:
            self._state = STOPPING
            self._moved.clear()
            self._shutdown.set()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._moved.wait()
            except TimeoutError:
                LOG.error("application did not answer lifespan.shutdown within %.3g s", timeout_s)
        if not self._task.done():
            self._task.cancel()
            _, pending = await asyncio.wait([self._task], timeout=_CANCEL_S)
            if pending:
                LOG.error("application ignored the cancellation of its lifespan, not waiting for it")

    def abandon(self) -> None:
        """Stop waiting for the answer in `stop`."""
        if self._state == STOPPING:
            self._move(ENDED)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except (asyncio.CancelledError, GeneratorExit):
            pass
        except BaseException as error:
            self._on_raise(error)
        if self._state == STARTING:
            self._move(ABSENT)
        elif self._state in (STARTED, STOPPING):
            self._move(ENDED)

    def _on_raise(self, error: BaseException) -> None:
        """Handle an exception: before `lifespan.startup` it means no lifespan (ASGI L3), later it is a fault."""
        self._error = error
        if self._state == STARTING and not self._asked:
            return
        if self._state == STARTING:
            if self._mode == "on":
                self._message = "application raised in its startup"
                self._move(FAILED)
            else:  # as the specification asks for
                LOG.error("application raised in its startup, it is served without lifespan events", exc_info=error)
        elif self._state != FAILED:
            LOG.error("application raised in its lifespan", exc_info=error)

    async def _receive(self) -> Event:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._shutdown.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Event) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and self._state == STARTING:
            self._move(STARTED)
        elif kind == "lifespan.startup.failed" and self._state == STARTING:
            lines = str(message.get("message", "")).rstrip().split("\n")
            self._message = ": ".join(filter(None, ("application startup failed", "\n".join(map(escape, lines)))))
            self._move(FAILED)
        elif kind == "lifespan.shutdown.complete" and self._state in (STOPPING, ENDED):
            self._move(ENDED)  # perhaps after `stop` has given up
        elif kind == "lifespan.shutdown.failed" and self._state == STOPPING:
            LOG.error("application shutdown failed: %s", escape(str(message.get("message", ""))))
            self._move(ENDED)
        else:
            raise RuntimeError(f"{kind} out of order in the lifespan")

    def _move(self, state: int) -> None:
        self._state = state
        self._moved.set()
