"""The server of one process: it starts the application, listens, sweeps, and stops.

    async with Server(app, Config(port=0)) as server:
        print(server.port)

Order of a start: lifespan startup, then listening. Order of a stop: listening ends; idle HTTP connections close, open
requests finish, WebSockets get Close 1012; up to `graceful_timeout` seconds are waited for all of them; what is left is
aborted and its applications cancelled; then lifespan shutdown.
"""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import formatdate
from types import TracebackType
from typing import Self

from asgiws.config import Config
from asgiws.server.acceptor import Acceptor
from asgiws.server.context import ASGIApp, Context, server_fields
from asgiws.server.http import HTTPConnection
from asgiws.server.lifespan import Lifespan
from asgiws.server.listeners import address_of, close_listeners, make_listeners
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG

__all__ = ["Server"]

# For applications that were cancelled to end; who swallows the cancellation is left behind.
_CANCEL_S = 1.0


class Server:
    """Serves one application on one event loop.

    `app` is an ASGI application; `config` has the options. Use it as an async context manager, or call `start` and
    `stop`; both belong to the running loop.
    """

    def __init__(self, app: ASGIApp, config: Config | None = None) -> None:
        self.config = config or Config()
        self._app = app
        self._context: Context
        self._forced = False
        """Whether stopping waits for nobody."""
        self._lifespan = Lifespan(app, self.config.lifespan)
        self._acceptors: list[Acceptor] = []
        self._sockets: list[socket.socket] = []
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._second_at_s = 0.0
        self.addresses: list[str] = []
        """Where it listens, as URLs."""
        self.port = 0
        """The bound TCP port; 0 when it listens on none."""

    @property
    def counters(self) -> Counters:
        """What the server has counted since it started."""
        return self._context.counters

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._context.connections)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the application and listen. Raises StartupFailed or CannotListen, with nothing left running."""
        loop = asyncio.get_running_loop()
        self._context = context = Context(self._app, self.config, loop)
        try:
            await self._lifespan.start()
            context.state = self._lifespan.state
            self._sockets = make_listeners(self.config)
            self._sweep()
            for listener in self._sockets:
                self.addresses.append(address_of(listener))
                name = listener.getsockname()
                if isinstance(name, tuple) and not self.port:
                    self.port = name[1]
                acceptor = Acceptor(context, listener, lambda: HTTPConnection(context))
                self._acceptors.append(acceptor)
                acceptor.start()
        except BaseException:
            self._stop_listening()
            await self._end()
            raise

    async def stop(self) -> None:
        """End gracefully; see the top of this file for the order. It always ends."""
        context = self._context
        context.stopping = True
        self._stop_listening()
        for connection in list(context.connections):
            connection.begin_shutdown()
        if (context.connections or context.tasks) and not self._forced:
            try:
                async with asyncio.timeout(self.config.graceful_timeout):
                    await context.quiet.wait()
            except TimeoutError:
                LOG.warning(
                    "%d connections and %d applications did not end within %g s, they are ended now",
                    len(context.connections), len(context.tasks), self.config.graceful_timeout,
                )  # fmt: skip
        await self._end_all()
        await self._end()

    def force_stop(self) -> None:
        """Let `stop` wait for nobody any more."""
        self._forced = True
        self._lifespan.abandon()
        if self._acceptors:
            self._context.quiet.set()

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        close_listeners(self._sockets, self.config)

    async def _end(self) -> None:
        """Stop the application, and the sweep."""
        await self._lifespan.stop(_CANCEL_S if self._forced else self.config.graceful_timeout)
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()

    async def _end_all(self) -> None:
        context = self._context
        for connection in list(context.connections):
            connection.abort()
        tasks = list(context.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=_CANCEL_S)
            if pending:
                LOG.error("%d applications ignore their cancellation and are left behind", len(pending))

    def _sweep(self) -> None:
        """Count a tick for every connection; nothing else in a worker has a timer."""
        context = self._context
        self._sweep_handle = context.loop.call_later(context.deadlines.tick_s, self._sweep)
        now = time.monotonic()
        second_passed = now - self._second_at_s >= 1
        if second_passed:
            self._second_at_s = now
            context.default_fields = server_fields(self.config, formatdate(usegmt=True))
            context.handshakes.clear()
            for encoder in context.encoders.values():
                encoder.forget()
            context.log.second_passed()
            for acceptor in self._acceptors:
                acceptor.on_tick()
        for connection in list(context.connections):
            connection.on_tick(second_passed)
