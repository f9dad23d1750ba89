"""What the connections of one worker share: options, limits, the application, encoders, counters and the registry.

Made once by the server and handed to each connection. Nothing here does input or output; the sweep in
`asgiws.server.server` is the only thing that writes the date.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, Protocol

from asgiws.config import Config
from asgiws.protocol import errors
from asgiws.protocol.deflate import Agreement, Deflater
from asgiws.protocol.encoder import Encoder
from asgiws.protocol.errors import Violation
from asgiws.protocol.http1 import KnownHeads
from asgiws.protocol.keepalive import KeepalivePolicy, ticks
from asgiws.protocol.networks import Networks
from asgiws.telemetry.access import Address, format_address, log_rejection, log_slow_consumer
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG, LineLimit, escape, printable

__all__ = [
    "ASGIApp", "ClientDisconnected", "Connection", "Context", "Deadlines", "Event", "Receive", "Scope", "Send",
    "server_fields",
]  # fmt: skip

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_SWEEP_MOST_S: Final = 1.0
_SWEEP_LEAST_S: Final = 0.02
# For a request that is on its way when another process takes over
_LAST_REQUEST_S: Final = 1.0


class ClientDisconnected(OSError):  # noqa: N818 - what happened, and the name that applications know
    """Raised out of `send` when the connection is closed, for http and websocket alike (ASGI H22, W26).

    An application may let it pass: the server expects it and logs nothing.
    """


class Connection(Protocol):
    """What the server needs of a connection, whichever protocol it speaks."""

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline."""

    def begin_shutdown(self) -> None:
        """Finish what is open and then end: the server stops."""

    def abort(self) -> None:
        """End now."""


class Deadlines:
    """The deadlines in ticks of the sweep; 0 is none.

    The sweep is as coarse as the shortest deadline allows: a quarter of it, at most a second. Only the answer timeout,
    which is short and an act of grace, may be off by a whole tick.
    """

    __slots__ = (
        "answer", "body", "close", "handshake", "head", "idle", "keep_alive", "keepalive", "last", "lifetime", "tick_s",
        "tls", "write",
    )  # fmt: skip

    def __init__(self, config: Config) -> None:
        seconds = (
            config.head_timeout, config.body_timeout, config.keep_alive_timeout, config.handshake_timeout,
            config.close_timeout, config.write_timeout, config.idle_timeout, config.max_lifetime, config.ping_interval,
            config.ping_timeout, 4 * config.answer_timeout, config.ssl_handshake_timeout,
        )  # fmt: skip
        shortest = min((value for value in seconds if value), default=_SWEEP_MOST_S)
        self.tick_s = tick_s = max(_SWEEP_LEAST_S, min(_SWEEP_MOST_S, shortest / 4))
        self.head = ticks(config.head_timeout, tick_s)
        self.body = ticks(config.body_timeout, tick_s)
        self.keep_alive = ticks(config.keep_alive_timeout, tick_s)
        self.handshake = ticks(config.handshake_timeout, tick_s)
        self.close = ticks(config.close_timeout, tick_s)
        self.write = ticks(config.write_timeout, tick_s)
        self.tls = ticks(config.ssl_handshake_timeout, tick_s)
        self.idle = ticks(config.idle_timeout, tick_s)
        self.lifetime = ticks(config.max_lifetime, tick_s)
        self.answer = ticks(config.answer_timeout, tick_s) or 1
        self.last = ticks(_LAST_REQUEST_S, tick_s)
        self.keepalive = KeepalivePolicy(ticks(config.ping_interval, tick_s), ticks(config.ping_timeout, tick_s))


