"""The second document: a server that decodes and encodes frames by hand, and a page that sends every second.

The server knows the three lengths of a frame and no more of the protocol: one recv is one frame, each frame is text,
each frame is masked, and what it does not expect ends it for everybody. The page needs jQuery, which it does not load,
and sends whether or not it is connected; the one here does the same without either.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, accept, echo, messages, say
from tests.browser import closing_tabs, start_chromium, take_console, wait_until
from tests.conftest import Serve
from tests.raw import KEY, RawClient, close, frame, handshake, mask, text

REQUEST = b"\r\n".join([
    b"GET / HTTP/1.1", b"Upgrade: websocket", b"Connection: Upgrade", b"Host: 192.168.1.101:8888",
    b"Origin: http://192.168.1.101:8000", b"Sec-WebSocket-Key: hBxp5WcU+GvqHiOWpKipIQ==", b"Sec-WebSocket-Version: 13",
    b"\r\n",
])  # fmt: skip
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Every second</title>
<link rel="icon" href="data:,">
<h1>WebSocket</h1><ol id="answers"></ol>
<script>
const socket = new WebSocket(`ws://${location.host}/`);
socket.onopen = () => setInterval(() => socket.send("dfgs"), 50);
socket.onmessage = event => {
  const answer = document.createElement("li");
  answer.textContent = event.data;
  document.getElementById("answers").append(answer);
};
</script></html>
"""


class GoAndPlay:
    """The document's server: it sends every client away with a number, whatever it says. Serves the page too."""

    def __init__(self) -> None:
        self.heard = Recorder()
        self.ends = Recorder()
        self.connected = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/html; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": PAGE.encode()})
            return
        await accept(scope, receive, send)
        self.connected.put(dict(scope["headers"]))
        async for message in messages(receive, self.ends):
            self.heard.put(message)
            await say(send, f"一边玩去~{random.randint(1, 10000)}")


ANSWER = re.compile(r"一边玩去~([1-9]\d{0,3}|10000)")


# ---- the handshake


