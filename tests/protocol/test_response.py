"""Responses: how they are framed, and that no application can make an ambiguous one."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.body import ChunkedBody
from asgiws.protocol.http.rejection import encode_rejection
from asgiws.protocol.http.response import Response, ResponseState, encode_fields
from asgiws.protocol.limits import Limits
from tests.protocol.http_help import table

DEFAULTS = b"date: now\r\nserver: asgiws\r\n"
INJECTIONS = {"cr-lf": b"a\r\nSet-Cookie: x", "lf": b"a\nb", "cr": b"a\rb", "nul": b"a\0b", "end": b"\r\n\r\n<script>"}


def response(*, head_only: bool = False, http_1_0: bool = False, te_trailers: bool = False) -> Response:
    return Response(head_only=head_only, http_1_0=http_1_0, keep_alive=True, te_trailers=te_trailers)


def started(
    *fields: tuple[object, object],
    status: int = 200,
    trailers: bool = False,
    head_only: bool = False,
    http_1_0: bool = False,
    te_trailers: bool = False,
) -> Response:
    made = response(head_only=head_only, http_1_0=http_1_0, te_trailers=te_trailers)
    made.start(status, fields, b"", trailers)
    return made


def length(value: bytes) -> tuple[bytes, bytes]:
    return b"content-length", value


# ---- framing


@table("version,method,status,given,fields,body,keep_alive", {
    "length": ("1.1", "GET", 200, b"3", b"content-length: 3\r\n", b"abc", True),
    "in-one-piece": ("1.1", "GET", 200, None, b"content-length: 3\r\n", b"abc", True),
    "1.0-length": ("1.0", "GET", 200, b"3", b"content-length: 3\r\nconnection: keep-alive\r\n", b"abc", True),
    "1.0-in-one-piece": ("1.0", "GET", 200, None, b"content-length: 3\r\nconnection: keep-alive\r\n", b"abc", True),
    "head-length": ("1.1", "HEAD", 200, b"3", b"content-length: 3\r\n", b"", True),
    "head-in-one-piece": ("1.1", "HEAD", 200, None, b"content-length: 3\r\n", b"", True),
    "head-1.0": ("1.0", "HEAD", 200, None, b"content-length: 3\r\nconnection: keep-alive\r\n", b"", True),
    "204": ("1.1", "GET", 204, None, b"", b"", True),
    "204-length": ("1.1", "GET", 204, b"3", b"", b"", True),
    "204-1.0": ("1.0", "GET", 204, None, b"connection: keep-alive\r\n", b"", True),
    "204-head": ("1.1", "HEAD", 204, None, b"", b"", True),
    "304": ("1.1", "GET", 304, None, b"", b"", True),
    "304-length": ("1.1", "GET", 304, b"3", b"content-length: 3\r\n", b"", True),
    "304-head": ("1.1", "HEAD", 304, None, b"", b"", True),
})  # fmt: skip
def test_framing(
    version: str, method: str, status: int, given: bytes | None, fields: bytes, body: bytes, keep_alive: bool
) -> None:
    """RFC 9112 §6.3 and §9.3, RFC 9110 §8.6, §9.3.2, §15.3.5 and §15.4.5."""
    made = started(*([length(given)] if given else []), status=status, head_only=method == "HEAD",
                   http_1_0=version == "1.0")  # fmt: skip
    assert made.body(b"abc", more=False) == first_line(status) + fields + b"\r\n" + body
    assert made.keep_alive is keep_alive
    assert (made.state, made.status) == (ResponseState.DONE, status)
    assert made.sends_body is (body != b"")


@table("version,method,status,fields,pieces,keep_alive", {
    "chunked": ("1.1", "GET", 200, b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", True),
    "1.0-until-close": ("1.0", "GET", 200, b"connection: close\r\n", b"abc", False),
    "head-chunked": ("1.1", "HEAD", 200, b"transfer-encoding: chunked\r\n", b"", True),
    "head-1.0": ("1.0", "HEAD", 200, b"connection: keep-alive\r\n", b"", True),
    "204": ("1.1", "GET", 204, b"", b"", True),
    "304": ("1.1", "GET", 304, b"", b"", True),
})  # fmt: skip
def test_framing_of_a_body_in_pieces(
    version: str, method: str, status: int, fields: bytes, pieces: bytes, keep_alive: bool
) -> None:
    """RFC 9112 §6.3: the length is not known when the head leaves, though the second piece turns out to be empty."""
    made = started(status=status, head_only=method == "HEAD", http_1_0=version == "1.0")
    assert made.body(b"abc", more=True) + made.body(b"", more=False) == first_line(status) + fields + b"\r\n" + pieces
    assert made.keep_alive is keep_alive


@table("http_1_0,head_only,fields", {
    "empty": (False, False, b"content-length: 0\r\n"), "head": (False, True, b""),
    "1.0-empty": (True, False, b"content-length: 0\r\nconnection: keep-alive\r\n"),
    "1.0-head": (True, True, b"connection: keep-alive\r\n"),
})  # fmt: skip
def test_empty_body_has_a_length_but_for_head(http_1_0: bool, head_only: bool, fields: bytes) -> None:
    """RFC 9110 §8.6: Content-Length in an answer to HEAD is that of a GET, which an application may not have made."""
    made = started(http_1_0=http_1_0, head_only=head_only)
    assert made.body(b"", more=False) == b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"


@pytest.mark.parametrize("body", [b"", b"a", b"abcd"])
@pytest.mark.parametrize(("head_only", "status"), [(True, 200), (False, 204), (False, 304)])
def test_length_without_a_body_needs_none(head_only: bool, status: int, body: bytes) -> None:
    """RFC 9110 §8.6: in an answer to HEAD and in a 304 it is the length of what is not sent."""
    made = started(length(b"3"), status=status, head_only=head_only)
    assert made.body(body, more=False).endswith(b"\r\n\r\n")
    assert made.state == ResponseState.DONE


def test_head_goes_out_with_the_first_body_bytes() -> None:
    """RFC 9112 §7.1; an empty piece is no chunk, for a chunk of size 0 is the last."""
    made = response()
    assert made.state == ResponseState.NOT_STARTED
    made.start(200, [(b"A", b"b")], DEFAULTS, trailers=False)
    assert made.state == ResponseState.BODY
    head = b"HTTP/1.1 200 OK\r\na: b\r\n" + DEFAULTS + b"transfer-encoding: chunked\r\n\r\n"
    assert made.body(b"", more=True) == head
    assert made.body(b"", more=True) == b""
    assert made.body(b"a" * 26, more=True) == b"1a\r\n" + b"a" * 26 + b"\r\n"
    assert made.state == ResponseState.BODY
    assert made.body(b"", more=False) == b"0\r\n\r\n"
    assert made.state == ResponseState.DONE


def test_body_of_known_length_comes_in_pieces() -> None:
    """RFC 9112 §6.2."""
    made = started(length(b"5"))
    assert made.body(b"abc", more=True).endswith(b"\r\n\r\nabc")
    assert made.body(b"de", more=True) == b"de"
    assert made.body(b"", more=False) == b""
    assert made.state == ResponseState.DONE


@pytest.mark.parametrize("fields", [[], [(b"connection", b"keep-alive")]])
def test_request_that_does_not_persist_gets_connection_close(fields: list[tuple[object, object]]) -> None:
    """RFC 9112 §9.6: a server that will close SHOULD say so."""
    made = Response(head_only=False, http_1_0=False, keep_alive=False)
    made.start(200, [length(b"0"), *fields], b"", trailers=False)
    assert made.body(b"", more=False) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    assert not made.keep_alive


@pytest.mark.parametrize("value", [b"close", b"Close", b" close ", b"keep-alive, close", b"a,close,b"])
def test_application_can_ask_for_the_end_of_the_connection(value: bytes) -> None:
    """RFC 9112 §9.6."""
    made = started((b"Connection", value), length(b"0"))
    assert made.body(b"", more=False) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    assert not made.keep_alive


@table("name,value", {
    "connection": (b"Connection", b"upgrade"), "keep-alive": (b"Keep-Alive", b"close"),
    "proxy-connection": (b"Proxy-Connection", b"close"), "transfer-encoding": (b"Transfer-Encoding", b"gzip, chunked"),
})  # fmt: skip
def test_application_decides_no_field_of_the_connection(name: bytes, value: bytes) -> None:
    """RFC 9110 §7.6.1, RFC 9112 §6.1: framing belongs to the server."""
    made = started((name, value), length(b"0"))
    assert made.body(b"", more=False) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    assert made.keep_alive


@table("name,kept", {"date": (b"Date", b"server: asgiws\r\n"), "server": (b"SERVER", b"date: now\r\n")})
def test_application_replaces_date_and_server(name: bytes, kept: bytes) -> None:
    """RFC 9110 §6.6.1 and §10.2.4: one of each."""
    made = response()
    made.start(204, [(name, b"own")], DEFAULTS, trailers=False)
    assert made.body(b"", more=False) == b"HTTP/1.1 204 No Content\r\n%s: own\r\n%s\r\n" % (name.lower(), kept)


def test_fields_keep_order_and_duplicates() -> None:
    """RFC 9110 §5.3; several Set-Cookie are never one."""
    made = started((b"Set-Cookie", b"a"), (b"x", b""), (b"set-cookie", b"b\xff\t"), length(b"0"))
    lines = made.body(b"", more=False).split(b"\r\n")
    assert lines[1:4] == [b"set-cookie: a", b"x: ", b"set-cookie: b\xff\t"]


def first_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())


@table("status,line", {
    "200": (200, b"HTTP/1.1 200 OK\r\n"), "enum": (HTTPStatus.NOT_FOUND, b"HTTP/1.1 404 Not Found\r\n"),
    "unknown": (299, b"HTTP/1.1 299 \r\n"), "599": (599, b"HTTP/1.1 599 \r\n"),
})  # fmt: skip
def test_status_line(status: int, line: bytes) -> None:
    """RFC 9112 §4: the space stays where the reason phrase is empty."""
    made = started(length(b"0"), status=status)
    assert made.body(b"", more=False) == line + b"content-length: 0\r\n\r\n"
    assert type(made.status) is int


# ---- what an application may not do


@pytest.mark.parametrize(
    "status", [0, 100, HTTPStatus.SWITCHING_PROTOCOLS, 199, 600, 999, -200, "200", 200.0, True, None]
)
def test_illegal_status_raises(status: object) -> None:
    """RFC 9110 §15: codes outside 100 to 599 are invalid; 1xx are not final."""
    made = response()
    with pytest.raises(ValueError, match=r"status .*, allowed: 200 to 599"):
        made.start(status, [], b"", trailers=False)
    assert made.state == ResponseState.NOT_STARTED


@table("value", INJECTIONS)
def test_line_end_or_nul_in_a_value_raises(value: bytes) -> None:
    """RFC 9110 §5.5: CR, LF and NUL are invalid and dangerous."""
    for name in (b"x-a", b"connection", b"date"):
        made = response()
        with pytest.raises(ValueError, match=r"allowed: no CR, LF or NUL"):
            made.start(200, [(name, value)], DEFAULTS, trailers=False)
        assert made.state == ResponseState.NOT_STARTED


@table("name", {**INJECTIONS, "empty": b"", "space": b"a b", "colon": b"a:", "8-bit": b"\xe9", "pseudo": b":status"})
def test_name_that_is_no_token_raises(name: bytes) -> None:
    """RFC 9110 §5.1."""
    with pytest.raises(ValueError, match=r"header name .*, allowed: a token"):
        started((name, b"value"))


@table(
    "field", {"str-name": ("a", b"b"), "str-value": (b"a", "b"), "none": (b"a", None), "int": (b"content-length", 3)}
)
def test_field_that_is_not_bytes_raises(field: tuple[object, object]) -> None:
    """ASGI: header names and values are byte strings."""
    with pytest.raises(TypeError, match=r"allowed: name and value as bytes"):
        started(field)
    with pytest.raises(TypeError, match=r"allowed: name and value as bytes"):
        encode_fields([field])


@pytest.mark.parametrize("values", [[b"3", b"3"], [b"+3"], [b"-1"], [b"3, 3"], [b"1_0"], [b" 3"], [b""], [b"\xb3"]])
def test_content_length_other_than_one_number_raises(values: list[bytes]) -> None:
    """RFC 9110 §8.6: a sender MUST NOT send an incorrect Content-Length."""
    with pytest.raises(ValueError, match=r"content-length .*, allowed: one decimal number, once"):
        started(*[length(value) for value in values])


def test_refused_start_leaves_the_response_as_it_was() -> None:
    """Another answer can still be given."""
    made = response()
    with pytest.raises(ValueError, match="header b"):
        made.start(204, [(b"connection", b"close"), length(b"3"), (b"b", b"\n")], b"", trailers=True)
    assert (made.state, made.status, made.keep_alive) == (ResponseState.NOT_STARTED, 0, True)
    made.start(200, [], b"", trailers=False)
    assert made.body(b"", more=False) == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@table("size,more,said", {
    "one-more": (4, False, "body 1 bytes longer than its content-length"),
    "more-and-on": (9, True, "body 6 bytes longer than its content-length"),
    "one-less": (2, False, "body 1 bytes shorter than its content-length"),
    "none": (0, False, "body 3 bytes shorter than its content-length"),
})  # fmt: skip
def test_body_of_another_length_raises_and_sends_nothing(size: int, more: bool, said: str) -> None:
    """RFC 9112 §6.3: what is behind the length is taken for the next response."""
    whole = started(length(b"3")).body(b"abc", more=False)
    by_body, by_reserve = started(length(b"3")), started(length(b"3"))
    with pytest.raises(ValueError, match=said):
        by_body.body(b"a" * size, more)
    with pytest.raises(ValueError, match=said):
        by_reserve.reserve(size, more)
    assert by_body.state == by_reserve.state == ResponseState.BODY
    assert by_body.body(b"abc", more=False) == whole
    assert by_reserve.reserve(3, more=False) == (whole[:-3], b"")


def test_body_behind_its_length_raises() -> None:
    """RFC 9112 §6.3."""
    made = started(length(b"3"))
    made.body(b"abc", more=True)
    with pytest.raises(ValueError, match="body 1 bytes longer"):
        made.body(b"d", more=True)


# ---- trailers


def test_trailers_follow_the_last_chunk() -> None:
    """RFC 9112 §7.1.2."""
    made = started(trailers=True, te_trailers=True)
    assert made.body(b"a", more=False).endswith(b"\r\n\r\n1\r\na\r\n0\r\n")
    assert made.state == ResponseState.TRAILERS
    assert made.trailers([(b"A", b"b")], more=True) == b"a: b\r\n"
    assert made.state == ResponseState.TRAILERS
    assert made.trailers([(b"c", b"d")], more=False) == b"c: d\r\n\r\n"
    assert made.state == ResponseState.DONE


def test_body_without_promised_trailers_ends_at_once() -> None:
    """RFC 9112 §7.1: TE says that trailers may come, not that they do."""
    made = started(te_trailers=True)
    assert made.body(b"a", more=True).endswith(b"\r\n\r\n1\r\na\r\n")
    assert made.body(b"", more=False) == b"0\r\n\r\n"
    assert made.state == ResponseState.DONE


def test_trailers_follow_a_reserved_body() -> None:
    """RFC 9112 §7.1.2: one trailer section, and nothing behind its end."""
    made = started(trailers=True, te_trailers=True)
    assert made.reserve(1, more=False)[1] == b"\r\n0\r\n"
    assert made.trailers([(b"a", b"b")], more=False) == b"a: b\r\n\r\n"


@table("http_1_0,te_trailers,head_only,given", {
    "not-asked-for": (False, False, False, None), "length": (False, True, False, b"1"),
    "1.0": (True, True, False, None), "head": (False, True, True, None),
})  # fmt: skip
def test_trailers_are_left_out_where_they_have_no_place(
    http_1_0: bool, te_trailers: bool, head_only: bool, given: bytes | None
) -> None:
    """RFC 9110 §6.5.1: a sender needs to know that its recipient takes them."""
    fields = [length(given)] if given else []
    plain = started(*fields, http_1_0=http_1_0, te_trailers=te_trailers, head_only=head_only)
    made = started(*fields, http_1_0=http_1_0, te_trailers=te_trailers, head_only=head_only, trailers=True)
    assert made.body(b"", more=True) == plain.body(b"", more=True)
    assert made.body(b"a", more=False) == plain.body(b"a", more=False)
    assert made.state == ResponseState.TRAILERS
    assert made.trailers([(b"a", b"b")], more=False) == b""
    assert made.state == ResponseState.DONE


@pytest.mark.parametrize("te_trailers", [True, False])
@pytest.mark.parametrize("name", [
    b"Content-Length", b"transfer-encoding", b"Host", b"trailer", b"TE", b"Authorization", b"Set-Cookie",
    b"content-type", b"content-encoding", b"content-range", b"connection", b"keep-alive", b"proxy-connection",
])  # fmt: skip
def test_forbidden_trailer_raises(name: bytes, te_trailers: bool) -> None:
    """RFC 9110 §6.5.1: no field for framing, routing, authentication, or about the content."""
    made = started(trailers=True, te_trailers=te_trailers)
    made.body(b"", more=False)
    with pytest.raises(ValueError, match=rf"trailer {name.decode().lower()}, allowed: no framing"):
        made.trailers([(b"a", b"b"), (name, b"x")], more=False)
    assert made.state == ResponseState.TRAILERS


@table("value", INJECTIONS)
def test_line_end_or_nul_in_a_trailer_raises(value: bytes) -> None:
    """RFC 9110 §5.5."""
    made = started(trailers=True)
    made.body(b"", more=False)
    with pytest.raises(ValueError, match="allowed: no CR, LF or NUL"):
        made.trailers([(b"a", value)], more=False)


# ---- rejections


def test_rejection_is_a_whole_response_and_ends_the_connection() -> None:
    """RFC 9112 §9.6; RFC 9110 §15.5.22: 426 names the protocol in Upgrade, §7.8: and that in Connection."""
    violation = Violation(errors.WEBSOCKET_VERSION, "Sec-WebSocket-Version: 8, allowed: 13")
    assert encode_rejection(violation) == (
        b"HTTP/1.1 426 Upgrade Required\r\n"
        b"content-type: text/plain; charset=utf-8\r\n"
        b"content-length: 57\r\n"
        b"upgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\n"
        b"connection: upgrade, close\r\n\r\n"
        b"websocket-version: Sec-WebSocket-Version: 8, allowed: 13\n"
    )


@pytest.mark.parametrize(
    "rule", [rule for rule in errors.RULES.values() if rule.code < 1000], ids=lambda rule: rule.name
)
def test_each_status_has_a_reason_phrase(rule: errors.Rule) -> None:
    """RFC 9110 §15."""
    line = encode_rejection(Violation(rule, "")).partition(b"\r\n")[0]
    assert re.fullmatch(rb"HTTP/1\.1 %d [A-Z][A-Za-z -]+" % rule.code, line)


# ---- properties

PIECES = st.lists(st.binary(max_size=20), max_size=6)


@given(PIECES)
def test_chunked_response_reads_back_as_its_body(pieces: list[bytes]) -> None:
    """RFC 9112 §7.1.3."""
    made = started()
    wire = b"".join(made.body(piece, more=True) for piece in [b"", *pieces]) + made.body(b"", more=False)
    head, _, rest = wire.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"
    reader, buffer = ChunkedBody(Limits()), bytearray(rest)
    assert reader.read(buffer) == b"".join(pieces)
    assert reader.complete
    assert not buffer


@given(PIECES, *[st.booleans()] * 5)
def test_reserved_bytes_are_framed_as_given_ones(
    pieces: list[bytes], known: bool, head_only: bool, http_1_0: bool, trailers: bool, te_trailers: bool
) -> None:
    """RFC 9112 §6: a file that is sent beside the response looks the same to the client."""
    fields = [length(b"%d" % sum(map(len, pieces)))] if known else []
    whole, split = (
        started(*fields, head_only=head_only, http_1_0=http_1_0, trailers=trailers, te_trailers=te_trailers)
        for _ in "12"
    )
    for index, piece in enumerate([*pieces, b""]):
        before, after = split.reserve(len(piece), more=index < len(pieces))
        split.sent_bytes += len(piece) * split.sends_body
        sent = before + (piece if split.sends_body else b"") + after
        assert sent == whole.body(piece, more=index < len(pieces))
    assert whole.state == split.state == (ResponseState.TRAILERS if trailers else ResponseState.DONE)
