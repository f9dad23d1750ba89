"""The opening handshake of RFC 6455 §4, server side.

`check_handshake` checks a request for an upgrade to `websocket` and returns what it asks for; `encode_accept` encodes
the 101. Extension offers are parsed here (§9.1) and answered by `asgiws.protocol.websocket.deflate`.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import is_token, printable
from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.http.response import encode_fields, without_field

__all__ = ["ExtensionOffer", "Handshake", "check_handshake", "encode_accept", "origin_allowed"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Browsers send 60 bytes, libraries up to 200
_EXTENSIONS_MOST_BYTES: Final = 2048
_KNOWN_MOST_BYTES: Final = 256
# Fields of a 101 that only the server may set
_RESERVED_FIELDS: Final = frozenset(
    b"connection upgrade content-length transfer-encoding sec-websocket-accept sec-websocket-extensions "
    b"sec-websocket-protocol sec-websocket-version".split()
)


class ExtensionOffer(NamedTuple):
    """One element of Sec-WebSocket-Extensions: a name and its parameters, in order. A value may be None."""

    name: str
    parameters: tuple[tuple[str, str | None], ...]


class Handshake(NamedTuple):
    """What a valid handshake asks for."""

    key: bytes
    subprotocols: list[str]
    extensions: Sequence[ExtensionOffer]
    """The offers of permessage-deflate."""
    origin: bytes | None


def check_handshake(head: RequestHead) -> Handshake | Violation:
    """Check a handshake request (RFC 6455 §4.2.1), cheapest rule first."""
    if head.method != "GET":
        return Violation(errors.HANDSHAKE_METHOD, f"handshake by {printable(head.method.encode())}, allowed: GET")
    if head.http_version != "1.1":
        return Violation(
            errors.HANDSHAKE_VERSION,
            "handshake in HTTP/1.0, allowed: HTTP/1.1 (a proxy in front may need to be configured for it)",
        )
    if head.chunked or head.content_length:
        return Violation(errors.HANDSHAKE_BODY, "handshake with a body, none is allowed")
    if b"upgrade" not in head.connection:
        return Violation(
            errors.HANDSHAKE_CONNECTION,
            "Upgrade: websocket without Connection: Upgrade (a proxy in front may drop it), both are needed",
        )
    keys: list[bytes] = []
    versions: list[bytes] = []
    protocols: list[bytes] = []
    extensions: list[bytes] = []
    origin: bytes | None = None
    for name, value in head.headers:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"sec-websocket-protocol":
            protocols.append(value)
        elif name == b"sec-websocket-extensions":
            extensions.append(value)
        elif name == b"origin":
            origin = value
    # Before the version: without a key no version is right, and a 426 would suggest that another one is.
    if len(keys) != 1 or not _is_key(keys[0]):
        seen = printable(b", ".join(keys)) if keys else "none"
        return Violation(errors.HANDSHAKE_KEY, f"Sec-WebSocket-Key: {seen}, allowed: one of 16 bytes in base64")
    if versions != [b"13"]:
        seen = printable(b", ".join(versions)) if versions else "none"
        return Violation(errors.WEBSOCKET_VERSION, f"Sec-WebSocket-Version: {seen}, allowed: 13")
    subprotocols = _parse_subprotocols(protocols)
    if isinstance(subprotocols, Violation):
        return subprotocols
    offers = _parse_deflate_offers(extensions) if extensions else []
    return Handshake(keys[0], subprotocols, offers, origin)


def accept_value(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers `key` (RFC 6455 §4.2.2, item 5.4)."""
    return binascii.b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def encode_accept(
    handshake: Handshake,
    subprotocol: str | None,
    extension: bytes | None,
    headers: Iterable[Iterable[object]],
    default_fields: bytes,
) -> bytes:
    """Encode the 101 response (RFC 6455 §4.2.2). Raises ValueError or TypeError for fields that are not allowed in it.

    `headers` come from the application (ASGI W6), `extension` from the negotiation, `default_fields` from the server.
    """
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
        accept_value(handshake.key),
        b"\r\n",
    ]
    if subprotocol is not None:
        # §4.2.2: the value chosen MUST be one that the client offered
        if subprotocol not in handshake.subprotocols:
            raise ValueError(f"subprotocol {subprotocol!r}, allowed: one of {handshake.subprotocols} or None")
        lines.append(b"sec-websocket-protocol: %s\r\n" % subprotocol.encode("ascii"))
    if extension is not None:
        lines.append(b"sec-websocket-extensions: %s\r\n" % extension)
    for name, value in headers:
        line = encode_fields([(name, value)])
        field = line.partition(b":")[0]
        if field in _RESERVED_FIELDS:
            raise ValueError(f"header {field.decode()} in websocket.accept, the server writes it (ASGI websocket)")
        if field == b"date" or field == b"server":
            default_fields = without_field(default_fields, field)
        lines.append(line)
    lines.append(default_fields)
    lines.append(b"\r\n")
    return b"".join(lines)


