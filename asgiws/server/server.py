"""The server of one process: it starts the application, listens, sweeps, and stops.

    async with Server(app, Config(port=0)) as server:
        print(server.port)

Order of a start: lifespan startup, then listening. Order of a stop:

    draining    for `drain_delay` seconds everything goes on, but each answer says `connection: close`
    stopping    listening ends; idle HTTP connections close, open requests finish, WebSockets get Close 1012, spread
                over `drain_spread` seconds; up to `graceful_timeout` seconds are waited for all of them
    ending      what is left is aborted and its applications cancelled; then lifespan shutdown, in what is left of those
                seconds, but a second at least

A server that is `replaced` has a successor on the same socket. It stops listening first, without a delay, and no client
sees a refusal: a connection that was accepted but has sent nothing yet is still served, a handshake still completed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from asgiws.config.options import Config
from asgiws.server.asgi import ASGIApp
from asgiws.server.bulk_close import BulkClose
from asgiws.server.connection.http import HTTPConnection
from asgiws.server.connection.preamble import protocol_factory
from asgiws.server.connection.websocket import WebSocketConnection
from asgiws.server.health import with_health
from asgiws.server.lifespan import Lifespan
from asgiws.server.recycling import Recycling
from asgiws.server.sockets.acceptor import Acceptor
from asgiws.server.sockets.listeners import Listeners
from asgiws.server.state.registry import Connection
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.stats import make_report
from asgiws.server.sweep import Sweep
from asgiws.server.tls.certificates import Certificates
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG

__all__ = ["Server"]

# For applications that were cancelled to end; who swallows the cancellation is left behind. The lifespan shutdown has
# as long when the connections have taken all the time there was.
_CANCEL_S = 1.0


class Server:
    """Serves one application on one event loop.

    `app` is an ASGI application; `config` has the options. Use it as an async worker manager, or call `start` and
    `stop`; both belong to the running loop.
    """

    def __init__(self, app: ASGIApp, config: Config | None = None) -> None:
        self.config = config or Config()
        self._app = app
        self._worker: WorkerState | None = None
        self._forced = asyncio.Event()
        """Set when stopping waits for nobody any more."""
        self._lifespan = Lifespan(app, self.config.lifespan)
        self._acceptors: list[Acceptor] = []
        self._certificates: Certificates | None = None
        self._listeners: Listeners | None = None
        self._recycling: Recycling | None = None
        self._sweep: Sweep | None = None
        self.on_due: Callable[[str], None] | None = None
        """Called once, with the reason, when this process has served enough (`asgiws.server.recycling`)."""
        self.addresses: list[str] = []
        """Where it listens, as URLs."""
        self.port = 0
        """The bound TCP port; 0 when it listens on none."""

    @property
    def worker(self) -> WorkerState:
        """What the connections share. Raises RuntimeError before the start."""
        if self._worker is None:
            raise RuntimeError("the server was not started")
        return self._worker

    @property
    def started(self) -> bool:
        """Whether it was started; it may still wait for the application, see `ready`."""
        return self._worker is not None

    @property
    def counters(self) -> Counters:
        """What the server has counted since it started."""
        return self.worker.counters

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self.worker.registry.connections)

    @property
    def ready(self) -> bool:
        """Whether it accepts connections and will go on doing so."""
        return bool(self._acceptors) and not self.worker.registry.draining

    def report(self) -> dict[str, Any]:
        """Give what it has counted and what is open now, as JSON has it; see `asgiws.telemetry.scoreboard`.

        Looks at every connection: 10,000 of them cost some milliseconds.
        """
        return make_report(self.worker, self._certificates, ready=self.ready)

    def stop_accepting(self) -> None:
        """Leave new connections to another process that accepts on the same sockets; open ones go on."""
        self._stop_listening()

    def close_connection(self, number: int, code: int, reason: str) -> bool:
        """Close one WebSocket by the number that the report gives it; tells whether it was open."""
        for connection in list(self.worker.registry.connections):
            if isinstance(connection, WebSocketConnection) and connection.number == number:
                return connection.close(code, reason)
        return False

    def close_websockets(self, order: BulkClose) -> int:
        """Begin to close the open WebSockets that an order chooses; return how many it chose."""
        return order.begin(self.worker)

    def retire(self, why: str) -> bool:
        """Have this process replaced, or stopped when it serves alone; return whether this was the first request.

        What happens is decided by `on_due`; without it, nothing does.
        """
        on_due, self.on_due = self.on_due, None
        if on_due is not None:
            on_due(why)
        return on_due is not None

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
        app = with_health(self._app, self.config.health_path, lambda: self.ready)
        self._worker = worker = WorkerState(app, self.config, loop)
        if self.config.ssl_certfile:
            self._certificates = Certificates(self.config)
        try:
            await self._lifespan.start()
            worker.lifespan_state = self._lifespan.state
            self._listeners = listeners = Listeners.open(self.config)
            self.addresses, self.port = listeners.urls(), listeners.port
            self._sweep = Sweep(worker, self._on_second)
            self._sweep.start()
            make_protocol = protocol_factory(worker, self._certificates)
            for listener in listeners.sockets:
                acceptor = Acceptor(worker, listener, make_protocol)
                self._acceptors.append(acceptor)
                acceptor.start()
            self._recycling = Recycling(self.config)
            if self.on_due is not None:
                self._recycling.spare_fresh()
        except BaseException:
            self._stop_listening()
            await self._end(self.config.graceful_timeout)
            raise

    async def stop(self, *, replaced: bool = False) -> None:
        """End gracefully; see the top of this file for the order. It always ends.

        `replaced`: another process accepts on the same sockets from now on.
        """
        worker = self._worker
        if worker is None:
            return
        worker.registry.draining = True
        for connection in list(worker.registry.connections):
            if isinstance(connection, HTTPConnection):
                connection.begin_drain()
        if self.config.drain_delay and not replaced and self._acceptors:
            LOG.info("draining: connections are accepted for another %g s", self.config.drain_delay)
            await _pause(self.config.drain_delay, self._forced)
        worker.registry.stopping, worker.registry.replaced = True, replaced
        self._stop_listening()
        until_s = time.monotonic() + self.config.graceful_timeout
        try:
            async with asyncio.timeout(self.config.graceful_timeout):
                await self._close_connections(worker)
                # Those that somebody cancelled before they began have not told of their end.
                worker.registry.tasks = {task for task in worker.registry.tasks if not task.done()}
                while (worker.registry.connections or worker.registry.tasks) and not self._forced.is_set():
                    worker.registry.quiet.clear()
                    await worker.registry.quiet.wait()
        except TimeoutError:
            LOG.warning(
                "%d connections and %d applications did not end within %g s, they are ended now",
                len(worker.registry.connections), len(worker.registry.tasks), self.config.graceful_timeout,
            )  # fmt: skip
        await self._end_all(worker)
        await self._end(until_s - time.monotonic())

    def force_stop(self) -> None:
        """Let `stop` wait for nobody any more."""
        self._forced.set()
        self._lifespan.abandon()
        if self._worker is not None:
            self._worker.registry.quiet.set()

    def reload_certificates(self) -> bool:
        """Read the files of TLS again, for new connections; when that fails, it is logged and nothing changes.

        Gives whether there are any.
        """
        if self._certificates is not None:
            self._certificates.reload()
        return self._certificates is not None

    async def _close_connections(self, worker: WorkerState) -> None:
        """End every connection; spread WebSockets and event streams over time, as their clients reconnect at once."""
        websockets: list[Connection] = []
        for connection in list(worker.registry.connections):
            if connection.spreads_drain:
                websockets.append(connection)
            else:
                connection.begin_shutdown()
        spread_s, began_s = self.config.drain_spread, time.monotonic()
        for place, websocket in enumerate(websockets):
            due_in_s = began_s + spread_s * place / len(websockets) - time.monotonic()
            if due_in_s > 0 and websocket in worker.registry.connections:
                await _pause(due_in_s, worker.registry.quiet)
            if websocket in worker.registry.connections:
                websocket.begin_shutdown()

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors.clear()
        if self._listeners is not None:
            self._listeners.close()

    async def _end(self, left_s: float) -> None:
        """Stop the application, in what is left of the time, and the sweep."""
        least_s = min(_CANCEL_S, self.config.graceful_timeout)
        await self._lifespan.stop(_CANCEL_S if self._forced.is_set() else max(least_s, left_s))
        if self._sweep is not None:
            self._sweep.stop()

    async def _end_all(self, worker: WorkerState) -> None:
        worker.second_passed()  # of lines that were left out in the last one, too, is told how many
        for connection in list(worker.registry.connections):
            connection.abort()
        tasks = list(worker.registry.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=_CANCEL_S)
            if pending:
                LOG.error("%d applications ignore their cancellation and are left behind", len(pending))

    def _on_second(self) -> None:
        """Do what is due once a second; the sweep calls it."""
        for acceptor in self._acceptors:
            acceptor.on_tick()
        if self._certificates is not None:
            self._certificates.on_second()
        if self.on_due is None or self._recycling is None or self.worker.registry.draining:
            return
        if why := self._recycling.due(self.worker.counters):
            self.retire(why)


async def _pause(seconds: float, unless: asyncio.Event) -> None:
    """Wait, but no longer than until an event is set."""
    try:
        async with asyncio.timeout(seconds):
            await unless.wait()
    except TimeoutError:
        pass
