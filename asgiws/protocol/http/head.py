"""Request heads of HTTP/1.1 (RFC 9112 §2 to §6), read strictly.

`HeadReader` finds the end of a head in a stream of bytes; `parse_head` turns one head into a `RequestHead` or into the
`Violation` that says what is wrong with it. Nothing that two parties could read in two ways is accepted: no bare CR
or LF, no folded field, no second Content-Length, no Content-Length beside Transfer-Encoding. Nothing is guessed.

Parsing is one split on CR LF and one scan that removes every legal byte: what remains has to be exactly the line ends
of the split. Field names are looked up in a table of the usual ones, so that no name is checked or lower-cased twice.
A client sends the same fields again and again, so heads once read are known by the bytes of theirs.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import LOWER_NAMES, TEXT_BYTES, TOKEN_BYTES, Header, header_tokens, is_token, printable
from asgiws.protocol.limits import Limits

__all__ = ["HeadReader", "KnownHeads", "RequestHead", "is_host", "parse_fields", "parse_head"]

# RFC 3986 §2: what stands in a path or query, and the brackets, braces, quotes and bars that clients leave unescaped
_TARGET_BYTES: Final = bytes(range(0x21, 0x7F)).replace(b"#", b"")
# RFC 3986 §3.2.2: what stands in a name or IPv4 address; between brackets also colons
_HOST_BYTES: Final = b"-._~!$&'()*+,;=%" + TOKEN_BYTES[15:]
_ADDRESS_BYTES: Final = _HOST_BYTES + b":"

# Fields that decide how the message is framed or what the connection becomes.
_DECIDING: Final = frozenset(
    b"connection content-length expect host sec-websocket-key te transfer-encoding upgrade".split()
)
# Heads that are known by the bytes of their fields: so many at most, none larger. Together they are below 8 MiB.
_KNOWN_MOST: Final = 512
_KNOWN_MOST_BYTES: Final = 2048


class RequestHead(NamedTuple):
    """A request head that passed every check."""

    method: str
    """In upper case, as ASGI has it and as everything here compares it."""
    target: bytes
    """The path as it came, without the query (ASGI `raw_path`)."""
    path: str
    """Percent-decoded, UTF-8."""
    query: bytes
    http_version: str
    """"1.0" or "1.1"."""
    headers: list[Header]
    """Shared by all requests of the same bytes: to be copied, never changed."""
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
    """Whether there is a Sec-WebSocket-Key and no Upgrade: a handshake, from which a proxy has dropped it."""
    te_trailers: bool
    """Whether trailers may be sent: the client says `TE: trailers` (RFC 9110 §6.5.1)."""


KnownHeads = dict[bytes, tuple[bytes, RequestHead]]
"""Heads that were read lately: by their bytes from the space before the version to the end, the bytes before and the
head."""


class HeadReader:
    """Collects bytes until a whole request head is there.

    Cost is linear in the bytes fed, however they are cut. Bytes after the head stay in `buffer`: they are the body,
    the next request or WebSocket frames, and belong to the caller.

    A client sends the same fields again and again, for one target or many. `known` has those of lately, so that only
    the method and the target are parsed then. Readers with the same limits may share it, and who owns it empties it.
    Handshakes are not kept: each has a key of its own. While it is full, no more are: where there are more clients
    than it has room for, some are known, and the others cost a look.
    """

    __slots__ = ("_empty_line_seen", "_known", "_limits", "_scanned", "buffer")

    def __init__(self, limits: Limits, known: KnownHeads | None = None) -> None:
        self._limits = limits
        self._known: KnownHeads = {} if known is None else known
        self._scanned = 0
        self._empty_line_seen = False
        self.buffer = bytearray()

    def feed(self, data: bytes) -> RequestHead | Violation | None:
        """Take bytes that came, and one head if it is whole now; None while it still could become one."""
        if not self.buffer and not data.startswith(b"\r\n"):
            end = data.find(b"\r\n\r\n")
            if 0 < end == len(data) - 4 <= self._limits.head_bytes:
                # One head and nothing else, as almost always.
                self._empty_line_seen = False
                return self._read_whole(data)
        self.buffer += data
        return self.next_head()

    def next_head(self) -> RequestHead | Violation | None:
        """Take one head from `buffer`; None while it is incomplete and still could become one."""
        buffer = self.buffer
        # RFC 9112 §2.2: a server SHOULD ignore at least one empty line before the request line
        if buffer.startswith(b"\r\n") and not self._empty_line_seen:
            del buffer[:2]
            self._scanned = 0
            self._empty_line_seen = True
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            return self._check_incomplete()
        self._scanned = 0
        self._empty_line_seen = False
        if end > self._limits.head_bytes:
            return self._too_large(end)
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        return self._read_whole(head)

    def _read_whole(self, head: bytes) -> RequestHead | Violation:
        """Read a head that is within the limit, by what is known of its fields or else by parsing all of it."""
        at = head.find(b" HTTP/1.")
        start, fields = head[:at], head[at:]
        known = self._known.get(fields)
        if known is not None:
            if known[0] == start:
                return known[1]
            parsed = self._read_start(start, known[1])
            if parsed is not None:
                if len(head) <= _KNOWN_MOST_BYTES:
                    self._known[fields] = start, parsed
                return parsed
        whole = parse_head(head[:-4], self._limits)
        if (
            len(self._known) < _KNOWN_MOST
            and len(head) <= _KNOWN_MOST_BYTES
            and isinstance(whole, RequestHead)
            and not (whole.upgrade or whole.upgrade_lost)
            and start[len(whole.method) + 1 :].startswith(b"/")  # an absolute target has replaced the Host field
        ):
            self._known[fields] = start, whole
        return whole

    def _read_start(self, start: bytes, known: RequestHead) -> RequestHead | None:
        """Give a head with the fields of a known one behind another start; None for one that has to be parsed whole."""
        method, _, target = start.partition(b" ")
        method = method.upper()
        located = _locate(method, target)
        # " HTTP/1.1" is 9 bytes long.
        if isinstance(located, Violation) or len(start) + 9 > self._limits.request_line_bytes or not is_token(method):
            return None
        path, text, query, authority = located
        return None if authority is not None else RequestHead(method.decode("ascii"), path, text, query, *known[4:])

    def _check_incomplete(self) -> Violation | None:
        """Refuse at once what no further byte can make a request head."""
        buffer, limits = self.buffer, self._limits
        if not buffer:
            return None
        size = len(buffer)
        if buffer[0] not in TOKEN_BYTES and buffer != b"\r":
            return _not_http(bytes(buffer[:8]))
        seen = self._scanned
        fresh = bytes(buffer[seen - 1 if seen and buffer[seen - 1] == 0x0D else seen :])
        if fresh.count(b"\n") != fresh.count(b"\r\n"):
            return Violation(errors.BARE_LINE_END, "line end without CR, lines end with CR LF")
        self._scanned = size
        # Looked for once, when as many bytes are there as the longest line has with its end
        longest = limits.request_line_bytes + 2
        if seen < longest <= size and buffer.find(b"\r\n", 0, longest) < 0:
            return self._too_large(size)
        return self._too_large(size) if size > limits.head_bytes + 3 else None

    def _too_large(self, size: int) -> Violation:
        line_end = self.buffer.find(b"\r\n")
        line_bytes = size if line_end < 0 else line_end
        if line_bytes > self._limits.request_line_bytes:
            return _line_too_long(line_bytes, self._limits)
        return Violation(
            errors.HEAD_TOO_LARGE, f"request head of {size} bytes or more, limit {self._limits.head_bytes}"
        )


def parse_head(head: bytes, limits: Limits) -> RequestHead | Violation:
    """Parse a head without its final empty line; every check of RFC 9112 that needs no body is made here."""
    lines = head.split(b"\r\n")
    if head.translate(None, TEXT_BYTES) != b"\r\n" * (len(lines) - 1):
        return _illegal_byte(head)
    if len(lines[0]) > limits.request_line_bytes:
        return _line_too_long(len(lines[0]), limits)
    if len(lines) - 1 > limits.header_count:
        return Violation(errors.TOO_MANY_HEADERS, f"{len(lines) - 1} header fields, limit {limits.header_count}")

    # RFC 9112 §3: request-line = method SP request-target SP HTTP-version
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        if not parts[0] or not is_token(parts[0]):
            return _not_http(head[:8])
        return Violation(
            errors.MALFORMED_REQUEST_LINE,
            f"request line of {len(parts)} parts, allowed: method, one space, target, one space, version",
        )
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        return _bad_version(version)
    if method != b"GET" and not is_token(method):
        return Violation(errors.BAD_METHOD, f"method {printable(method)}, allowed: a token")
    # RFC 9110 §9.1: methods are case-sensitive; ASGI has them in upper case, so `get` is GET from here on for everybody
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
    expect = deciding.get(b"expect")
    if expect is not None and (len(expect) > 1 or expect[0].lower() != b"100-continue"):
        return Violation(errors.UNKNOWN_EXPECTATION, f"Expect: {printable(b', '.join(expect))}, allowed: 100-continue")
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
        # RFC 9112 §9.3: close comes before all else
        keep_alive=b"close" not in connection and (version == b"HTTP/1.1" or b"keep-alive" in connection),
        # RFC 9110 §10.1.1: a server MUST ignore a 100-continue expectation in an HTTP/1.0 request
        expect_continue=expect is not None and version == b"HTTP/1.1",
        upgrade=header_tokens(upgrade) if upgrade else (),
        connection=connection,
        upgrade_lost=b"sec-websocket-key" in deciding and upgrade is None,
        te_trailers=te is not None and b"trailers" in header_tokens(te),
    )


def parse_fields(lines: list[bytes]) -> tuple[list[Header], dict[bytes, list[bytes]]] | Violation:
    """Parse field lines (RFC 9112 §5); also gives the values of the fields that decide framing, by name."""
    headers: list[Header] = []
    deciding: dict[bytes, list[bytes]] = {}
    for line in lines:
        spelling, colon, value = line.partition(b":")
        if not colon:
            return _bad_field(line)
        name = LOWER_NAMES.get(spelling)
        if name is None:
            if not spelling or spelling.translate(None, TOKEN_BYTES):
                return _bad_field(line)
            name = spelling.lower()
        value = value.strip(b" \t")
        headers.append((name, value))
        if name in _DECIDING:
            if name in deciding:
                deciding[name].append(value)
            else:
                deciding[name] = [value]
    return headers, deciding


# ---- the request line


def _not_http(start: bytes) -> Violation:
    if start.startswith(b"\x16\x03"):
        return Violation(errors.NOT_HTTP, "TLS handshake on a plain-text port, allowed: http:// and ws://")
    return Violation(errors.NOT_HTTP, f"first bytes {printable(start)}, allowed: an HTTP/1.1 request line")


def _line_too_long(size: int, limits: Limits) -> Violation:
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
            # The scheme of the connection is what the socket says, never what the request line claims.
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
    """RFC 9112 §3.2: one valid Host in HTTP/1.1; an absolute target replaces it."""
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
    """RFC 9110 §7.2: uri-host [ ":" port ], an IPv6 address in brackets."""
    if value.startswith(b"["):
        name, bracket, rest = value[1:].partition(b"]")
        legal, port = _ADDRESS_BYTES, rest[1:]
        if not bracket or rest[:1] not in (b"", b":"):
            return False
    else:
        name, _, port = value.partition(b":")
        legal = _HOST_BYTES
    return bool(name) and not name.translate(None, legal) and (not port or port.isdigit())


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
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        return Violation(
            errors.BAD_CONTENT_LENGTH, f"Content-Length: {printable(b', '.join(lengths))}, allowed: one decimal number"
        )
    length = int(lengths[0])
    if limits.body_bytes and length > limits.body_bytes:
        return Violation(errors.BODY_TOO_LARGE, f"Content-Length: {length}, limit {limits.body_bytes}")
    return length, False


# ---- what exactly is wrong, worked out only after it is known that something is


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
