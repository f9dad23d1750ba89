"""Lines about clients: an HTTP response, the start, end or refusal of a WebSocket, and a client that broke a rule.

Each record has its values three times: in its text; escaped, as attributes, for the formatters of a `--log-config`; and
unescaped in `record.fields`, for JSON. The keys are those of the table in this folder's README. Nothing is formatted
for a level that is filtered.

A path is logged as it was sent. The query of a WebSocket is not logged: browsers cannot send a header with a handshake,
so it often holds a token.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from asgiws.protocol.errors import Violation
from asgiws.protocol.printable import MOST_CHARACTERS, escape
from asgiws.telemetry.logs import ACCESS, LOG

__all__ = [
    "ClientAddress", "format_address", "log_http", "log_rejection", "log_slow_consumer", "log_websocket_end",
    "log_websocket_open", "log_websocket_refused",
]  # fmt: skip

ClientAddress = tuple[str, int] | None
"""A client's address and port; None on a Unix socket."""

_INFO: Final = logging.INFO
_TEXTS: Final = {
    event: f"%(client)s {text}"
    for event, text in {
        "http": '"%(method)s %(target)s HTTP/%(http_version)s" %(status)s %(bytes_out)d bytes in %(ms).1fms%(more)s',
        "websocket-open": '"WebSocket %(path)s" open subprotocol=%(subprotocol)s compression=%(compression)s',
        "websocket-refused": '"WebSocket %(path)s" refused %(status)s by %(ended_by)s in %(ms).1fms%(more)s',
        "websocket-end": '"WebSocket %(path)s" closed %(code)s by %(ended_by)s after %(duration_s).3fs, '
        "in %(messages_in)d messages %(bytes_in)d bytes, out %(messages_out)d messages %(bytes_out)d bytes, "
        "subprotocol=%(subprotocol)s compression=%(compression)s%(more)s",
        "rejected": "rejected %(code)s %(path)s: %(reason)s (%(rule)s)",
        "slow-consumer": "slow consumer dropped: it read nothing for %(duration_s)g s",
    }.items()
}

# Every record has all of these attributes, so that a formatter can use any of them.
_NOTHING: Final = dict.fromkeys(
    (
        "method", "path", "query", "http_version", "status", "complete", "subprotocol", "compression", "code", "reason",
        "ended_by", "rule", "duration_s", "messages_in", "bytes_in", "messages_out", "bytes_out", "round_trip_s",
    ),
    "-",
)  # fmt: skip


def format_address(address: ClientAddress) -> str:
    """Return an address for logs; "-" for a client on a Unix socket, which has none."""
    if address is None:
        return "-"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_http(
    client: ClientAddress, method: str, path: bytes, query: bytes, http_version: str, *, status: int, bytes_out: int,
    seconds: float, complete: bool,
) -> None:  # fmt: skip
    """Log an HTTP response. An incomplete one ended with its connection; its status is 0 if it had not started."""
    if ACCESS.isEnabledFor(_INFO):
        values = {
            "method": method, "path": path, "query": query or None, "http_version": http_version,
            "status": status or None, "bytes_out": bytes_out, "duration_s": round(seconds, 6), "complete": complete,
        }  # fmt: skip
        target = escape(path + b"?" + query if query else path)
        _log(ACCESS, "http", client, values, target=target, ms=seconds * 1000, more="" if complete else " incomplete")


def log_websocket_open(client: ClientAddress, path: bytes, subprotocol: str | None, compression: str) -> None:
    """Log a handshake that was accepted."""
    if ACCESS.isEnabledFor(_INFO):
        values = {"path": path, "subprotocol": subprotocol, "compression": compression}
        _log(ACCESS, "websocket-open", client, values)


def log_websocket_refused(
    client: ClientAddress, path: bytes, status: int, *, ended_by: str, rule: str, seconds: float
) -> None:
    """Log a handshake that was answered with an HTTP response, or with none: then the status is 0."""
    if ACCESS.isEnabledFor(_INFO):
        values = {
            "path": path, "status": status or None, "ended_by": ended_by, "rule": rule or None,
            "duration_s": round(seconds, 6),
        }  # fmt: skip
        more = f" rule={rule}" if rule else ""
        _log(ACCESS, "websocket-refused", client, values, ms=seconds * 1000, more=more)


def log_websocket_end(
    client: ClientAddress, path: bytes, *, subprotocol: str | None, compression: str, code: int, reason: str,
    ended_by: str, rule: str, seconds: float, messages_in: int, bytes_in: int, messages_out: int, bytes_out: int,
    round_trip_s: float,
) -> None:  # fmt: skip
    """Log the end of a WebSocket: who ended it, with which code, and its traffic."""
    if ACCESS.isEnabledFor(_INFO):
        values = {
            "path": path, "subprotocol": subprotocol, "compression": compression, "code": code,
            "reason": reason or None, "ended_by": ended_by, "rule": rule or None, "duration_s": round(seconds, 6),
            "messages_in": messages_in, "bytes_in": bytes_in, "messages_out": messages_out, "bytes_out": bytes_out,
            "round_trip_s": round(round_trip_s, 6) or None,
        }  # fmt: skip
        more = f' "{escape(reason)}"' if reason else ""
        more += f" rule={rule}" if rule else ""
        more += f" round-trip={round_trip_s * 1000:.1f}ms" if round_trip_s else ""
        _log(ACCESS, "websocket-end", client, values, more=more)


def log_rejection(client: ClientAddress, path: bytes, violation: Violation, code: int) -> None:
    """Log on the server's logger that a client broke a rule; the path is empty if none was read."""
    values = {"path": path or None, "code": code, "reason": violation.reason, "rule": violation.rule.name}
    _log(LOG, "rejected", client, values)


def log_slow_consumer(client: ClientAddress, seconds: float) -> None:
    """Log on the server's logger that a client was dropped because it had read nothing for that long."""
    _log(LOG, "slow-consumer", client, {"duration_s": seconds})


def _log(
    logger: logging.Logger, event: str, client: ClientAddress, values: Mapping[str, object], **shown: object
) -> None:
    """Log an event with its values. `shown` has further parts of its text, which the caller has escaped."""
    address = None if client is None else format_address(client)
    fields: dict[str, object] = {"event": event, "client": address, **values}
    shown |= fields
    for name, value in fields.items():
        if value is None:
            shown[name] = "-"
        elif isinstance(value, str | bytes):
            text = value if isinstance(value, str) else value.decode("latin-1")
            fields[name] = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."
            shown[name] = escape(text)
    # As `Logger.info` does, without its search for the caller: 2 us of 12.
    record = logger.makeRecord(logger.name, _INFO, "", 0, _TEXTS[event], (shown,), None)
    record.__dict__.update(_NOTHING | shown, fields=fields)
    logger.handle(record)
