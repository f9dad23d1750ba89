"""ASGI HTTP 2.5: the response (checklist 4.2, H10 to H15 and the outbound half of H18), and how HTTP/1.1 frames it.

What an application must not send is in `test_core_send`; here is what becomes of what it sends.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest

import asgiws
from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import POST, answer, begin_answer, body, error_of, get, on_request, values
from tests.conftest import Serve
from tests.raw import RawClient

CLOSE = "Connection: close"
LENGTH_5 = (b"content-length", b"5")


# ---- the head


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK"), (HTTPStatus.NOT_FOUND, b"HTTP/1.1 404 Not Found"), (299, b"HTTP/1.1 299 "),
        (599, b"HTTP/1.1 599 "), (418, b"HTTP/1.1 418 I'm a Teapot"),
    ],
)  # fmt: skip
def test_h10_status_line_has_the_status(serve: Serve, status: int, line: bytes) -> None:
    """ASGI H10: `status` is an int; RFC 9112 §4: the space stands before a reason that is empty, too."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, status=status)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert client.read_answer().raw_head.split(b"\r\n")[0] == line


@pytest.mark.parametrize(
    ("given", "name", "values_sent"),
    [
        (["Server: mine"], b"server", [b"mine"]),
        (["DATE: long ago"], b"date", [b"long ago"]),
        (["X-A: b", "X-A: c"], b"x-a", [b"b", b"c"]),
        (["X-A: b"], b"server", [b"asgiws"]),
    ],
    ids=["Server", "Date", "other", "Server beside another"],
)
def test_field_of_an_option_takes_the_place_of_the_default(
    serve: Serve, given: list[str], name: bytes, values_sent: list[bytes]
) -> None:
    """RFC 9110 §5.3: a response has one Server and one Date; the operator's takes precedence."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send)

    with RawClient(serve(on_request(talk), header=given).port) as client:
        client.send(get())
        assert values(client.read_answer(), name) == values_sent


def test_h10_h18_headers_keep_their_order_and_duplicates(serve: Serve) -> None:
    """ASGI H10: the order is kept. H18: Set-Cookie is never joined."""
    headers = [(b"x-b", b"2"), (b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2, c"), (b"x-b", b"\xe9 3")]

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"", *headers, (b"content-length", b"0"))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        given = dict(headers)
        assert [header for header in client.read_answer().headers if header[0] in given] == headers


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
@pytest.mark.parametrize("pair", [list, tuple], ids=["of lists", "of tuples"])
def test_h10_headers_may_be_any_iterable_of_pairs(serve: Serve, kind: type, pair: type) -> None:
    """ASGI H10: an iterable of two-item iterables."""

    async def talk(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": kind([pair((b"x-a", b"1"))])})
        await send({"type": "http.response.body"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        answered = client.read_answer()
        assert (answered.header(b"x-a"), answered.body) == (b"1", b"")


def test_h10_date_and_server_of_the_app_replace_those_of_the_server(serve: Serve) -> None:
    """ASGI H10: the server adds what is missing, and nothing twice."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"", (b"Server", b"mine"), (b"Date", b"today"), (b"content-length", b"0"))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        answered = client.read_answer()
        assert (values(answered, b"server"), values(answered, b"date")) == ([b"mine"], [b"today"])


# ---- framing


@pytest.mark.parametrize("coding", [b"chunked", b"identity", b"gzip", b"gzip, chunked", b""])
@pytest.mark.parametrize("framing", ["length", "one piece", "pieces"])
def test_h11_transfer_encoding_of_the_app_is_ignored(serve: Serve, coding: bytes, framing: str) -> None:
    """ASGI H11: an app-sent Transfer-Encoding is ignored; the server frames the body, by one rule only."""
    headers = [(b"Transfer-Encoding", coding), *([LENGTH_5] if framing == "length" else [])]

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, *headers)
        if framing == "pieces":
            await body(send, b"he", more=True)
            await body(send, b"llo")
        else:
            await body(send, b"hello")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get())
        for _ in range(2):
            answered = client.read_answer()
            assert answered.body == b"hello"
            assert values(answered, b"content-length") == ([] if framing == "pieces" else [b"5"])
            assert values(answered, b"transfer-encoding") == ([b"chunked"] if framing == "pieces" else [])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("data", [b"", b"hello", bytes(300_000)], ids=len)