def test_request_of_the_document_gets_the_accept_value_it_says(serve: Serve) -> None:
    """RFC 6455 §4.2.2, item 5.4."""
    with RawClient(serve(GoAndPlay()).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.header(b"upgrade") == b"websocket"
        assert answer.header(b"connection") == b"Upgrade"
        assert answer.header(b"sec-websocket-accept") == b"n3NQ1Vd3cokG551zg4FLlsPkUmU="


def test_answer_says_no_location(serve: Serve) -> None:
    """RFC 6455 §4.2.2 has no such field; Sec-WebSocket-Location was of a draft, Websocket-Location of nobody."""
    with RawClient(serve(GoAndPlay()).port) as client:
        client.send(REQUEST)
        names = [name for name, _ in client.read_answer().headers]

        assert not [name for name in names if b"location" in name]


@pytest.mark.parametrize("seed", range(5))
def test_accept_value_is_base64_of_sha_1_of_the_key_and_the_magic_string(serve: Serve, seed: int) -> None:
    """RFC 6455 §1.3. It encrypts nothing and authenticates nobody: it shows that the server speaks WebSocket."""
    key = base64.b64encode(random.Random(seed).randbytes(16))
    with RawClient(serve(GoAndPlay()).port) as client:
        client.send(handshake().replace(KEY, key))

        expected = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        assert client.read_answer().header(b"sec-websocket-accept") == expected


@pytest.mark.parametrize("spelling", [b"sec-websocket-key", b"SEC-WEBSOCKET-KEY", b"Sec-Websocket-Key"])
def test_the_name_of_the_key_is_read_in_any_case(serve: Serve, spelling: bytes) -> None:
    """RFC 9110 §5.1: field names have no case. The document's server looks for one spelling."""
    with RawClient(serve(GoAndPlay()).port) as client:
        client.send(handshake().replace(b"Sec-WebSocket-Key", spelling))
        assert client.read_answer().status == 101


def test_a_request_without_a_key_does_not_end_the_server(serve: Serve) -> None:
    """RFC 6455 §4.2.1: it is answered with 400. The document's server leaves its loop, and with it all clients."""
    server = serve(GoAndPlay())
    with RawClient(server.port) as stays, RawClient(server.port) as client:
        stays.open_websocket()
        client.send(REQUEST.replace(b"Sec-WebSocket-Key", b"Sec-WebSocket-Nothing"))
        assert client.read_answer().status == 400

        stays.send(text("dfgs"))
        assert ANSWER.fullmatch(stays.read_text())
    with RawClient(server.port) as next_one:
        next_one.open_websocket()


# ---- what the server encodes: 7, 16 and 64 bits of length

LENGTHS = {
    0: b"\x00", 1: b"\x01", 124: b"\x7c", 125: b"\x7d",
    126: b"\x7e\x00\x7e", 127: b"\x7e\x00\x7f", 256: b"\x7e\x01\x00", 65534: b"\x7e\xff\xfe", 65535: b"\x7e\xff\xff",
    65536: b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 70000: b"\x7f\x00\x00\x00\x00\x00\x01\x11\x70",
    1_000_000: b"\x7f\x00\x00\x00\x00\x00\x0f\x42\x40",
}  # fmt: skip


async def as_long_as_told(scope: Scope, receive: Receive, send: Send) -> None:
    """Send messages as long as the client's numbers: letters, or with a minus characters of three bytes."""
    await accept(scope, receive, send)
    async for message in messages(receive):
        size = int(message)
        await say(send, "x" * size if size >= 0 else "一" * -size)


@pytest.mark.parametrize("size", LENGTHS)
def test_answer_has_its_length_in_7_or_16_or_64_bits(serve: Serve, size: int) -> None:
    """RFC 6455 §5.2: to 125 in 7 bits, to 65,535 in 16, above in 64; network byte order and no mask."""
    with RawClient(serve(as_long_as_told).port) as client:
        client.open_websocket()
        client.send(text(str(size)))

        assert client.read_exactly(1) == b"\x81"
        assert client.read_exactly(len(LENGTHS[size])) == LENGTHS[size]
        assert client.read_exactly(size) == b"x" * size


@pytest.mark.parametrize(
    ("count", "header"), [(41, b"\x7b"), (42, b"\x7e\x00\x7e"), (21845, b"\x7e\xff\xff"), (21846, LENGTHS[65536][:8])]
)
def test_the_length_is_of_bytes_and_not_of_characters(serve: Serve, count: int, header: bytes) -> None:
    """RFC 6455 §5.2: the payload length is in bytes, three for each of these characters."""
    with RawClient(serve(as_long_as_told).port) as client:
        client.open_websocket()
        client.send(text(str(-count)))

        assert client.read_exactly(1 + len(header)) == b"\x81" + header
        if len(header) == 8:
            assert client.read_exactly(1) == b"\x02"
        assert client.read_exactly(3 * count).decode() == "一" * count


# ---- what the server decodes


@pytest.mark.parametrize("size", LENGTHS)
def test_a_message_of_any_of_the_lengths_is_heard_whole(serve: Serve, size: int) -> None:
    """RFC 6455 §5.2 and §5.3: three lengths, and the mask behind each. The document's server takes one recv(8096)."""
    app = GoAndPlay()
    message = "".join(chr(97 + index % 26) for index in range(size))
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(text(message))

        assert ANSWER.fullmatch(client.read_text())
    assert app.heard.next() == message


@pytest.mark.parametrize(
    "length", [b"\xfe\x00\x7d", b"\xfe\x00\x00", b"\xff" + bytes(6) + b"\xff\xff", b"\xff" + bytes(7) + b"\x05"]
)
def test_a_length_in_more_bits_than_it_needs_closes_1002(serve: Serve, length: bytes) -> None:
    """RFC 6455 §5.2: the minimal number of bytes MUST be used. The document's server does not look."""
    with RawClient(serve(GoAndPlay()).port) as client:
        client.open_websocket()
        client.send(b"\x81" + length + b"\x37\xfa\x21\x3d")

        code, reason = client.read_close()
        assert code == 1002
        assert reason.endswith("allowed: the fewest bytes, below 2^63")


@pytest.mark.parametrize("size", [4, 200])
def test_a_frame_cut_anywhere_is_one_message(serve: Serve, size: int) -> None:
    """RFC 6455 §5.4: packets mean nothing. In the document one recv is one frame."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        for byte in text("d" * size):
            client.send(bytes([byte]))
        client.send(close())

        assert ANSWER.fullmatch(client.read_text())
        assert client.read_close() == (1000, "")
    assert app.heard.next() == "d" * size


def test_frames_in_one_packet_are_a_message_each(serve: Serve) -> None:
    """RFC 6455 §5.4: the document's server would take the second for the end of the first."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(text("d") + text("") + text("f" * 200) + text("g"))

        answers = [client.read_text() for _ in range(4)]
    assert all(ANSWER.fullmatch(answer) for answer in answers)
    assert [app.heard.next() for _ in range(4)] == ["d", "", "f" * 200, "g"]


def test_a_frame_without_a_mask_closes_1002(serve: Serve) -> None:
    """RFC 6455 §5.1: the document's server takes the first bytes of its payload for the mask."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(frame(1, b"dfgs", key=None))

        assert client.read_close() == (1002, "unmasked text frame, allowed: masked frames")
    assert app.heard.empty


def test_a_masked_payload_is_the_exclusive_or_with_the_key(serve: Serve) -> None:
    """RFC 6455 §5.3: byte i with byte i modulo 4 of the key, shown on the example of RFC 6455 §5.7."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")

        assert client.read_exactly(7) == b"\x81\x05Hello"
    assert mask(b"Hello") == b"\x7f\x9f\x4d\x51\x58"


