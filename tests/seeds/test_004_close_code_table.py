"""The fifth document: HTTP and WebSocket compared, the rules of the handshake, the table of close codes, duplex.

Each row of the table is tried from both sides: what an application may say, what a client may, and what the other one
reads. Where a row names a code that is never sent, `send` raises, and a client that sends it has broken a rule.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Iterator

import pytest
import websocket
from selenium.webdriver import Chrome
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, echo, messages, refuse_lifespan, say
from tests.browser import closing_tabs, start_chromium
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, text

REQUEST = b"\r\n".join([
    b"GET /chat HTTP/1.1", b"Host: server.example.com", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Origin: https://example.com",
    b"Sec-WebSocket-Protocol: chat, superchat", b"Sec-WebSocket-Version: 13", b"\r\n",
])  # fmt: skip


class Table:
    """An application that closes as the query says, or waits for the client to, and writes down how it ended.

    Answers HTTP with an empty page, from which a browser's script may connect.
    """

    def __init__(self) -> None:
        self.ends = Recorder()
        self.raised = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<!doctype html><link rel=icon href=data:,>"})
            return
        if scope["path"] == "/refused":
            await send({"type": "websocket.close", "code": int(scope["query_string"])})
            return
        offered = scope.get("subprotocols") or [None]
        await accept(scope, receive, send, subprotocol=offered[0])
        if scope["query_string"]:
            try:
                await send({"type": "websocket.close", "code": int(scope["query_string"]), "reason": "the table"})
            except ValueError as error:
                self.raised.put(str(error))
                raise
        async for message in messages(receive, self.ends):
            await say(send, message)


# ---- the handshake


def test_handshake_of_the_document_is_answered_as_it_says(serve: Serve) -> None:
    """RFC 6455 §4.2.2."""
    with RawClient(serve(Table()).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.header(b"upgrade") == b"websocket"
        assert answer.header(b"connection") == b"Upgrade"
        assert answer.header(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert answer.header(b"sec-websocket-protocol") == b"chat"


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (b"GET ", b"PUT ", 405),
        (b"GET ", b"HEAD ", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 400),
        (b"HTTP/1.1", b"HTTP/2.0", 505),
        (b"Upgrade: websocket", b"Upgrade: h2c", 200),
        (b"Upgrade: websocket\r\n", b"", 200),
        (b"Connection: Upgrade\r\n", b"", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 426),
    ],
    ids=["put", "head", "1.0", "2.0", "other-upgrade", "no-upgrade", "no-connection", "no-key", "no-version"],
)
def test_what_a_handshake_must_have_is_asked_for(serve: Serve, before: bytes, after: bytes, status: int) -> None:
    """RFC 6455 §4.1: GET, HTTP/1.1, Upgrade, Connection, key and version. The document has "above 1.1"; 1.1 it is."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.send(REQUEST.replace(before, after))
        assert client.read_answer().status == status
    assert app.ends.empty


@pytest.mark.parametrize("line", [b"Sec-WebSocket-Protocol: chat, superchat\r\n", b"Origin: https://example.com\r\n"])
def test_subprotocol_and_origin_may_be_missing(serve: Serve, line: bytes) -> None:
    """RFC 6455 §4.1, items 8 and 10: the document has the first for necessary, and neither is."""
    with RawClient(serve(Table()).port) as client:
        client.send(REQUEST.replace(line, b""))
        assert client.read_answer().status == 101


def test_origin_is_there_against_pages_of_other_sites(serve: Serve) -> None:
    """RFC 6455 §10.2: a browser names the page's origin, and with `allowed_origins` the server looks."""
    for allowed, status in (("https://example.com", 101), ("https://example.org", 403)):
        with RawClient(serve(Table(), allowed_origins=allowed).port) as client:
            client.send(REQUEST)
            assert client.read_answer().status == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_a_handshake_may_be_answered_with_any_error_of_http(serve: Serve, status: int) -> None:
    """RFC 6455 §4.2.2: until the 101 it is HTTP, and an application answers as it would there."""

    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "websocket.http.response.start", "status": status, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    with RawClient(serve(deny).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.header(b"x-why")) == (status, b"no", b"because")