class Context:
    """One worker's shared state."""

    __slots__ = (
        "addresses", "admitted", "app", "began_s", "config", "connections", "counters", "deadlines",
        "default_fields", "deflate_settings", "draining", "encoders", "fault_lines", "forwarded_names", "handshakes",
        "known_heads", "lag_s", "limits", "loop", "proxies", "quiet", "rejection_lines", "replaced", "state",
        "stopping", "tasks",
    )  # fmt: skip

    def __init__(self, app: ASGIApp, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.config = config
        self.loop = loop
        self.limits = config.limits()
        self.proxies = Networks(config.forwarded_allow_ips if config.proxy_headers else ())
        """Proxies that are believed what they say of the requests they forward."""
        self.forwarded_names = config.forwarded_names()
        """Names of the fields in which they say it."""
        self.deflate_settings = config.deflate_settings()
        self.deadlines = Deadlines(config)
        self.began_s = time.monotonic()
        self.counters = Counters()
        self.fault_lines = LineLimit("application errors")
        self.rejection_lines = LineLimit("rejections")
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """The applications that run for a connection; held here so that none is collected while it waits."""
        self.admitted = 0
        """Open connections that count towards the limits: all but those that were refused."""
        self.addresses: Counter[str] = Counter()
        """Open connections by client address; kept only when an option asks for it."""
        self.handshakes: Counter[str] = Counter()
        """Handshakes of this second by client address; kept only when an option asks for it."""
        self.encoders: dict[int, Encoder] = {}
        """Encoders by the window bits of their shared compressor; 0 for no compression."""
        self.known_heads: KnownHeads = {}
        """Request heads of this second; see `HeadReader`."""
        self.default_fields = b""
        """Encoded fields that every response has: Date, Server and those of the operator."""
        self.state: dict[str, Any] | None = None
        """The lifespan state; None when the application has no lifespan."""
        self.lag_s = 0.0
        """How late the last sweep came: what everything else on this loop had to wait too."""
        self.draining = False
        """Whether the server was told to stop: what it still answers says that the connection ends."""
        self.stopping = False
        """Whether connections are being ended; from then on, no new ones come."""
        self.replaced = False
        """Whether another process accepts in this one's place, so that no client has to see a refusal."""
        self.quiet = asyncio.Event()
        """Set when, while stopping, the last connection and the last application have ended."""

    def judge(self, raised: BaseException) -> BaseException | None:
        """Give what an application raised if it is a fault of the application, and count it.

        Its own ClientDisconnected passing through it is none (ASGI C8), alone or as all that a task group raises, nor
        is the cancellation when the server stops, nor GeneratorExit, with which one that ignored it is destroyed. What
        was raised in its place is the framework's word for it most of the time, and gets a line without a traceback.
        """
        if isinstance(raised, ClientDisconnected | GeneratorExit):
            return None
        if self.stopping and isinstance(raised, asyncio.CancelledError):
            return None
        if isinstance(raised, BaseExceptionGroup):
            rest = raised.split(ClientDisconnected)[1]
            if rest is None:
                return None
            followed = rest.split(_follows_disconnect)[1] is None
        else:
            followed = _follows_disconnect(raised)
        if followed:
            if self.fault_lines.admits(logging.INFO):
                LOG.info("application ended with %s after its client had left", printable(type(raised).__name__))
            return None
        self.counters.app_errors += 1
        return raised

    def start(self, application: Coroutine[Any, Any, None]) -> None:
        """Run an application's coroutine as a task of its own; at its end it calls `on_application_end`."""
        self.tasks.add(self.loop.create_task(application))

    def on_application_end(self) -> None:
        """Let go of the current task; a callback of the task would cost a turn through the loop."""
        task = asyncio.current_task(self.loop)
        if task is not None:  # an application that ignored its cancellation is destroyed outside of any task
            self.tasks.discard(task)
        if self.stopping:
            self._check_quiet()

    def remove(self, connection: Connection) -> None:
        """Take an ended connection out of the registry."""
        self.connections.discard(connection)
        if self.stopping:
            self._check_quiet()

    def _check_quiet(self) -> None:
        if not self.connections and not self.tasks:
            self.quiet.set()

    def came(self, client: Address) -> Violation | None:
        """Count a connection in; gives the violation when there are too many already."""
        config = self.config
        if config.max_connections and self.admitted >= config.max_connections:
            return Violation(errors.TOO_MANY_CONNECTIONS, f"{self.admitted} connections, the limit")
        most = config.max_connections_per_address
        if most and client is not None:
            if self.addresses[client[0]] >= most:
                return Violation(errors.TOO_MANY_FROM_ADDRESS, f"{most} connections from this address, the limit")
            self.addresses[client[0]] += 1
        self.admitted += 1
        return None

    def left(self, client: Address) -> None:
        """Count a connection out that was counted in."""
        self.admitted -= 1
        if self.config.max_connections_per_address and client is not None:
            self.addresses[client[0]] -= 1
            if not self.addresses[client[0]]:
                del self.addresses[client[0]]

    def handshake_came(self, client: Address) -> Violation | None:
        """Count a handshake; gives the violation when this second had too many from one address."""
        rate = self.config.handshake_rate
        if rate and client is not None:
            if self.handshakes[client[0]] >= rate:
                return Violation(errors.TOO_MANY_HANDSHAKES, f"over {rate} handshakes in a second, the limit")
            self.handshakes[client[0]] += 1
        return None

    def encoder(self, agreement: Agreement | None) -> Encoder:
        """Give the encoder for what was negotiated: a shared one, or one with a window of its own."""
        settings = self.deflate_settings
        if agreement is not None and agreement.server_takeover:
            return Encoder(settings, Deflater(settings, agreement.server_window_bits, takeover=True), memo=False)
        bits = 0 if agreement is None else agreement.server_window_bits
        encoder = self.encoders.get(bits)
        if encoder is None:
            deflater = Deflater(settings, bits, takeover=False) if bits else None
            self.encoders[bits] = encoder = Encoder(settings, deflater, memo=True)
        return encoder

    def on_slow_consumer(self, client: Address) -> None:
        """Count and log a client that is dropped because it does not read."""
        self.counters.slow_consumers += 1
        if self.rejection_lines.admits(logging.INFO):
            log_slow_consumer(client, self.config.write_timeout)

    def on_upgrade_lost(self, client: Address) -> None:
        """Log a handshake that has become an ordinary request, and is one to the application."""
        if self.rejection_lines.admits(logging.INFO):
            LOG.info(
                "%s sent Sec-WebSocket-Key without Upgrade: websocket, so this is no handshake; a proxy in front may "
                "drop it (nginx needs proxy_http_version 1.1, and proxy_set_header for Upgrade and Connection)",
                format_address(client),
            )

    def reject(self, violation: Violation, client: Address, path: bytes = b"") -> None:
        """Count and log a peer's fault, in a request for that path where it is known."""
        self.counters.rejections[violation.rule.name] += 1
        if self.rejection_lines.admits(logging.INFO):
            log_rejection(client, path, violation)

    def second_passed(self) -> None:
        """Begin another second for what is limited by the second."""
        self.handshakes.clear()
        self.known_heads.clear()
        self.fault_lines.second_passed()
        self.rejection_lines.second_passed()

    def report_fault(self, what: str, where: str | bytes, error: BaseException | None = None) -> None:
        """Log a fault of the application: `what` it did in `where`, which is escaped, with the traceback of `error`."""
        if self.fault_lines.admits(logging.ERROR):
            LOG.error("application %s %s", what, escape(where), exc_info=error)


def server_fields(config: Config, date: str) -> bytes:
    """Encode the fields that every response has."""
    lines = []
    if config.date_header:
        lines.append(f"date: {date}\r\n")
    if config.server_header:
        lines.append("server: asgiws\r\n")
    for entry in config.header:
        name, _, value = entry.partition(":")
        lines.append(f"{name.lower()}: {value.strip()}\r\n")
    return "".join(lines).encode("latin-1")


def _follows_disconnect(raised: BaseException) -> bool:
    """Tell whether it was raised while a ClientDisconnected was handled, as Starlette raises exceptions of its own."""
    before = raised.__cause__ or raised.__context__
    for _ in range(32):  # who sets __cause__ can make a ring
        if before is None or isinstance(before, ClientDisconnected):
            break
        before = before.__cause__ or before.__context__
    return isinstance(before, ClientDisconnected)
