"""Every way in which a peer can break the rules, by name.

A peer's fault is a value, a `Violation`; a fault of our own or of the application is an exception. Each kind of
violation is a `Rule` in the table below: a short name that never changes (log field, metric label, test id), the
close code or HTTP status it leads to, the section it comes from and the rule as one sentence. The README of this
folder holds the same table, made from `RULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["LIMIT_STATUSES", "RULES", "Rule", "Violation"]

LIMIT_STATUSES: Final = frozenset((429, 503))
"""Statuses of the rules that a client breaks because of others, or by being early: it may return later."""


class Rule(NamedTuple):
    """One rule that a peer can break."""

    name: str
    code: int
    """Close code (RFC 6455 §7.4) when 1000 or more, else HTTP status (RFC 9110 §15)."""
    section: str
    text: str


class Violation(NamedTuple):
    """A rule that was broken: `reason` says what was seen and what is allowed."""

    rule: Rule
    reason: str


_rules: dict[str, Rule] = {}
RULES: Final[Mapping[str, Rule]] = MappingProxyType(_rules)


def _rule(name: str, code: int, section: str, text: str) -> Rule:
    _rules[name] = rule = Rule(name, code, section, text)
    return rule


# ---- a connection before its first request; only plain HTTP is answered, the others end without a word

PROXY_NOT_ALLOWED: Final = _rule(
    "proxy-not-allowed", 403, "PROXY protocol §2", "Only `proxy_protocol_allow_ips` connect to a PROXY protocol port."
)
BAD_PROXY_HEADER: Final = _rule(
    "bad-proxy-header", 400, "PROXY protocol §2", "A proxy begins with a PROXY header of version 1 or 2."
)
PROXY_TIMEOUT: Final = _rule(
    "proxy-timeout", 408, "PROXY protocol §2", "A PROXY header arrives within `head_timeout` seconds."
)
PLAIN_HTTP: Final = _rule(
    "plain-http-on-tls-port", 400, "RFC 9110 §4.2.2", "A client of an https port begins with a TLS handshake."
)
NOT_TLS: Final = _rule("not-tls", 400, "RFC 8446 §5.1", "A TLS connection begins with a handshake record.")
TLS_HANDSHAKE: Final = _rule("tls-handshake", 400, "RFC 8446 §4", "A TLS handshake succeeds.")
TLS_TIMEOUT: Final = _rule("tls-timeout", 408, "RFC 8446 §4", "A TLS handshake is done within `head_timeout` seconds.")
BAD_TLS_RECORD: Final = _rule("bad-tls-record", 400, "RFC 8446 §5.2", "A TLS record can be decrypted.")

# ---- HTTP/1.1 request head

MALFORMED_REQUEST_LINE: Final = _rule(
    "malformed-request-line", 400, "RFC 9112 §3", "A request line is method, one space, target, one space, version."
)
BAD_METHOD: Final = _rule("bad-method", 400, "RFC 9110 §9.1", "A method is a token.")
CONNECT_UNSUPPORTED: Final = _rule("connect-unsupported", 501, "RFC 9110 §9.3.6", "This server is not a proxy.")
BAD_TARGET: Final = _rule(
    "bad-target", 400, "RFC 9112 §3.2", "A target is a path, an http URL, or * with OPTIONS, in visible ASCII."
)
REQUEST_LINE_TOO_LONG: Final = _rule(
    "request-line-too-long", 414, "RFC 9112 §3", "The request line is at most `max_head_size` bytes."
)
UNSUPPORTED_VERSION: Final = _rule("unsupported-version", 505, "RFC 9110 §2.5", "The version is HTTP/1.1 or HTTP/1.0.")
NOT_HTTP: Final = _rule("not-http", 400, "RFC 9112 §2.1", "A connection begins with an HTTP/1.1 request line.")
BARE_LINE_END: Final = _rule("bare-line-end", 400, "RFC 9112 §2.2", "Lines end with CR LF; neither occurs alone.")
CONTROL_CHARACTER: Final = _rule(
    "control-character", 400, "RFC 9110 §5.5", "A head has no control character except horizontal tab."
)
FOLDED_HEADER: Final = _rule("folded-header", 400, "RFC 9112 §5.2", "A header field is on one line.")
BAD_HEADER_NAME: Final = _rule(
    "bad-header-name", 400, "RFC 9112 §5.1", "A field name is a token, with no space before the colon."
)
HEAD_TOO_LARGE: Final = _rule("head-too-large", 431, "RFC 6585 §5", "A request head is at most `max_head_size` bytes.")
TOO_MANY_HEADERS: Final = _rule(
    "too-many-headers", 431, "RFC 6585 §5", "A request head has at most `max_headers` fields."
)
MISSING_HOST: Final = _rule("missing-host", 400, "RFC 9112 §3.2", "An HTTP/1.1 request names its host.")
DUPLICATE_HOST: Final = _rule("duplicate-host", 400, "RFC 9112 §3.2", "A request names one host.")
BAD_HOST: Final = _rule("bad-host", 400, "RFC 9112 §3.2", "Host is a name or address with an optional port.")
UNKNOWN_EXPECTATION: Final = _rule(
    "unknown-expectation", 417, "RFC 9110 §10.1.1", "The only expectation is 100-continue."
)

# ---- HTTP/1.1 message body

BAD_CONTENT_LENGTH: Final = _rule(
    "bad-content-length", 400, "RFC 9112 §6.3", "Content-Length is one decimal number, given once."
)
LENGTH_AND_CODING: Final = _rule(
    "length-and-coding", 400, "RFC 9112 §6.1", "A request has Content-Length or Transfer-Encoding, not both."
)
CODING_IN_HTTP_1_0: Final = _rule(
    "coding-in-http-1-0", 400, "RFC 9112 §6.1", "An HTTP/1.0 request has no Transfer-Encoding."
)
BAD_TRANSFER_CODING: Final = _rule(
    "bad-transfer-coding", 400, "RFC 9112 §6.3", "chunked is the last transfer coding of a request, given once."
)
UNKNOWN_TRANSFER_CODING: Final = _rule(
    "unknown-transfer-coding", 501, "RFC 9112 §6.1", "The only transfer coding understood is chunked."
)
BAD_CHUNK_SIZE: Final = _rule(
    "bad-chunk-size", 400, "RFC 9112 §7.1", "A chunk begins with its size, 1 to 15 hexadecimal digits."
)
BAD_CHUNK_EXTENSION: Final = _rule(
    "bad-chunk-extension", 400, "RFC 9112 §7.1.1", "A chunk extension follows a semicolon and is text."
)
CHUNK_LINE_TOO_LONG: Final = _rule(
    "chunk-line-too-long", 400, "RFC 9112 §7.1.1", "A chunk-size line is at most 1,024 bytes."
)
BAD_CHUNK_END: Final = _rule("bad-chunk-end", 400, "RFC 9112 §7.1", "CR LF follows a chunk's data.")
BAD_TRAILER: Final = _rule("bad-trailer", 400, "RFC 9112 §7.1.2", "A trailer section is header fields.")
TRAILERS_TOO_LARGE: Final = _rule(
    "trailers-too-large", 431, "RFC 6585 §5", "A trailer section is at most `max_head_size` bytes."
)
BODY_TOO_LARGE: Final = _rule(
    "body-too-large", 413, "RFC 9110 §15.5.14", "A request body is at most `max_body_size` bytes."
)
HEAD_TIMEOUT: Final = _rule(
    "head-timeout", 408, "RFC 9110 §15.5.9", "A request head arrives within `head_timeout` seconds."
)
BODY_TIMEOUT: Final = _rule(
    "body-timeout", 408, "RFC 9110 §15.5.9", "A request body does not pause for `body_timeout` seconds."
)

# ---- WebSocket opening handshake

HANDSHAKE_METHOD: Final = _rule("handshake-method", 405, "RFC 6455 §4.1", "A handshake is a GET request.")
HANDSHAKE_VERSION: Final = _rule("handshake-http-version", 400, "RFC 6455 §4.1", "A handshake is HTTP/1.1.")
HANDSHAKE_BODY: Final = _rule("handshake-body", 400, "RFC 6455 §4.1", "A handshake has no body.")
HANDSHAKE_CONNECTION: Final = _rule(
    "handshake-connection", 400, "RFC 6455 §4.2.1", "A handshake has Connection: Upgrade."
)
HANDSHAKE_KEY: Final = _rule(
    "handshake-key", 400, "RFC 6455 §4.2.1", "A handshake has one Sec-WebSocket-Key, 16 bytes in base64."
)
WEBSOCKET_VERSION: Final = _rule(
    "websocket-version", 426, "RFC 6455 §4.2.2", "A handshake has Sec-WebSocket-Version: 13."
)
BAD_SUBPROTOCOL: Final = _rule(
    "bad-subprotocol", 400, "RFC 6455 §4.1", "Subprotocols are tokens, separated by commas, each named once."
)
ORIGIN_NOT_ALLOWED: Final = _rule(
    "origin-not-allowed", 403, "RFC 6455 §10.2", "A browser's page comes from an origin in `allowed_origins`."
)
HANDSHAKE_TIMEOUT: Final = _rule(
    "handshake-timeout", 503, "RFC 6455 §4.2.2", "The application accepts within `handshake_timeout` seconds."
)
TOO_MANY_CONNECTIONS: Final = _rule(
    "too-many-connections", 503, "RFC 9110 §15.6.4", "At most `max_connections` connections are open."
)
TOO_MANY_FROM_ADDRESS: Final = _rule(
    "too-many-from-address", 503, "RFC 9110 §15.6.4", "At most `max_connections_per_address` come from one address."
)
TOO_MANY_OF_TENANT: Final = _rule(
    "too-many-of-tenant", 503, "RFC 9110 §15.6.4", "At most so many WebSockets are open as `max_connections_by` allows."
)
TOO_MANY_OPENINGS: Final = _rule(
    "too-many-openings", 503, "RFC 9110 §15.6.4", "One of `max_opening` places is free within `handshake_timeout`."
)
SHED_LAG: Final = _rule(
    "shed-lag", 503, "RFC 9110 §15.6.4", "Nothing new is served while the event loop lags over `shed_lag` seconds."
)
SHED_MEMORY: Final = _rule(
    "shed-memory", 503, "RFC 9110 §15.6.4", "Nothing new is served while the process takes over `shed_memory` bytes."
)
TOO_MANY_HANDSHAKES: Final = _rule(
    "too-many-handshakes", 429, "RFC 6585 §4", "An address begins at most `handshake_rate` handshakes a second."
)

# ---- WebSocket frames

UNMASKED_FRAME: Final = _rule("unmasked-frame", 1002, "RFC 6455 §5.1", "A client masks every frame.")
RESERVED_BITS: Final = _rule(
    "reserved-bits", 1002, "RFC 6455 §5.2", "RSV1, RSV2 and RSV3 are zero unless an extension gives them a meaning."
)
RESERVED_OPCODE: Final = _rule("reserved-opcode", 1002, "RFC 6455 §5.2", "Opcodes are 0, 1, 2, 8, 9 and 10.")
BAD_LENGTH: Final = _rule(
    "bad-length", 1002, "RFC 6455 §5.2", "A length is written in the fewest bytes and below 2^63."
)
CONTROL_TOO_LONG: Final = _rule("control-too-long", 1002, "RFC 6455 §5.5", "A control frame holds at most 125 bytes.")
FRAGMENTED_CONTROL: Final = _rule("fragmented-control", 1002, "RFC 6455 §5.5", "A control frame is not fragmented.")
UNEXPECTED_CONTINUATION: Final = _rule(
    "unexpected-continuation", 1002, "RFC 6455 §5.4", "A continuation frame follows a fragment."
)
EXPECTED_CONTINUATION: Final = _rule(
    "expected-continuation", 1002, "RFC 6455 §5.4", "Only continuations and control frames come between fragments."
)
BAD_UTF8: Final = _rule("bad-utf8", 1007, "RFC 6455 §8.1", "Text is UTF-8.")
BAD_CLOSE_LENGTH: Final = _rule(
    "bad-close-length", 1002, "RFC 6455 §5.5.1", "A Close frame is empty or begins with a code of two bytes."
)
BAD_CLOSE_CODE: Final = _rule(
    "bad-close-code", 1002, "RFC 6455 §7.4", "Close codes are 1000 to 1003, 1007 to 1014 and 3000 to 4999."
)
BAD_CLOSE_REASON: Final = _rule("bad-close-reason", 1007, "RFC 6455 §5.5.1", "A close reason is UTF-8.")
BAD_DEFLATE: Final = _rule("bad-deflate", 1007, "RFC 7692 §7.2.2", "A compressed message is DEFLATE data.")

# ---- WebSocket limits

MESSAGE_TOO_BIG: Final = _rule(
    "message-too-big", 1009, "RFC 6455 §10.4", "A message is at most `max_message_size` bytes, decompressed."
)
FRAME_TOO_BIG: Final = _rule("frame-too-big", 1009, "RFC 6455 §10.4", "A frame is at most `max_frame_size` bytes.")
INFLATE_RATIO: Final = _rule(
    "inflate-ratio", 1009, "RFC 7692 §8", "A message over 1 MiB inflates to at most `max_inflate_ratio` times its size."
)
TOO_MANY_FRAGMENTS: Final = _rule(
    "too-many-fragments", 1009, "RFC 6455 §10.4", "A message has at most 131,072 fragments."
)
TOO_MANY_EMPTY_FRAGMENTS: Final = _rule(
    "too-many-empty-fragments", 1008, "RFC 6455 §10.4", "A message has at most 1,024 empty fragments."
)
CONTROL_FLOOD: Final = _rule(
    "control-flood", 1008, "RFC 6455 §7.4.1", "A client sends at most `max_control_rate` control frames a second."
)
MESSAGE_FLOOD: Final = _rule(
    "message-flood", 1008, "RFC 6455 §7.4.1", "A client sends at most `max_message_rate` messages a second."
)
BYTE_FLOOD: Final = _rule(
    "byte-flood", 1008, "RFC 6455 §7.4.1", "A client sends at most `max_byte_rate` bytes a second."
)
