"""One test for each security advisory of another server or library that could be one of ours.

These advisories do not apply, because there is nothing here that they could be about:

* HTTP/2: CVE-2023-44487 (rapid reset), CVE-2025-57804 (CRLF in h2), CVE-2026-42788, GHSA-9q5m-g6v3-6772 and
  GHSA-x3gh-xhj4-3vq8 (frame and header list size). Of GHSA-xj8g-532w-jv94, blocked sends, the test is below.
* Authentication: CVE-2021-33880 (timing of basic authentication); this server compares no secret.
* Bodies are given to the application as they come: CVE-2025-69223 (zip bomb in a body), -69228 (multipart).
* No cookies are parsed and no redirect is made: CVE-2025-69230 (but its log storm is tested), CVE-2020-35678.
* WSGI environments: of CVE-2015-0219 only that a name is handed over as it was sent.
* JavaScript's uninitialised buffers: CVE-2026-45736; a `bytes` object cannot be read before it is written.
"""

from __future__ import annotations

import asyncio
import logging
import zlib

import pytest

from asgiws.config.options import Config
from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, accept, echo, refuse_lifespan
from tests.conftest import RunningServer, Serve
from tests.raw import Answer, RawClient, close, frame, handshake, text

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(server: RunningServer, request: bytes) -> tuple[Answer, bytes]:
    """Send a request that is refused; give the answer and what comes behind it up to the end of the connection."""
    with RawClient(server.port) as client:
        client.send(request)
        return client.read_answer(), client.read_to_end()


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", *fields, b"", body])


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def refused_with(server: RunningServer, sent: bytes, *headers: str) -> int | None:
    """Open a WebSocket, send bytes, and give the close code that answers them; the next client is served."""
    with RawClient(server.port) as client:
        client.open_websocket("/", *headers)
        client.send(sent)
        code = client.read_close()[0]
        assert client.read_to_end() == b""
    assert serves(server)
    return code


def serves(server: RunningServer) -> bool:
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("next") + close())
        return client.read_text() == "next"