# ---- the table of close codes

SENT = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013]
NEVER_SENT = [0, 1, 999, 1004, 1005, 1006, 1015]


@pytest.mark.parametrize("code", SENT)
def test_code_of_the_table_from_the_application_is_on_the_wire(serve: Serve, code: int) -> None:
    """RFC 6455 §7.4.1: the client reads code and reason, and the application its own code again."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket(f"/?{code}")
        assert client.read_close() == (code, "the table")
        client.send(close(code))
        assert client.read_to_end() == b""
    assert app.ends.next() == (code, "the table")


@pytest.mark.parametrize("code", SENT)
def test_code_of_the_table_from_the_client_is_echoed(serve: Serve, code: int) -> None:
    """RFC 6455 §5.5.1: the same code comes back, and the application reads it with the reason."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(close(code, "the table"))
        assert client.read_close() == (code, "")
        assert client.read_to_end() == b""
    assert app.ends.next() == (code, "the table")


@pytest.mark.parametrize("code", NEVER_SENT)
def test_reserved_code_from_the_application_raises_and_is_1011_on_the_wire(serve: Serve, code: int) -> None:
    """RFC 6455 §7.4.1 and §7.4.2: 0 to 999, 1004, 1005, 1006 and 1015 stand in no Close frame."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket(f"/?{code}")
        assert client.read_close() == (1011, "internal error")
    assert app.raised.next().startswith(f"close code {code}, allowed: ")


@pytest.mark.parametrize("code", NEVER_SENT)
def test_reserved_code_from_the_client_closes_1002(serve: Serve, code: int) -> None:
    """RFC 6455 §7.4.1: the client broke a rule, and the application reads that, not the code it made up."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(close(code))
        reason = f"close code {code}, allowed: 1000-1003, 1007-1014, 3000-4999"
        assert client.read_close() == (1002, reason)
    assert app.ends.next() == (1002, reason)


def test_1005_is_a_close_without_a_code(serve: Serve) -> None:
    """RFC 6455 §7.1.5: made up by the side that reads it; the answer on the wire is as empty."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(close(None))
        assert client.read_close() == (None, "")
    assert app.ends.next() == (1005, "")


def test_1006_is_an_end_without_a_close(serve: Serve) -> None:
    """RFC 6455 §7.1.5: made up too, here when the client just closes TCP."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
    assert app.ends.next() == (1006, "")


def test_1007_is_data_that_does_not_fit_its_type(serve: Serve) -> None:
    """RFC 6455 §7.4.1: text that is not UTF-8. The document calls it "Unsupported Data", which is 1003."""
    app = Table()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(frame(1, b"\xff\xfe"))
        assert client.read_close()[0] == 1007
    assert app.ends.next()[0] == 1007


def test_1008_is_a_policy_that_was_broken(serve: Serve) -> None:
    """RFC 6455 §7.4.1: here the operator's, of two messages a second. What came before is answered."""
    app = Table()
    with RawClient(serve(app, max_message_rate=2).port) as client:
        client.open_websocket()
        client.send(text("1") + text("2") + text("3"))
        assert [client.read_text(), client.read_text()] == ["1", "2"]
        assert client.read_close() == (1008, "over 2 messages in a second, the limit")
    assert app.ends.next()[0] == 1008


def test_1009_is_too_large_a_message_in_one_frame_or_in_many(serve: Serve) -> None:
    """RFC 6455 §7.4.1: the document has frames for it; it is the message that counts."""
    server = serve(Table(), max_message_size=100)
    for data in (text("x" * 101), frame(1, b"x" * 60, fin=False) + frame(0, b"x" * 41)):
        with RawClient(server.port) as client:
            client.open_websocket()
            client.send(data)
            assert client.read_close() == (1009, "message of 101 bytes or more, limit 100")


