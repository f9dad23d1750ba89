"""Faults of clients and applications: always counted, and logged up to a number of lines a second."""

from __future__ import annotations

import asyncio
import logging

from asgiws.config.options import Config
from asgiws.protocol.errors import Violation
from asgiws.protocol.printable import escape, printable
from asgiws.server.asgi import ClientDisconnected
from asgiws.server.state.registry import HANDING_OVER, Registry
from asgiws.telemetry.access_log import ClientAddress, format_address, log_rejection, log_slow_consumer
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG, LineLimit

__all__ = ["Incidents"]


class Incidents:
    """Counts and logs rejections, slow clients and faults of the application."""

    __slots__ = ("_config", "_counters", "_fault_lines", "_registry", "_rejection_lines")

    def __init__(self, config: Config, counters: Counters, registry: Registry) -> None:
        self._config = config
        self._counters = counters
        self._registry = registry
        self._fault_lines = LineLimit("application errors")
        self._rejection_lines = LineLimit("rejections")

    def fault_in(self, raised: BaseException, *, client_left: bool = False) -> BaseException | None:
        """Return what an application raised if it is a fault of the application, and count it; None if it is not.

        Not a fault: our ClientDisconnected, alone or as the only content of an exception group (ASGI C8); cancellation
        when the server stops; GeneratorExit, with which an application that ignored its cancellation is destroyed. An
        exception that was raised while ClientDisconnected was handled is usually the framework's translation of it, and
        gets a line at debug level. Whatever else an application raises after its `client_left` gets a line without a
        traceback.
        """
        if isinstance(raised, ClientDisconnected | GeneratorExit):
            return None
        if self._registry.phase >= HANDING_OVER and isinstance(raised, asyncio.CancelledError):
            return None
        if isinstance(raised, BaseExceptionGroup):
            rest = raised.split(ClientDisconnected)[1]
            if rest is None:
                return None
            followed = rest.split(_follows_disconnect)[1] is None
        else:
            followed = _follows_disconnect(raised)
        if followed or client_left:
            level = logging.DEBUG if followed else logging.INFO
            if self._fault_lines.admits(level):
                LOG.log(level, "application ended with %s after its client had left", printable(type(raised).__name__))
            return None
        self._counters.app_errors += 1
        return raised

    def on_slow_consumer(self, client: ClientAddress) -> None:
        """Count and log a client that is dropped because it does not read."""
        self._counters.slow_consumers += 1
        if self._rejection_lines.admits(logging.INFO):
            log_slow_consumer(client, self._config.write_timeout)

    def on_blocked_loop(self, seconds: float) -> None:
        """Log that nothing was served for a while."""
        LOG.warning(
            "the event loop was blocked for %.1f s, and all connections with it; look in the application for calls "
            "that wait without await, such as time.sleep or a synchronous client", seconds,
        )  # fmt: skip

    def on_shedding(self, violation: Violation) -> None:
        """Log that nothing new is served from now on."""
        what = "WebSockets and requests" if self._config.shed_requests else "WebSockets"
        LOG.warning("refusing new %s: %s (--%s); open ones are served", what, violation.reason, violation.rule.name)

    def on_shedding_over(self, seconds: float, refused_count: int) -> None:
        """Log that it is served again."""
        LOG.warning("no longer refusing, after %.1f s in which %d were refused", seconds, refused_count)

    def on_upgrade_lost(self, client: ClientAddress) -> None:
        """Log a handshake that has become an ordinary request, and is one to the application."""
        if self._rejection_lines.admits(logging.INFO):
            LOG.info(
                "%s sent Sec-WebSocket-Key without Upgrade: websocket, so this is no handshake; a proxy in front may "
                "drop it (nginx needs proxy_http_version 1.1, and proxy_set_header for Upgrade and Connection)",
                format_address(client),
            )

    def reject(self, violation: Violation, client: ClientAddress, path: bytes = b"", code: int = 0) -> None:
        """Count and log a peer's fault, in a request for that path where it is known.

        `code` is the status or close code that the client receives, if it is not that of the rule.
        """
        self._counters.rejections[violation.rule.name] += 1
        if self._rejection_lines.admits(logging.INFO):
            log_rejection(client, path, violation, code or violation.rule.code)

    def report_fault(self, what: str, where: str | bytes, error: BaseException | None = None) -> None:
        """Log a fault of the application: `what` it did in `where`, which is escaped, with the traceback of `error`."""
        if self._fault_lines.admits(logging.ERROR):
            LOG.error("application %s %s", what, escape(where), exc_info=error)

    def second_passed(self) -> None:
        """Start the next second of the limits on log lines."""
        self._fault_lines.second_passed()
        self._rejection_lines.second_passed()


def _follows_disconnect(raised: BaseException) -> bool:
    """Return whether it was raised while a ClientDisconnected was handled, as Starlette raises its own exceptions."""
    before = raised.__cause__ or raised.__context__
    for _ in range(32):  # an application that sets __cause__ can make a ring
        if before is None or isinstance(before, ClientDisconnected):
            break
        before = before.__cause__ or before.__context__
    return isinstance(before, ClientDisconnected)