def bomb(fragments: int) -> bytes:
    """Give a compressed message of 64 MiB of zeros, in so many frames."""
    deflate = zlib.compressobj(wbits=-15)
    packed = deflate.compress(bytes(64 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    step = -(-len(packed) // fragments)
    pieces = [packed[at : at + step] for at in range(0, len(packed), step)]
    return b"".join(
        frame(0 if at else 2, piece, fin=at == len(pieces) - 1, rsv=0 if at else 4) for at, piece in enumerate(pieces)
    )


# ---- header and log injection


def test_cve_2020_7694_log_lines_cannot_be_forged_by_a_path(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn: the percent-decoded path reached the log as it was."""
    with caplog.at_level(logging.INFO, "asgiws"):
        server = serve(echo, access_log=True)
        with RawClient(server.port) as client:
            client.open_websocket("/%0Aforged%1B%5B2J%C2%85%E2%80%A8")
            client.send(close())
            client.read_to_end()
        server.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == "asgiws.access"]
    assert len(lines) == 2
    for line in lines:
        assert line.isascii()
        assert line.isprintable()


@pytest.mark.parametrize("injected", [b"a\r\nX-Injected: 1", b"a\nX-Injected: 1", b"a\rX-Injected: 1", b"a\0b"])
def test_cve_2020_7695_and_cve_2018_1000164_crlf_in_response_headers(serve: Serve, injected: bytes) -> None:
    """uvicorn, gunicorn: an application that puts user input in a header lets the user split its response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 302, "headers": [(b"location", injected)]})

    server = serve(app)
    answer, rest = ask(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, rest) == (500, b"")
    assert injected not in answer.raw_head
    assert answer.header(b"x-injected") is None


@pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e"])
def test_cve_2026_44546_characters_that_split_lines_elsewhere_are_refused(serve: Serve, byte: bytes) -> None:
    """daphne: the WebSocket path read headers again, with `splitlines`."""
    server = serve(echo)
    answer, _ = ask(server, handshake("/", "X-A: b" + byte.decode("latin-1") + "X-Injected: 1"))
    assert (answer.status, answer.body.partition(b":")[0]) == (400, b"control-character")


def test_cve_2026_44546_an_8_bit_line_end_splits_no_header(serve: Serve) -> None:
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        recorder.put(scope["headers"])

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket("/", "X-A: b\x85X-Injected: 1")
    headers = dict(recorder.next())
    assert headers[b"x-a"] == b"b\x85X-Injected: 1"
    assert b"x-injected" not in headers


def test_cve_2026_42544_8_bit_subprotocol_is_refused_and_the_next_client_served(serve: Serve) -> None:
    """granian: the worker was aborted."""
    server = serve(echo)
    answer, _ = ask(server, handshake("/", "Sec-WebSocket-Protocol: caf\xe9"))
    assert (answer.status, answer.body.partition(b":")[0]) == (400, b"bad-subprotocol")
    assert serves(server)


@pytest.mark.parametrize("subprotocol", ["chat\r\nX-Injected: 1", "caf\xe9", "\x1b", "\ud800"])
def test_cve_2026_42544_subprotocol_of_the_application_that_is_no_token(serve: Serve, subprotocol: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send, subprotocol=subprotocol if scope["path"] == "/bad" else None)
        await receive()
        await send({"type": "websocket.send", "text": "next"})

    server = serve(app)
    answer, _ = ask(server, handshake("/bad", "Sec-WebSocket-Protocol: chat"))
    assert answer.status == 500
    assert answer.header(b"x-injected") is None
    assert serves(server)


def test_cve_2015_0219_underscore_and_hyphen_are_two_names(serve: Serve) -> None:
    """Django under WSGI: `X_User` became the `X-User` that a proxy vouches for."""
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        recorder.put(scope)
        await echo(scope, receive, send)

    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX_User: mallory\r\nX-User: alice\r\n\r\n")
        assert client.read_answer().status == 200
    assert recorder.next()["headers"] == [(b"host", b"x"), (b"x_user", b"mallory"), (b"x-user", b"alice")]


# ---- requests that two parties read in two ways

TWO_READINGS = {
    "cve-2024-1135-coding-and-length": (post(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    "cve-2024-6827-unknown-coding": (post(b"Transfer-Encoding: xchunked"), 501),
    "cve-2024-1135-chunked-is-not-last": (post(b"Transfer-Encoding: chunked, identity"), 400),
    "cve-2025-43859-no-line-end-behind-a-chunk": (chunked(b"3\r\nabcXX0\r\n\r\n"), 400),
    "cve-2026-39805-two-lengths": (post(b"Content-Length: 5", b"Content-Length: 5"), 400),
    "ghsa-pjjw-cve-2024-52304-line-end-in-chunk-extension": (chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), 400),
    "cve-2023-38697-chunk-size-with-sign": (chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    "cve-2023-38697-chunk-size-with-prefix": (chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "cve-2022-24801-length-with-sign": (post(b"Content-Length: +3", body=b"abc"), 400),
    "ghsa-gfw2-length-with-underscore": (post(b"Content-Length: 1_0", body=b"abc"), 400),
    "cve-2023-49082-method-with-line-end": (b"GET\n / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "cve-2023-49081-version-with-line-end": (b"GET / HTTP/1.1\nX: y\r\nHost: x\r\n\r\n", 400),
    "ghsa-45c4-space-before-colon": (post(b"Content-Length : 3", body=b"abc"), 400),
    "cve-2025-58068-trailer-that-is-a-request": (chunked(b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n"), 400),
    "cve-2023-41419-trailer-without-colon": (chunked(b"0\r\nno field\r\n\r\n"), 400),
    "cve-2025-53643-folded-trailer": (chunked(b"0\r\nX-A: b\r\n c\r\n\r\n"), 400),
}


@pytest.mark.parametrize(("request_bytes", "status"), TWO_READINGS.values(), ids=TWO_READINGS.keys())
def test_request_that_can_be_read_in_two_ways_ends_the_connection(
    serve: Serve, request_bytes: bytes, status: int
) -> None:
    """Request smuggling in gunicorn, h11, Bandit, aiohttp, Twisted, eventlet, gevent and protocol-http1."""
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        recorder.put(scope["path"])
        await echo(scope, receive, send)

    server = serve(app, lifespan="off")
    answer, rest = ask(server, request_bytes + SMUGGLED)
    assert (answer.status, answer.header(b"connection"), rest) == (status, b"close", b"")
    server.stop()
    while not recorder.empty:
        assert recorder.next() != "/smuggled"


def test_cve_2024_41671_and_cve_2023_46137_pipelined_answers_come_in_order(serve: Serve) -> None:
    """Twisted: the answer to the second request could come first."""
    began, release = Recorder(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        began.put(scope["path"])
        if scope["path"] == "/slow":
            await release.wait()
        elif scope["path"] == "/release":
            release.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    server = serve(app)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.send(b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/slow", b"/quick")))
        assert began.next() == "/slow"
        other.send(b"GET /release HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.read_answer().body == b"/release"
        assert [client.read_answer().body, client.read_answer().body] == [b"/slow", b"/quick"]


def test_cve_2026_39807_scheme_is_the_connections_own(serve: Serve) -> None:
    """Bandit: an absolute target made a plain connection look encrypted."""
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        recorder.put((scope["scheme"], scope["path"]))
        await echo(scope, receive, send)

    server = serve(app, lifespan="off")
    with RawClient(server.port) as client:
        client.send(b"GET https://x/a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer().status == 200
    assert recorder.next() == ("http", "/a")


# ---- what costs the server more than the client

TOO_MUCH = {
    "cve-2023-43669-huge-header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 70000 + b"\r\n\r\n", {}, 431),
    "cve-2024-37890-many-headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 128 + b"\r\n", {}, 431),
    "cve-2026-39803-chunked-body": (chunked(b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"), {"max_body_size": 100}, 413),
    "cve-2026-39806-trailers": (chunked(b"0\r\n" + b"X-A: " + b"y" * 70000 + b"\r\n\r\n"), {}, 431),
    "cve-2007-6750-slowloris": (b"GET / HTTP/1.1\r\nHost: x\r\n", {"head_timeout": 0.2}, 408),
}


@pytest.mark.parametrize(("sent", "options", "status"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_request_over_a_limit_is_refused(serve: Serve, sent: bytes, options: dict[str, object], status: int) -> None:
    """tungstenite, ws, Bandit, and every server there was in 2007."""
    server = serve(echo, **options)
    answer, rest = ask(server, sent)
    assert (answer.status, answer.header(b"connection"), rest) == (status, b"close", b"")
    assert serves(server)


def test_cve_2021_32640_a_subprotocol_field_of_spaces_is_read_in_linear_time(serve: Serve) -> None:
    """ws: a regular expression took minutes over it."""
    server = serve(echo)
    answer, _ = ask(server, handshake("/", f"Sec-WebSocket-Protocol: a{' ' * 60000}b"))
    assert answer.status == 400


@pytest.mark.parametrize("name", ["constructor", "__proto__", "__class__", "toString; hasOwnProperty"])
def test_ghsa_5v72_xg48_5rpm_extension_named_as_an_attribute_is_not_agreed(serve: Serve, name: str) -> None:
    """ws: `constructor` was found in the table of extensions."""
    server = serve(echo)
    with RawClient(server.port) as client:
        answer = client.open_websocket("/", f"Sec-WebSocket-Extensions: {name}")
        assert answer.header(b"sec-websocket-extensions") is None


SIZE = Config().max_message_size
MESSAGES: dict[str, tuple[bytes, dict[str, object], int]] = {
    # FIN and binary; masked, length in 64 bits: the limit and one byte
    "cve-2026-44545-cve-2016-10542-frame-size": (b"\x82\xff" + (SIZE + 1).to_bytes(8, "big") + bytes(4), {}, 1009),
    "cve-2026-44545-message-size": (
        frame(2, b"x" * 600, fin=False) + frame(0, b"x" * 425), {"max_message_size": 1024}, 1009,
    ),
    "cve-2018-1000518-cve-2021-21419-size-after-inflating": (bomb(1), {}, 1009),
    "cve-2018-1000518-bomb-in-fragments": (bomb(50), {}, 1009),
    "cve-2026-39804-ratio-of-inflating": (
        bomb(1), {"max_message_size": 128 << 20, "max_inflate_ratio": 200}, 1009,
    ),
    "cve-2026-48779-tiny-fragments": (
        frame(2, b"x", fin=False) + frame(0, b"x", fin=False) * (128 << 10), {}, 1009,
    ),
    "cve-2026-65623-cve-2026-42786-empty-continuations": (
        frame(2, b"x", fin=False) + frame(0, b"", fin=False) * 1025, {}, 1008,
    ),
    "ghsa-rhh8-5xw9-c3gm-unmasked-text": (frame(1, b"x", key=None), {}, 1002),
    "ghsa-rhh8-5xw9-c3gm-unmasked-ping": (frame(9, b"x", key=None), {}, 1002),
    "ghsa-rhh8-5xw9-c3gm-unmasked-close": (frame(8, b"\x03\xe8", key=None), {}, 1002),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "options", "code"), MESSAGES.values(), ids=MESSAGES.keys())
def test_message_that_is_refused(serve: Serve, sent: bytes, options: dict[str, object], code: int) -> None:
    """daphne, ws, websockets, eventlet and Bandit: frames and messages without a limit, frames without a mask."""
    assert refused_with(serve(echo, **options), sent, DEFLATE) == code


def test_cve_2025_69229_chunks_of_one_byte_are_a_body_like_any_other(serve: Serve) -> None:
    """aiohttp: their cost grew with the square of their number."""
    server = serve(echo)
    with RawClient(server.port) as client:
        client.send(chunked(b"1\r\nx\r\n" * 100000 + b"0\r\n\r\n"))
        assert client.read_answer().body == b"x" * 100000


def test_cve_2025_69230_a_storm_of_bad_requests_is_not_a_storm_of_log_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp: a line for every bad cookie."""
    count = 300
    with caplog.at_level(logging.INFO, "asgiws"):
        server = serve(echo)
        for _ in range(count):
            with RawClient(server.port) as client:
                client.send(b"\x00")
                assert client.read_answer().status == 400
        server.stop()
    assert server.server.counters.rejections["not-http"] == count
    assert 20 <= sum("not-http" in record.getMessage() for record in caplog.records) < count


def test_ghsa_xj8g_532w_jv94_blocked_write_is_bounded_in_time(serve: Serve) -> None:
    """Bandit: a client that did not read held a process for ever."""
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except OSError as error:
            recorder.put(type(error).__name__)
            raise

    server = serve(app, write_timeout=0.2)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert recorder.next() == "ClientDisconnected"
