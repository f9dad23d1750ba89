"""Access lines: one for an HTTP response, one when a WebSocket opens, one when it ends or is refused."""

from __future__ import annotations

from asgiws.telemetry.logs import ACCESS, escape

__all__ = ["Address", "format_address", "log_http", "log_websocket_end", "log_websocket_open", "log_websocket_refused"]

Address = tuple[str, int] | None
"""A client's address and port; None on a Unix socket."""


def format_address(address: Address) -> str:
    """Give an address for logs; "-" for a client on a Unix socket, which has none."""
    if address is None:
        return "-"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_http(
    client: Address, method: str, target: bytes, version: str, status: int, sent_bytes: int, seconds: float
) -> None:
    """Log an HTTP response that is complete."""
    ACCESS.info(
        '%s "%s %s HTTP/%s" %d %d bytes in %.1fms',
        format_address(client), escape(method), escape(target), version, status, sent_bytes, seconds * 1000,
    )  # fmt: skip


def log_websocket_open(client: Address, path: str, subprotocol: str | None, compression: str) -> None:
    """Log a handshake that was accepted."""
    ACCESS.info(
        '%s "WebSocket %s" open subprotocol=%s compression=%s',
        format_address(client), escape(path), escape(subprotocol or "-"), compression,
    )  # fmt: skip


def log_websocket_refused(client: Address, path: str, status: int) -> None:
    """Log a handshake that was answered with an HTTP response."""
    ACCESS.info('%s "WebSocket %s" refused %d', format_address(client), escape(path), status)


def log_websocket_end(
    client: Address, path: str, *, code: int, reason: str, ended_by: str, rule: str, seconds: float,
    messages_in: int, bytes_in: int, messages_out: int, bytes_out: int, round_trip_s: float,
) -> None:  # fmt: skip
    """Log the end of an open connection: who ended it, with which code, and what it carried."""
    extra = [f' "{escape(reason)}"'] if reason else []
    extra += [f" {rule}"] if rule else []
    extra += [f" round-trip={round_trip_s * 1000:.1f}ms"] if round_trip_s else []
    ACCESS.info(
        '%s "WebSocket %s" closed %d by %s after %.3fs, in %d messages %d bytes, out %d messages %d bytes%s',
        format_address(client), escape(path), code, ended_by, seconds, messages_in, bytes_in, messages_out, bytes_out,
        "".join(extra),
    )  # fmt: skip