# ---- what is carried

PNG = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
    for kind, data in (
        (b"IHDR", struct.pack("!IIBBBBB", 2, 2, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\xff\0\0\0\xff\0" * 2)),
        (b"IEND", b""),
    )
)
PAYLOADS: dict[str, str | bytes] = {
    "text": "全双工 full duplex \N{PARTY POPPER}",
    "json": json.dumps({"name": "世界", "list": [1, 2.5, None, True], "escaped": '"\\\n\0'}, ensure_ascii=False),
    "xml": '<?xml version="1.0" encoding="UTF-8"?>\r\n<a b="1">&lt;ü<![CDATA[ ]]> </a>',
    "html": "<!doctype html><script>alert('&amp;')</script><p>100 % as it came\n",
    "image": PNG,
    "large-image": PNG * 1000,
}


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_payload_of_any_format_comes_back_as_it_was(serve: Serve, kind: str, compression: str | None) -> None:
    """RFC 6455 §5.6: text is UTF-8, binary is anything, and the server reads neither."""
    with connect(serve(echo).ws_url, compression=compression, proxy=None) as client:
        client.send(PAYLOADS[kind])
        assert client.recv(PATIENCE_S) == PAYLOADS[kind]


def test_frames_keep_their_order(serve: Serve) -> None:
    """RFC 6455 §5.4: short and long, whole and in fragments, with pings between them."""
    wanted: list[bytes] = []
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        for number in range(300):
            wanted.append(f"{number}:".encode() + b"x" * (number * 37 % 700))
            if number % 3:
                client.send(frame(2, wanted[-1]))
            else:
                client.send(frame(2, wanted[-1][:2], fin=False) + frame(9) + frame(0, wanted[-1][2:]))
        got: list[bytes] = []
        while len(got) < len(wanted):
            first, payload = client.read_frame()
            if first != 0x8A:
                got.append(payload)
    assert got == wanted


def test_a_message_has_no_headers_after_the_handshake(serve: Serve) -> None:
    """The document: less traffic. A hundred answers are a hundred payloads and two bytes each."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        for _ in range(100):
            client.send(text("ping"))
        client.send(close())
        assert client.read_to_end() == b"\x81\x04ping" * 100 + b"\x88\x02\x03\xe8"


def test_a_gateway_may_stand_between(serve: Serve) -> None:
    """RFC 6455 §1.7: the document doubts it; a gateway has one connection to each side and passes bytes."""
    server = serve(Table())

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(4096):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    async def run() -> tuple[object, int | None]:
        async with await asyncio.start_server(relay, "127.0.0.1", 0) as gateway:
            port = gateway.sockets[0].getsockname()[1]
            async with connect_async(f"ws://127.0.0.1:{port}", proxy=None, close_timeout=PATIENCE_S) as client:
                await client.send(PNG * 1000)
                answer = await client.recv()
                await client.close(1001)
                return answer, client.close_code

    assert asyncio.run(run()) == (PNG * 1000, 1001)


# ---- duplex


def test_full_duplex_messages_come_in_while_others_wait_to_go_out(serve: Serve) -> None:
    """The document: both directions at the same moment. Here the client reads nothing until it was heard."""
    heard = Recorder()
    count, size = 64, 256 * 1024

    async def both_ways(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)

        async def talk() -> None:
            for _ in range(count):
                await say(send, b"\0" * size)

        talking = asyncio.create_task(talk())
        async for message in messages(receive):
            heard.put((message, talking.done()))
        await talking

    with RawClient(serve(both_ways).port, receive_buffer=4096) as client:
        client.open_websocket()
        for number in range(3):
            client.send(text(str(number)))
        assert [heard.next() for _ in range(3)] == [("0", False), ("1", False), ("2", False)]
        assert all(client.read_frame() == (0x82, b"\0" * size) for _ in range(count))
        client.send(close())
        assert client.read_close() == (1000, "")


def test_half_duplex_is_a_dialogue_in_turns(serve: Serve) -> None:
    """The document: one direction at a time; nothing but an application's own rule."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        for word in ("over", "over", "out"):
            client.send(text(word))
            assert client.read_text() == word


def test_simplex_from_the_server_needs_no_message_of_the_client(serve: Serve) -> None:
    """The document: one direction only. The application never receives, and its end is a Close."""

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        for number in range(100):
            await say(send, str(number))

    with RawClient(serve(tell).port) as client:
        client.open_websocket()
        assert [client.read_text() for _ in range(100)] == [str(number) for number in range(100)]
        assert client.read_close() == (1000, "")


def test_simplex_from_the_client_needs_no_answer(serve: Serve) -> None:
    """The other direction: the application hears everything and says nothing."""
    heard = Recorder()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        async for message in messages(receive):
            heard.put(message)

    with RawClient(serve(listen).port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(100)) + close())
        assert client.read_to_end() == b"\x88\x02\x03\xe8"
    assert [heard.next() for _ in range(100)] == [str(number) for number in range(100)]


