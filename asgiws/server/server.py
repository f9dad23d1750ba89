"""The server of one process: it starts the application, listens, sweeps, and stops.

    async with Server(app, Config(port=0)) as server:
        print(server.port)

Order of a start: lifespan startup, then listening. Order of a stop:

    1. for `drain_delay` seconds connections are accepted as before, and responses carry `connection: close`
    2. listening ends, and connections with it (`asgiws.server.shutdown`), in `graceful_timeout` seconds
    3. lifespan shutdown, in what is left of these seconds, but at least one

A server that is `replaced` has a successor on the same sockets. It stops listening first, without a delay, and no
client sees a refusal: a connection that was accepted and has sent nothing yet is served, a handshake is completed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from asgiws.config.options import Config
from asgiws.protocol.websocket.closing import Close
from asgiws.server.asgi import ASGIApp
from asgiws.server.bulk_close import BulkClose
from asgiws.server.connection.preamble import protocol_factory
from asgiws.server.health import with_health
from asgiws.server.lifespan import Lifespan
from asgiws.server.overload import OverloadProbe
from asgiws.server.recycling import Recycling
from asgiws.server.shutdown import CANCEL_S, announce_end, cancel_connections, describe_open, finish_connections, pause
from asgiws.server.sockets.accepting_task import make_acceptor
from asgiws.server.sockets.acceptor import Acceptor
from asgiws.server.sockets.listeners import Listeners
from asgiws.server.state.registry import DRAINING, HANDING_OVER, STOPPING
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.stats import describe_largest, make_report
from asgiws.server.sweep import Sweep
from asgiws.server.tls.certificates import Certificates
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG
from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.factory import check_broker, make_broker
from asgiws.topics.hub import Hub, join_hub, leave_hub

__all__ = ["Server"]


class Server:
    """Serves one application on one event loop.

    `app` is an ASGI application; `config` has the options. Use it as an async context manager, or call `start` and
    `stop`; both belong to the running loop.
    """

    def __init__(self, app: ASGIApp, config: Config | None = None) -> None:
        self.config = config or Config()
        self._app = app
        self._worker: WorkerState | None = None
        self._forced = asyncio.Event()
        """Set when `stop` must not wait any more."""
        self._lifespan = Lifespan(app, self.config.lifespan)
        self._acceptors: list[Acceptor] = []
        self._certificates: Certificates | None = None
        self._listeners: Listeners | None = None
        self._recycling: Recycling | None = None
        self._sweep: Sweep | None = None
        self._overload_probe: OverloadProbe | None = None
        self._hub: Hub | None = None
        self._broker: Broker | None = None
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
    def serving(self) -> bool:
        """Whether it accepts connections and will go on doing so."""
        return bool(self._acceptors) and not self.worker.registry.draining

    @property
    def ready(self) -> bool:
        """Whether it should get clients: it serves, what is published reaches it, and it is not overloaded."""
        return self.serving and not self.worker.topics.deaf and not self.overloaded

    @property
    def overloaded(self) -> bool:
        """Whether it refuses new clients, and is to be reported as not ready because of that (`--shed-readiness`)."""
        return self.config.shed_readiness and self.worker.admission.overload is not None

    def report(self) -> dict[str, Any]:
        """Return what it has counted and what is open now, as plain data; see `asgiws.telemetry.scoreboard`.

        Looks at every connection: 10,000 of them cost some milliseconds.
        """
        return make_report(self.worker, self._certificates, ready=self.ready, overloaded=self.overloaded)

    def stop_accepting(self) -> None:
        """Leave new connections to another process that accepts on the same sockets; open ones continue."""
        self._stop_listening()

    def close_connection(self, number: int, code: int, reason: str) -> bool:
        """Close the WebSocket with that number in the report; return whether it was open."""
        for connection in list(self.worker.registry.connections):
            if isinstance(connection, WebSocketConnection) and connection.number == number:
                return connection.close(Close(code, reason), "admin")
        return False

    def close_websockets(self, order: BulkClose) -> int:
        """Start to close the open WebSockets that an order selects; return how many."""
        return order.begin(self.worker)

    def find_websockets(self, which: BulkClose) -> list[dict[str, Any]]:
        """Return the open WebSockets of a path and client, as rows of a report: those that hold most, 50 at most."""
        return describe_largest(which.matching(self.worker))

    def retire(self, why: str) -> bool:
        """Ask to replace this process, or to stop it if it serves alone; return whether this is the first time.

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
        """Start the application and listen, once in the life of this object.

        Raises StartupFailed, CannotListen or CannotConnect, with nothing left running, and StartupFailed too when
        `stop` is called meanwhile; RuntimeError when it was started before.
        """
        if self._worker is not None:
            raise RuntimeError("the server was started before, make another Server")
        check_broker(self.config)
        if self.config.ssl_certfile:
            self._certificates = Certificates(self.config)
        loop = asyncio.get_running_loop()
        app = with_health(self._app, self.config.health_path, lambda: self.ready)
        self._hub = hub = join_hub(loop)
        hub.prefix, hub.publish_most_bytes = self.config.topic_prefix, self.config.max_publish_size
        hub.recovery.ends_at_gap = self.config.topic_gap == "close"
        hub.history.most_bytes = self.config.topic_history
        self._worker = worker = WorkerState(app, self.config, loop, hub)
        counters = worker.counters
        hub.on_bus_lag = counters.broker_round_trip.add if self.config.broker else counters.relay_lag.add
        try:
            if self.config.broker:  # first, as the application may publish while it starts
                self._broker = make_broker(self.config, hub)
                await self._broker.start(required=self.config.broker_required)
            await self._lifespan.start()
            worker.lifespan_state = self._lifespan.state
            self._listeners = listeners = Listeners.open(self.config)
            self.addresses, self.port = listeners.urls(), listeners.port
            self._sweep = Sweep(worker, self._on_second)
            self._sweep.start()
            self._overload_probe = OverloadProbe(worker)
            self._overload_probe.start()
            make_protocol = protocol_factory(worker, self._certificates)
            for listener in listeners.sockets:
                acceptor = make_acceptor(worker, listener, make_protocol)
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
        """Stop gracefully, in bounded time and in the order at the top of this file. Does nothing before `start`.

        `replaced`: another process accepts on the same sockets from now on.
        """
        worker = self._worker
        if worker is None:
            return
        worker.registry.enter(DRAINING)
        announce_end(worker)
        if self.config.drain_delay and not replaced and self._acceptors:
            LOG.info("draining: connections are accepted for another %g s", self.config.drain_delay)
            await pause(self.config.drain_delay, self._forced)
        worker.registry.enter(HANDING_OVER if replaced else STOPPING)
        self._stop_listening()
        until_s = time.monotonic() + self.config.graceful_timeout
        await finish_connections(worker, self._forced)
        worker.second_passed()  # logs how many lines of the last second were left out
        await cancel_connections(worker)
        await self._end(until_s - time.monotonic())

    def describe_open(self) -> str:
        """Return what a stop waits for, such as "1 request and 3 WebSockets"; empty when there is nothing."""
        return describe_open(self.worker) if self.started else ""

    def force_stop(self) -> None:
        """Stop waiting in `stop`."""
        self._forced.set()
        self._lifespan.abandon()
        if self._worker is not None:
            self._worker.registry.quiet.set()

    def reload_certificates(self) -> bool:
        """Read the files of TLS again, for new connections; when that fails, it is logged and nothing changes.

        Return whether there are any.
        """
        if self._certificates is not None:
            self._certificates.reload()
        return self._certificates is not None

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        self._acceptors.clear()
        if self._listeners is not None:
            self._listeners.close()

    async def _end(self, left_s: float) -> None:
        """Stop the application, in what is left of the time, and the sweep."""
        least_s = min(CANCEL_S, self.config.graceful_timeout)
        await self._lifespan.stop(CANCEL_S if self._forced.is_set() else max(least_s, left_s))
        if self._sweep is not None:
            self._sweep.stop()
        if self._overload_probe is not None:
            self._overload_probe.stop()
        if self._broker is not None:
            await self._broker.close()
        if self._hub is not None:
            leave_hub(self._hub)
            self._hub = None

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