def origin_allowed(origin: bytes | None, allowed: tuple[str, ...]) -> bool:
    """Return whether a page of `origin` may connect: an exact origin, or `*.example.com` for the hosts below it.

    A client that sends no Origin is not a browser and may connect (RFC 6455 §10.2).
    """
    if not allowed or origin is None or "*" in allowed:
        return True
    text = origin.decode("latin-1").lower()
    host = text.partition("://")[2].rpartition(":")[0] if text.count(":") > 1 else text.partition("://")[2]
    return any(
        host.endswith(entry[1:]) and len(host) > len(entry) - 1 if entry.startswith("*.") else text == entry
        for entry in (item.lower().rstrip("/") for item in allowed)
    )


def _is_key(value: bytes) -> bool:
    # base64 of 16 bytes is 22 characters and "=="; strict mode refuses everything else
    if len(value) != 24:
        return False
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except binascii.Error:
        return False


def _parse_subprotocols(values: list[bytes]) -> list[str] | Violation:
    """RFC 6455 §4.1, item 10: tokens, unique; several fields are one list (§11.3.4)."""
    found: dict[str, None] = {}  # in order; a list would make thousands of names quadratic
    for value in values:
        for part in value.split(b","):
            name = part.strip(b" \t")
            if not name:
                continue
            if not is_token(name) or name.decode("ascii") in found:
                return Violation(
                    errors.BAD_SUBPROTOCOL, f"subprotocols {printable(value)}, allowed: tokens, each named once"
                )
            found[name.decode("ascii")] = None
    return list(found)


# ---- extensions (RFC 6455 §9.1)


def _parse_deflate_offers(values: list[bytes]) -> list[ExtensionOffer]:
    if len(values) == 1 and len(values[0]) <= _KNOWN_MOST_BYTES:
        return _known_offers(values[0])  # nearly always, and what browsers send is always the same
    return parse_extensions(values, "permessage-deflate")


@lru_cache(64)
def _known_offers(value: bytes) -> list[ExtensionOffer]:
    return parse_extensions([value], "permessage-deflate")


def parse_extensions(values: list[bytes], wanted: str | None = None) -> list[ExtensionOffer]:
    """Parse Sec-WebSocket-Extensions: the elements that name the `wanted` extension, or all.

    Skip an element that breaks the grammar, as if it were not offered. Linear in the input and free of regular
    expressions. An offer may always be declined (§9.1), so none of a client that sends over 2 KiB of them is parsed:
    64 KiB would take 40 ms.
    """
    offers: list[ExtensionOffer] = []
    if sum(map(len, values)) > _EXTENSIONS_MOST_BYTES:
        return offers
    for value in values:
        for element in _split_quoted(value, ","):
            parts = [part.strip(" \t") for part in _split_quoted(element.encode("latin-1"), ";")]
            if wanted not in (None, parts[0].lower()) or not is_token(parts[0].encode("latin-1")):
                continue
            parameters = [_parse_parameter(part) for part in parts[1:]]
            if None not in parameters:
                offers.append(ExtensionOffer(parts[0].lower(), tuple(p for p in parameters if p is not None)))
    return offers


def _split_quoted(value: bytes, separator: str) -> list[str]:
    """Split at each `separator` outside quotes."""
    text = value.decode("latin-1")
    if '"' not in text:
        return text.split(separator)
    parts: list[str] = []
    start = 0
    quoted = escaped = False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts


def _parse_parameter(text: str) -> tuple[str, str | None] | None:
    name, equals, value = (piece.strip(" \t") for piece in text.partition("="))
    if not is_token(name.encode("latin-1")):
        return None
    if not equals:
        return name.lower(), None
    if len(value) >= 2 and value[0] == value[-1] == '"':
        # §9.1: a quoted value, unescaped, MUST be a token, so no backslash is escaped, nor is the closing quote
        value = value[1:-1]
        value = "" if "\\\\" in value or value.endswith("\\") else value.replace("\\", "")
    return (name.lower(), value) if is_token(value.encode("latin-1")) else None