def test_a_ping_is_answered_and_is_no_message(serve: Serve) -> None:
    """RFC 6455 §5.5.2: to the document's server a ping is text like everything."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(frame(9, b"dfgs") + text("after"))

        assert client.read_frame() == (0x8A, b"dfgs")
        assert ANSWER.fullmatch(client.read_text())
    assert app.heard.next() == "after"


def test_a_close_is_answered_and_is_no_message(serve: Serve) -> None:
    """RFC 6455 §5.5.1: to the document's server 1000 is text that is not UTF-8, and the end without a Close."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(close(1000, "enough"))

        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""
    assert app.ends.next() == (1000, "enough")
    assert app.heard.empty


def test_a_binary_message_is_not_made_into_text(serve: Serve) -> None:
    """RFC 6455 §5.6: bytes that are no UTF-8 are as good as others. The document decodes all of them."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(frame(2, b"\xff\x00dfgs"))

        assert ANSWER.fullmatch(client.read_text())
    assert app.heard.next() == b"\xff\x00dfgs"


def test_a_client_that_leaves_ends_its_application(serve: Serve) -> None:
    """RFC 6455 §7.1.5: the document's server reads nothing from such a client, as fast as it can, for ever."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
    assert app.ends.next() == (1006, "")


# ---- what the document says WebSocket is for


def test_one_handshake_serves_for_as_long_as_both_like(serve: Serve) -> None:
    """The document: shake hands once, use it long. The application is called once for all of it."""
    app = GoAndPlay()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        for _ in range(200):
            client.send(text("dfgs"))
            assert ANSWER.fullmatch(client.read_text())
    app.connected.next()
    assert app.connected.empty


def test_the_server_speaks_first_when_it_has_something_to_say(serve: Serve) -> None:
    """The document: the server pushes, where a page on HTTP would have to ask again and again."""

    async def push(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        for number in range(3):
            await say(send, f"news {number}")
        async for _ in messages(receive):
            pass

    with RawClient(serve(push).port) as client:
        client.open_websocket()
        assert [client.read_text() for _ in range(3)] == ["news 0", "news 1", "news 2"]


# ---- the page


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.mark.browser
@pytest.mark.slow
def test_page_that_sends_every_second_is_answered_every_time(serve: Serve, chromium: Chrome) -> None:
    """The page in a browser, its second shortened, without jQuery, and its timer begun when it is connected."""
    app = GoAndPlay()
    server = serve(app)
    with closing_tabs(chromium):
        chromium.switch_to.new_window("tab")
        chromium.get(server.url)
        wait_until(chromium, lambda: len(chromium.find_elements(By.TAG_NAME, "li")) >= 5)
        answers = [element.text for element in chromium.find_elements(By.TAG_NAME, "li")]
        console = take_console(chromium)

    assert [app.heard.next() for _ in answers] == ["dfgs"] * len(answers)
    assert all(ANSWER.fullmatch(answer) for answer in answers), answers
    assert app.connected.next()[b"origin"] == server.url.encode()
    assert app.ends.next()[0] == 1001  # closing the tab: RFC 6455 §7.4.1, going away
    assert console == []
