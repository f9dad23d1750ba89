"""The client of a request, as the proxies on its way report it: X-Forwarded-* and Forwarded (RFC 7239).

Each proxy appends the address from which it received the request, so an entry is as reliable as the node that wrote it.
The last entry was written by the peer of the connection, every other one by the node that the entry to its right names.
So the walk goes from right to left, and continues only from an entry whose address is trusted. The first address that
is not trusted is the client. An entry without an address (`unknown`, `_hidden`, anything malformed) ends the walk too:
the client is then the last address before it, and entries further to the left are ignored.

Protocol and host belong to a hop as the address does. `Forwarded` has them in the same element. The lists of
X-Forwarded-Proto, -Host and -Prefix have them at the same place if they are as long as that of X-Forwarded-For. A list
of another length was not written by every proxy; its last element counts, that of the nearest proxy.

Everything is linear in the bytes, and the walk is bounded. Nothing raises: malformed entries are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from asgiws.protocol.http.fields import TOKEN_BYTES, is_token
from asgiws.protocol.http.head import is_host
from asgiws.protocol.trusted_networks import TrustedNetworks, parse_host

__all__ = [
    "FOR", "FORWARDED", "FORWARDED_FIELDS", "HOST", "PREFIX", "PROTO", "Node", "Source", "parse_forwarded",
    "parse_node",
]  # fmt: skip

FOR: Final = b"x-forwarded-for"
PROTO: Final = b"x-forwarded-proto"
HOST: Final = b"x-forwarded-host"
PREFIX: Final = b"x-forwarded-prefix"
FORWARDED: Final = b"forwarded"
FORWARDED_FIELDS: Final = (FOR, PROTO, HOST, PREFIX, FORWARDED)

# Trusted proxies that a request can have passed. An address costs a microsecond or two, and a head has room for 6,000.
_HOPS_MOST: Final = 64
# The longest address, in brackets, and a port or the obfuscated name of one (RFC 7239 §6.3)
_NODE_MOST_BYTES: Final = 64
_NODES_CACHED: Final = 1024
# A longer Forwarded field is ignored. Ten proxies need about 1,000 bytes; parsing this many takes at most 1 ms.
_FORWARDED_MOST_BYTES: Final = 4096
_SECURE: Final = {b"https": True, b"wss": True, b"http": False, b"ws": False}
_BLANKS: Final = b" \t"
# RFC 7239 §6.3: obfnode = "_" 1*( ALPHA / DIGIT / "." / "_" / "-" )
_OBFUSCATED: Final = dict.fromkeys(b"._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# RFC 3986 §2.3: unreserved characters, which mean the same wherever a prefix is written
_PREFIX_BYTES: Final = b"-._~/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Node = tuple[str, int]
"""An address, and a port or 0."""


class Source(NamedTuple):
    """What trusted proxies report of a request; None where they report nothing, or nothing valid."""

    client: Node | None
    secure: bool | None
    """Whether the client speaks https or wss."""
    host: bytes | None
    """What the client sent as Host."""
    prefix: str | None
    """The path that a proxy removed, with a leading slash and without a trailing one; empty for none."""


def trusted_source(fields: dict[bytes, list[bytes]], trusted: TrustedNetworks) -> Source:
    """Return what trusted proxies report, from the fields that a trusted node sent: values in order, by name.

    `fields` has only the fields that its proxies set. Forwarded replaces all of them but X-Forwarded-Prefix.
    """
    if FORWARDED in fields:
        return _source_of_forwarded(fields[FORWARDED], fields.get(PREFIX, []), trusted)
    nodes = _elements(fields.get(FOR, []))
    place, client = _walk(nodes, trusted)

    def at_place(name: bytes) -> bytes | None:
        if name not in fields:
            return None
        elements = _elements(fields[name])
        if not elements:
            return None
        return elements[place] if len(elements) == len(nodes) else elements[-1]

    proto, host = at_place(PROTO), at_place(HOST)
    return Source(
        client,
        None if proto is None else _SECURE.get(proto.lower()),
        host if host is not None and is_host(host) else None,
        _parse_prefix(at_place(PREFIX)),
    )


def parse_node(value: bytes) -> Node | None:
    """Parse an address, alone or with a port; return None for `unknown`, an obfuscated name and anything else.

    An IPv6 address may be in brackets. It is returned in its shortest form (RFC 5952), so that one client has one name,
    and an IPv4-mapped one as IPv4. An address with a zone means nothing on this machine.
    """
    return _parse_node(value) if len(value) <= _NODE_MOST_BYTES else None


def parse_forwarded(value: bytes) -> list[dict[bytes, bytes]] | None:
    """Parse one Forwarded field (RFC 7239 §4) into its elements, names in lower case; None when it is malformed.

    A quoted string that does not end swallows what a proxy appended, so a line with an error is useless as a whole.
    Blanks around a semicolon are allowed, as some proxies write them.
    """
    elements: list[dict[bytes, bytes]] = [{}]
    at = _skip_blanks(value, 0)
    while True:
        # forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] ), forwarded-pair = token "=" value
        if value[at : at + 1] not in (b"", b";", b","):
            equals = value.find(b"=", at)
            name = value[at:equals].lower()
            # §4: each parameter MUST NOT occur more than once per forwarded-element
            if equals < 0 or not is_token(name) or name in elements[-1]:
                return None
            parsed = _parse_value(value, equals + 1)
            if parsed is None:
                return None
            elements[-1][name], at = parsed
            at = _skip_blanks(value, at)
        delimiter = value[at : at + 1]
        if delimiter == b",":
            elements.append({})
        elif not delimiter:
            return [element for element in elements if element]
        elif delimiter != b";":
            return None
        at = _skip_blanks(value, at + 1)


# ---- the walk


def _walk(nodes: Sequence[bytes], trusted: TrustedNetworks) -> tuple[int, Node | None]:
    """Return the index of the last entry that a trusted node wrote, and the last address on the way there."""
    client: Node | None = None
    place = len(nodes)
    for place in range(len(nodes) - 1, max(-1, len(nodes) - 1 - _HOPS_MOST), -1):
        node = parse_node(nodes[place])
        if node is None:
            break
        client = node
        if node[0] not in trusted:
            break
    return place, client


def _source_of_forwarded(values: list[bytes], prefixes: list[bytes], trusted: TrustedNetworks) -> Source:
    if sum(map(len, values)) > _FORWARDED_MOST_BYTES:
        values = []
    elements: list[dict[bytes, bytes]] = []
    for value in values:
        parsed = parse_forwarded(value)
        if parsed is None:
            elements.clear()
        else:
            elements += parsed
    place, client = _walk([element.get(b"for", b"") for element in elements], trusted)
    # Leftmost first: a proxy may leave the protocol and the host to the one before it.
    trusted_elements = elements[place:]
    proto = next((element[b"proto"] for element in trusted_elements if b"proto" in element), b"")
    host = next((element[b"host"] for element in trusted_elements if b"host" in element), b"")
    prefix = _elements(prefixes)
    return Source(
        client,
        _SECURE.get(proto.lower()),
        host if is_host(host) else None,
        _parse_prefix(prefix[-1] if prefix else None),
    )


# ---- elements


def _elements(values: list[bytes]) -> list[bytes]:
    """Split lists at their commas; empty elements are none (RFC 9110 §5.6.1)."""
    return [element for value in values for part in value.split(b",") if (element := part.strip(_BLANKS))]


@lru_cache(_NODES_CACHED)
def _parse_node(value: bytes) -> Node | None:
    if not value.isascii():
        return None
    text = value.decode("ascii")
    colon, port = "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or ":" not in host or colon not in ("", ":"):
            return None
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    else:
        host = text
    number = _parse_port(port) if colon else 0
    if number is None or "%" in host:
        return None
    address = parse_host(host)
    return None if address is None else (str(address), number)


def _parse_port(text: str) -> int | None:
    """RFC 7239 §6: node-port = port / obfport; the latter is 0."""
    if text.isdigit():
        return int(text) if len(text) <= 5 and int(text) <= 65535 else None
    return 0 if len(text) > 1 and text[0] == "_" and text.translate(_OBFUSCATED) == "" else None


def _parse_prefix(value: bytes | None) -> str | None:
    """Check a prefix as a path that leads nowhere else: not to another host, and not upwards."""
    if value is None:
        return None
    path = value.rstrip(b"/")
    if not value.startswith(b"/") or b"//" in value or path.translate(None, _PREFIX_BYTES):
        return None
    if any(segment in (b".", b"..") for segment in path.split(b"/")):
        return None
    return path.decode("ascii")


def _skip_blanks(value: bytes, at: int) -> int:
    while value[at : at + 1] in (b" ", b"\t"):
        at += 1
    return at


def _parse_value(value: bytes, at: int) -> tuple[bytes, int] | None:
    """Parse a token or a quoted string (RFC 9110 §5.6.4); return it and its end, None when it is neither."""
    if value[at : at + 1] != b'"':
        end = at
        while end < len(value) and value[end] in TOKEN_BYTES:
            end += 1
        return (value[at:end], end) if end > at else None
    text, escaped = bytearray(), False
    for end in range(at + 1, len(value)):
        byte = value[end]
        if escaped or byte not in b'\\"':
            text.append(byte)
            escaped = False
        elif byte == 0x5C:
            escaped = True
        else:
            return bytes(text), end + 1
    return None