# ---- clients


def test_websocket_client_is_the_module_that_has_websocket(serve: Serve) -> None:
    """The document's appendix: `websocket.WebSocket` is of the package websocket-client, and talks to this server."""
    client = websocket.WebSocket()
    client.connect(serve(echo).ws_url, timeout=PATIENCE_S)  # type: ignore[no-untyped-call]  # it has no types
    client.send("has the attribute")
    assert client.recv() == "has the attribute"
    client.close(1000)
    assert client.close_frame is not None
    assert client.close_frame.data == struct.pack("!H", 1000)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_script_timeout(PATIENCE_S)
        yield driver


ONCLOSE = """
const [path, then, done] = arguments;
const socket = new WebSocket(`ws://${location.host}${path}`);
socket.onopen = () => { if (then) eval(then); };
socket.onclose = event => done([event.code, event.reason, event.wasClean]);
"""


@pytest.mark.browser
@pytest.mark.slow
def test_codes_of_the_table_reach_onclose_of_a_page(serve: Serve, chromium: Chrome) -> None:
    """WebSocket API: onclose has what the server sent, 1005 for an empty Close, 1006 for a refused handshake."""

    def onclose(path: str, then: str = "") -> object:
        return chromium.execute_async_script(ONCLOSE, path, then)

    app = Table()
    server = serve(app)
    with closing_tabs(chromium):
        chromium.switch_to.new_window("tab")
        chromium.get(server.url)
        for code in [*SENT, 1014, 3000, 4999]:
            assert onclose(f"/?{code}") == [code, "the table", True]
            assert app.ends.next() == (code, "the table")
        assert onclose("/", "socket.close()") == [1005, "", True]
        assert app.ends.next() == (1005, "")
        assert onclose("/", "socket.close(3000, 'of the page')") == [3000, "", True]
        assert app.ends.next() == (3000, "of the page")
        assert onclose("/refused?1000") == [1006, "", False]


@pytest.mark.browser
@pytest.mark.slow
def test_1001_is_a_page_that_is_left(serve: Serve, chromium: Chrome) -> None:
    """RFC 6455 §7.4.1: a browser that discards the page of a connection says that it goes away."""
    app = Table()
    server = serve(app)
    with closing_tabs(chromium):
        chromium.switch_to.new_window("tab")
        chromium.get(server.url)
        opened = "window.kept = new WebSocket(`ws://${location.host}/`); kept.onopen = () => arguments[0](true);"
        assert chromium.execute_async_script(opened) is True
        chromium.refresh()
        assert app.ends.next() == (1001, "")