def test_h11_response_in_one_piece_has_a_length_and_keeps_the_connection(
    serve: Serve, version: str, data: bytes
) -> None:
    """RFC 9110 §8.6: a server SHOULD send Content-Length when it knows it before the head leaves."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        await body(send, data)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Connection: keep-alive", version=version) * 2)
        for _ in range(2):
            answered = client.read_answer()
            assert values(answered, b"content-length") == [b"%d" % len(data)]
            assert answered.header(b"transfer-encoding") is None
            assert answered.body == data


def test_h11_empty_pieces_do_not_end_a_chunked_body(serve: Serve) -> None:
    """ASGI H11; RFC 9112 §7.1: a chunk of size 0 is the last, so an empty piece is none."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        for piece in (b"", b"a", b"", b"b" * 70_000, b""):
            await body(send, piece, more=True)
        await body(send)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get())
        assert client.read_answer().body == b"a" + b"b" * 70_000
        assert client.read_answer().body == b"a" + b"b" * 70_000


@pytest.mark.parametrize("data", [bytearray(b"hello"), memoryview(b"hello"), memoryview(b"h-e-l-l-o")[::2]])
def test_h10_body_may_be_any_bytes_like_object(serve: Serve, data: object) -> None:
    """ASGI H10: bytes, and what frameworks pass for them; its length is counted in bytes."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, LENGTH_5)
        await send({"type": "http.response.body", "body": data})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert client.read_answer().body == b"hello"


@pytest.mark.parametrize("header", [b"close", b"Close", b"x-a, close"])
def test_app_ends_the_connection_with_connection_close(serve: Serve, header: bytes) -> None:
    """RFC 9112 §9.6: `close` of the application is sent once and kept; the request behind is not answered."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"hello", LENGTH_5, (b"connection", header))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get())
        answered = client.read_answer()
        assert values(answered, b"connection") == [b"close"]
        assert client.read_to_end() == b""


@pytest.mark.parametrize("header", [b"keep-alive", b"upgrade", b"x-secret"])
def test_app_cannot_keep_a_connection_that_the_client_ends(serve: Serve, header: bytes) -> None:
    """RFC 9110 §7.6.1: the fields of the connection are the server's."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"hello", LENGTH_5, (b"connection", header), (b"keep-alive", b"timeout=5"))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", CLOSE))
        answered = client.read_answer()
        assert values(answered, b"connection") == [b"close"]
        assert answered.header(b"keep-alive") is None
        assert client.read_to_end() == b""


@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"llo"], [b"hello", b""], []], ids=len)
@pytest.mark.parametrize("length", [b"5", None], ids=["with length", "without length"])
def test_head_response_has_the_fields_of_a_body_and_no_body(
    serve: Serve, pieces: list[bytes], length: bytes | None
) -> None:
    """RFC 9110 §9.3.2: no content for HEAD, whatever the application sends; Content-Length stays as it gave it."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, *[(b"content-length", length)] if length else [])
        for piece in pieces:
            await body(send, piece, more=True)
        await body(send)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get(method="HEAD") + get(method="HEAD"))
        for _ in range(2):
            answered = client.read_answer(head_only=True)
            assert answered.status == 200
            assert answered.header(b"content-length") == length
        assert client.buffer == b""


