"""Request heads of HTTP/1.1 (RFC 9112 §2 to §6), read strictly.

`parse_head` turns one head into a `RequestHead`, or into the `Violation` that says what is wrong with it. Nothing that
two parties could read in two ways is accepted: no bare CR or LF, no folded field, no second Content-Length, no
Content-Length with Transfer-Encoding. Nothing is guessed.

Parsing is one split on CR LF and one scan that removes every legal byte: what remains has to be exactly the line ends
of the split. Field names are looked up in a table of the usual ones, so that no name is checked or lower-cased twice.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import LOWER_NAMES, TEXT_BYTES, TOKEN_BYTES, Header, header_tokens, is_token, printable
from asgiws.protocol.limits import Limits

__all__ = [
    "RequestHead", "is_host", "line_too_long", "not_http", "parse_fields", "parse_head", "with_start",
]  # fmt: skip

# RFC 3986 §2: the bytes of a path or query, and the brackets, braces, quotes and bars that clients leave unescaped
_TARGET_BYTES: Final = bytes(range(0x21, 0x7F)).replace(b"#", b"")
# RFC 3986 §3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ); an IPv4 address looks like one
_NAME_AND_PORT: Final = re.compile(rb"(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(?::[0-9]*)?")
_PORT: Final = re.compile(rb"(?::[0-9]*)?")
# IP-literal = "[" ( IPv6address / IPvFuture ) "]", and the zone that RFC 6874 §2 allows after the first
_FUTURE: Final = re.compile(rb"v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+", re.IGNORECASE)
_ZONE: Final = re.compile(rb"(?:[\w.~-]|%[0-9A-Fa-f]{2})+")

# Of longer field lines each is parsed: what is remembered stays below a megabyte.
_KNOWN_MOST_BYTES: Final = 256

_FORWARDED: Final = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-prefix x-forwarded-proto".split()
)
# Fields that decide how the message is framed, what the connection becomes or whose it is.
_DECIDING: Final = _FORWARDED | frozenset(
    b"connection content-length expect host sec-websocket-key te transfer-encoding upgrade".split()
)


class RequestHead(NamedTuple):
    """A request head that passed every check."""

    method: str
    """In upper case, as ASGI has it and as everything here compares it."""
    target: bytes
    """The path as it was sent, without the query (ASGI `raw_path`)."""
    path: str
    """Percent-decoded, UTF-8."""
    query: bytes
    http_version: str
    """"1.0" or "1.1"."""
    content_length: int | None
    """None: no Content-Length; the body is empty unless `chunked`."""
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: tuple[bytes, ...]
    """Protocols of the Upgrade field in lower case; empty where there is none."""
    connection: tuple[bytes, ...]
    """Options of the Connection field in lower case."""
    upgrade_lost: bool
    """Whether there is a Sec-WebSocket-Key and no Upgrade: a proxy may have dropped that from a handshake."""
    forwarded: bool
    """Whether a field says what a proxy has forwarded, see `asgiws.protocol.http.forwarded`."""
    te_trailers: bool
    """Whether trailers may be sent: the client says `TE: trailers` (RFC 9110 §6.5.1)."""
    headers: list[Header]
    """Shared by all requests with the same bytes: copied for each, never changed."""


def parse_head(head: bytes, limits: Limits) -> RequestHead | Violation:
    """Parse a head without its final empty line, with every check of RFC 9112 that needs no body."""
    lines = head.split(b"\r\n")
    if head.translate(None, TEXT_BYTES) != b"\r\n" * (len(lines) - 1):
        return _illegal_byte(head)
    if len(lines[0]) > limits.request_line_bytes:
        return line_too_long(len(lines[0]), limits)
    if len(lines) - 1 > limits.header_count:
        return Violation(errors.TOO_MANY_HEADERS, f"{len(lines) - 1} header fields, limit {limits.header_count}")

    parts = _parse_request_line(lines[0], head)
    if isinstance(parts, Violation):
        return parts
    method, target, version = parts
    # RFC 9110 §9.1: methods are case-sensitive; but ASGI has them in upper case, so `get` is GET from here on
    method = method.upper()

    fields = parse_fields(lines[1:])
    if isinstance(fields, Violation):
        return fields
    headers, deciding = fields
    located = _locate(method, target)
    if isinstance(located, Violation):
        return located
    path, text, query, authority = located
    fault = _check_host(deciding.get(b"host"), version, authority, headers)
    if fault is not None:
        return fault
    framing = _framing(deciding, version, limits)
    if isinstance(framing, Violation):
        return framing
    content_length, chunked = framing

    connection = header_tokens(deciding.get(b"connection", ()))
    # RFC 9110 §10.1.1: Expect = #expectation, a list in which one may be repeated and members may be empty
    expected = set(header_tokens(deciding[b"expect"])) if b"expect" in deciding else set()
    if expected - {b"100-continue"}:
        seen = printable(b", ".join(deciding[b"expect"]))
        return Violation(errors.UNKNOWN_EXPECTATION, f"Expect: {seen}, allowed: 100-continue")
    te, upgrade = deciding.get(b"te"), deciding.get(b"upgrade")
    return RequestHead(
        method=method.decode("ascii"),
        target=path,
        path=text,
        query=query,
        http_version="1.1" if version == b"HTTP/1.1" else "1.0",
        headers=headers,
        content_length=content_length,
        chunked=chunked,
        # RFC 9112 §9.3: close takes precedence
        keep_alive=b"close" not in connection and (version == b"HTTP/1.1" or b"keep-alive" in connection),
        # RFC 9110 §10.1.1: a server MUST ignore a 100-continue expectation in an HTTP/1.0 request
        expect_continue=bool(expected) and version == b"HTTP/1.1",
        upgrade=header_tokens(upgrade) if upgrade else (),
        connection=connection,
        upgrade_lost=b"sec-websocket-key" in deciding and upgrade is None,
        forwarded=not _FORWARDED.isdisjoint(deciding),
        te_trailers=te is not None and b"trailers" in header_tokens(te),
    )


def _parse_request_line(line: bytes, head: bytes) -> list[bytes] | Violation:
    """Return method, target and version. RFC 9112 §3: request-line = method SP request-target SP HTTP-version."""
    parts = line.split(b" ")
    if len(parts) != 3:
        if not parts[0] or not is_token(parts[0]):
            return not_http(head[:8])
        return Violation(
            errors.MALFORMED_REQUEST_LINE,
            f"request line of {len(parts)} parts, allowed: method, one space, target, one space, version",
        )
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        # RFC 9110 §2.5: a higher minor version is processed as the highest that the recipient implements
        if len(version) != 8 or version[:7] != b"HTTP/1." or not b"2" <= version[7:] <= b"9":
            return _bad_version(version)
        version = b"HTTP/1.1"
    if method != b"GET" and not is_token(method):
        return Violation(errors.BAD_METHOD, f"method {printable(method)}, allowed: a token")
    return [method, target, version]


def with_start(known: RequestHead, start: bytes, limits: Limits) -> RequestHead | None:
    """Return a head with the fields of a known one, and the method and target of `start`.

    Returns None for a `start` that needs `parse_head`: one that breaks a rule, or replaces the Host field.
    """
    method, _, target = start.partition(b" ")
    method = method.upper()
    located = _locate(method, target)
    # " HTTP/1.1" is 9 bytes long.
    if isinstance(located, Violation) or len(start) + 9 > limits.request_line_bytes:
        return None
    if method != b"GET" and not is_token(method):
        return None
    path, text, query, authority = located
    return None if authority is not None else RequestHead(method.decode("ascii"), path, text, query, *known[4:])


def parse_fields(lines: list[bytes]) -> tuple[list[Header], dict[bytes, list[bytes]]] | Violation:
    """Parse field lines (RFC 9112 §5); also return the values of the fields that decide framing, by name."""
    headers: list[Header] = []
    deciding: dict[bytes, list[bytes]] = {}
    for line in lines:
        header = _known_field(line) if len(line) <= _KNOWN_MOST_BYTES else _parse_field(line)
        if header is None:
            return _bad_field(line)
        headers.append(header)
        name = header[0]
        if name in _DECIDING:
            if name in deciding:
                deciding[name].append(header[1])
            else:
                deciding[name] = [header[1]]
    return headers, deciding


def _parse_field(line: bytes) -> Header | None:
    spelling, colon, value = line.partition(b":")
    name = LOWER_NAMES.get(spelling)
    if name is None:
        if not spelling or spelling.translate(None, TOKEN_BYTES):
            return None
        name = spelling.lower()
    return (name, value.strip(b" \t")) if colon else None


# Clients send many equal lines. They are parsed once, and the scopes of idle connections share name and value.
_known_field: Final = lru_cache(1024)(_parse_field)


# ---- the request line


def not_http(start: bytes) -> Violation:
    """Return the violation of a connection that does not begin with a request line."""
    if start.startswith(b"\x16\x03"):
        return Violation(errors.NOT_HTTP, "TLS handshake on a plain-text port, allowed: http:// and ws://")
    return Violation(errors.NOT_HTTP, f"first bytes {printable(start)}, allowed: an HTTP/1.1 request line")


def line_too_long(size: int, limits: Limits) -> Violation:
    """Return the violation of a request line of so many bytes."""
    return Violation(
        errors.REQUEST_LINE_TOO_LONG, f"request line of {size} bytes or more, limit {limits.request_line_bytes}"
    )


def _bad_version(version: bytes) -> Violation:
    # RFC 9112 §2.3: HTTP-version = "HTTP" "/" DIGIT "." DIGIT
    if len(version) == 8 and version[:5] + version[6:7] == b"HTTP/." and (version[5:6] + version[7:]).isdigit():
        return Violation(errors.UNSUPPORTED_VERSION, f"{printable(version)}, allowed: HTTP/1.1 and HTTP/1.0")
    return Violation(errors.MALFORMED_REQUEST_LINE, f"version {printable(version)}, allowed: HTTP/1.1 and HTTP/1.0")


def _locate(method: bytes, target: bytes) -> tuple[bytes, str, bytes, bytes | None] | Violation:
    """Split a request target into path, path decoded, query and, of an absolute URL, its authority (RFC 9112 §3.2)."""
    if method == b"CONNECT":
        return Violation(errors.CONNECT_UNSUPPORTED, "method CONNECT, this server is not a proxy")
    if target.translate(None, _TARGET_BYTES):
        return Violation(
            errors.BAD_TARGET, f"target {printable(target)}, allowed: visible ASCII without #, others as %XX"
        )
    authority: bytes | None = None
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if separator and scheme.lower() in (b"http", b"https", b"ws", b"wss"):
            # The scheme is that of the connection; the one of the target is ignored.
            cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
            authority, target = rest[:cut], rest[cut:]
            if not target.startswith(b"/"):
                target = b"/" + target
        elif target != b"*" or method != b"OPTIONS":
            return Violation(
                errors.BAD_TARGET, f"target {printable(target)}, allowed: a path, an http URL, or * with OPTIONS"
            )
    path, _, query = target.partition(b"?")
    text = unquote_to_bytes(path).decode("utf-8", "replace") if b"%" in path else path.decode("ascii")
    return path, text, query, authority


# ---- the fields that decide


def _check_host(
    hosts: list[bytes] | None, version: bytes, authority: bytes | None, headers: list[Header]
) -> Violation | None:
    """Check that there is one valid Host in HTTP/1.1 (RFC 9112 §3.2); an absolute target replaces it."""
    if hosts is None:
        if version == b"HTTP/1.1":
            return Violation(errors.MISSING_HOST, "HTTP/1.1 request without Host, one is needed")
    elif len(hosts) > 1:
        return Violation(errors.DUPLICATE_HOST, f"{len(hosts)} Host fields, one is allowed")
    elif hosts[0] and not is_host(hosts[0]):
        return Violation(errors.BAD_HOST, f"Host {printable(hosts[0])}, allowed: a name or address and a port")
    if authority is not None:
        if not is_host(authority):
            return Violation(errors.BAD_HOST, f"host {printable(authority)} in the target, allowed: name and port")
        headers[:] = [header for header in headers if header[0] != b"host"]
        headers.insert(0, (b"host", authority))
    return None


def is_host(value: bytes) -> bool:
    """Return whether `value` is uri-host [ ":" port ] (RFC 9110 §7.2, RFC 3986 §3.2.2)."""
    if value.startswith(b"["):
        literal, bracket, rest = value[1:].partition(b"]")
        return bool(bracket) and _is_ip_literal(literal) and _PORT.fullmatch(rest) is not None
    return _NAME_AND_PORT.fullmatch(value) is not None


def _is_ip_literal(value: bytes) -> bool:
    address, percent, zone = value.partition(b"%25")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        return b"%" not in address and bool(IPv6Address(address.decode("ascii")))
    except ValueError:
        return not percent and _FUTURE.fullmatch(value) is not None


def _framing(deciding: dict[bytes, list[bytes]], version: bytes, limits: Limits) -> tuple[int | None, bool] | Violation:
    """Decide the length of the body (RFC 9112 §6.3): a content length, or chunked, or neither."""
    lengths, codings = deciding.get(b"content-length"), deciding.get(b"transfer-encoding")
    if codings is not None:
        # RFC 9112 §6.1: both together "ought to be handled as an error", and so is a coding in HTTP/1.0
        if version == b"HTTP/1.0":
            return Violation(errors.CODING_IN_HTTP_1_0, "Transfer-Encoding in HTTP/1.0, allowed: Content-Length")
        if lengths is not None:
            return Violation(errors.LENGTH_AND_CODING, "Content-Length and Transfer-Encoding, one is allowed")
        if len(codings) == 1 and codings[0].lower() == b"chunked":
            return None, True
        names = header_tokens(codings)
        if names not in ((), (b"chunked",)) and b"chunked" not in names[:-1]:
            return Violation(
                errors.UNKNOWN_TRANSFER_CODING,
                f"Transfer-Encoding: {printable(b', '.join(codings))}, allowed: chunked",
            )
        return Violation(
            errors.BAD_TRANSFER_CODING, f"Transfer-Encoding: {printable(b', '.join(codings))}, allowed: chunked"
        )
    if lengths is None:
        return None, False
    digits = lengths[0].lstrip(b"0")  # leading zeros are not counted
    if len(lengths) > 1 or not lengths[0].isdigit() or len(digits) > 18:
        return Violation(
            errors.BAD_CONTENT_LENGTH, f"Content-Length: {printable(b', '.join(lengths))}, allowed: one decimal number"
        )
    length = int(digits or b"0")
    if limits.body_bytes and length > limits.body_bytes:
        return Violation(errors.BODY_TOO_LARGE, f"Content-Length: {length}, limit {limits.body_bytes}")
    return length, False


# ---- what exactly is wrong; found only after the fast check has failed


def _illegal_byte(head: bytes) -> Violation:
    plain = head.replace(b"\r\n", b"")
    if b"\r" in plain or b"\n" in plain:
        return Violation(errors.BARE_LINE_END, "CR or LF alone in the request head, lines end with CR LF")
    found = plain.translate(None, TEXT_BYTES)[:1]
    return Violation(
        errors.CONTROL_CHARACTER, f"control character {printable(found)} in the request head, allowed: tab"
    )


def _bad_field(line: bytes) -> Violation:
    if line[:1] in (b" ", b"\t"):
        return Violation(errors.FOLDED_HEADER, "header field folded over two lines, one line is allowed")
    return Violation(errors.BAD_HEADER_NAME, f"header field {printable(line)}, allowed: token, colon, value")