@pytest.mark.parametrize(("status", "length"), [(204, None), (304, b"5")])
@pytest.mark.parametrize("data", [b"", b"hello"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_204_and_304_have_no_body(serve: Serve, status: int, length: bytes | None, data: bytes, version: str) -> None:
    """RFC 9110 §15.3.5, §15.4.5, §8.6: no content; no Content-Length with 204, that of a 200 with 304."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/last":
            await answer(send, b"last")
        else:
            await answer(send, data, LENGTH_5, (b"transfer-encoding", b"chunked"), status=status)

    with RawClient(serve(app).port) as client:
        client.send(get("/", "Connection: keep-alive", version=version) + get("/last"))
        answered = client.read_answer()
        assert answered.status == status
        assert (answered.header(b"content-length"), answered.header(b"transfer-encoding")) == (length, None)
        assert client.read_answer().body == b"last"


def test_http_1_0_response_without_length_ends_with_its_connection(serve: Serve) -> None:
    """RFC 9112 §6.1: no chunked coding to an HTTP/1.0 client; §6.3: the end of the connection ends the body."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        await body(send, b"hel", more=True)
        await body(send, b"lo")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Connection: keep-alive", version="1.0") + get(version="1.0"))
        answered = client.read_answer()
        assert (answered.header(b"transfer-encoding"), answered.header(b"content-length")) == (None, None)
        assert values(answered, b"connection") == [b"close"]
        assert answered.body == b"hello"


@pytest.mark.parametrize("keep_alive", [False, True])
def test_http_1_0_connection_is_kept_only_when_the_client_asks(serve: Serve, keep_alive: bool) -> None:
    """RFC 9112 §9.3: HTTP/1.0 persists with `Connection: keep-alive`, and the server says so."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"hello")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", *["Connection: Keep-Alive"] * keep_alive, version="1.0") + get(version="1.0"))
        answered = client.read_answer()
        assert answered.body == b"hello"
        assert values(answered, b"connection") == [b"keep-alive" if keep_alive else b"close"]
        rest = client.read_to_end()
        assert rest.endswith(b"\r\n\r\nhello") if keep_alive else rest == b""


# ---- a body of another length than promised

SMUGGLED = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
MISMATCHES = {
    "too long at once": [b"hello" + SMUGGLED],
    "too long by one": [b"hello!"],
    "too long in the second piece": [b"hello", SMUGGLED],
    "too long across pieces": [b"hel", b"lo" + SMUGGLED],
    "too long with more to come": [b"hello" + SMUGGLED, b""],
    "too long in the second of three": [b"hello", SMUGGLED, b""],
    "too short": [b"hell"],
    "too short in pieces": [b"he", b"", b"l"],
    "empty": [b""],
}


@pytest.mark.parametrize("pieces", MISMATCHES.values(), ids=MISMATCHES)
@pytest.mark.parametrize("caught", [False, True], ids=["raised on", "caught"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_body_of_another_length_than_promised_raises_and_ends_the_connection(
    serve: Serve, pieces: list[bytes], caught: bool, version: str
) -> None:
    """RFC 9110 §8.6: a length that is wrong must not be sent; RFC 9112 §9.2: nor may the rest pass for a response.

    The client sees no more than it was promised and then the end, and never an answer to its second request.
    """
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, LENGTH_5)
        for at, piece in enumerate(pieces):
            error = await error_of(body(send, piece, more=at < len(pieces) - 1))
            if error is not None:
                seen.put(error)
                if not caught:
                    raise error
        seen.put(None)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Connection: keep-alive", version=version) + get("/second"))
        sent = client.read_to_end()
        body_sent = sent.partition(b"\r\n\r\n")[2]
        assert b"hello".startswith(body_sent)
        assert body_sent != b"hello" or pieces[0] == b"hello"
        assert sent.count(b"HTTP/1.1") <= 1
        assert isinstance(seen.next(), ValueError)


@pytest.mark.parametrize("pieces", [[b"hello", SMUGGLED], [b"hell"]], ids=["too long", "too short"])
def test_connection_ends_with_the_mismatch_and_not_with_the_app(serve: Serve, pieces: list[bytes]) -> None:
    """RFC 9110 §8.6: whoever catches the error cannot go on with that response, nor begin another."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, LENGTH_5)
        for at, piece in enumerate(pieces):
            seen.put(await error_of(body(send, piece, more=at < len(pieces) - 1)))
        await go_on.wait()
        seen.put(await error_of(body(send, b"hello")))

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get() + get())
        assert SMUGGLED not in client.read_to_end()
        server.call(go_on.set)
        errors = [seen.next() for _ in range(len(pieces) + 1)]
        assert [type(error) for error in errors[-2:]] == [ValueError, asgiws.ClientDisconnected]


def test_response_with_length_0_may_have_no_byte_more(serve: Serve) -> None:
    """RFC 9110 §8.6, at the limit: content-length 0, and one byte."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, (b"content-length", b"0"))
        seen.put(await error_of(body(send, b"x")))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get())
        assert client.read_to_end() == b""
        assert isinstance(seen.next(), ValueError)


# ---- when it leaves


def test_h13_head_of_a_response_that_fails_before_its_body_is_not_sent(serve: Serve) -> None:
    """ASGI H13: the head waits for the first body event, so a failure between the two is no response of status 200."""

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        raise ValueError("between head and body")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get())
        assert b" 200 " not in client.read_to_end()


@pytest.mark.parametrize("first", [b"", b"data: 1\n\n"], ids=["head alone", "head and body"])
def test_h14_what_was_sent_reaches_the_client_while_the_app_goes_on(serve: Serve, first: bytes) -> None:
    """ASGI H14: body data is flushed before `send` returns: the client has it while the application waits."""
    client_has_it = asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        await body(send, first, more=True)
        await client_has_it.wait()
        await body(send, b"the rest")

    server = serve(on_request(talk))
    with RawClient(server.port) as client:
        client.send(get())
        head = client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        if first:
            assert client.read_until(b"\r\n") == b"%x" % len(first)
            assert client.read_exactly(len(first) + 2) == first + b"\r\n"
        server.call(client_has_it.set)
        assert client.read_until(b"0\r\n\r\n") == b"8\r\nthe rest\r\n"


def test_h15_app_that_works_on_after_its_response_cannot_touch_the_next(serve: Serve) -> None:
    """ASGI H15: later messages are ignored, also while the next request is being answered."""
    first_goes_on, first_is_done = asyncio.Event(), asyncio.Event()
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/first":
            await answer(send, b"first")
            await first_goes_on.wait()
            await begin_answer(send, status=500)
            await body(send, SMUGGLED, more=True)
            seen.put(await receive())
            first_is_done.set()
            raise ValueError("in the background")
        await begin_answer(send)
        await body(send, b"sec", more=True)
        first_goes_on.set()
        await first_is_done.wait()
        await body(send, b"ond")

    with RawClient(serve(app).port) as client:
        client.send(get("/first") + get("/second") + get("/second"))
        assert [client.read_answer().body for _ in range(3)] == [b"first", b"second", b"second"]
        assert seen.next() == {"type": "http.disconnect"}


def test_app_that_does_not_read_its_body_leaves_none_for_the_next_request(serve: Serve) -> None:
    """RFC 9112 §9.3: the rest of a body is read and dropped, before the next request is looked for."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await answer(send, scope["path"].encode())

    with RawClient(serve(app).port) as client:
        client.send(get("/1", "Content-Length: 20", method="POST") + b"GET /evil ")
        assert client.read_answer().body == b"/1"
        client.send(b"HTTP/1.1\r\n" + POST + get("/3", CLOSE))
        assert [client.read_answer().body for _ in range(2)] == [b"/", b"/3"]
        assert client.read_to_end() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 4000000", "Transfer-Encoding: chunked"])
def test_answer_reaches_a_client_that_is_still_sending_a_body_nobody_reads(serve: Serve, framing: str) -> None:
    """RFC 9112 §9.6: closing at once would reset the connection, and the answer be lost on its way."""

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"x" * 1_000_000, status=413)

    with RawClient(serve(on_request(talk)).port, receive_buffer=4096) as client:
        chunk = b"3d0900\r\n" if framing.endswith("chunked") else b""
        client.send(get("/", framing, method="POST") + chunk + bytes(4_000_000))
        answered = client.read_answer()
        assert (answered.status, answered.body) == (413, b"x" * 1_000_000)
        assert client.read_to_end() == b""
