"""The third document: the handshake with subprotocols, the layout of a frame, how a client builds one, a TCP server.

The frame builder is the one of websocket-client, whose present version is asked here. The TCP server answers every
request with a redirect: with a line end before its status line, without the CRs, and with nothing that says where the
answer ends.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack

import pytest
from websocket import ABNF, WebSocketException, create_connection

from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, echo, messages, refuse_lifespan, say
from tests.conftest import Serve
from tests.raw import MASK, RawClient, frame, handshake, text

REQUEST = b"\r\n".join([
    b"GET /chat HTTP/1.1", b"Host: server.example.com", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Origin: http://example.com",
    b"Sec-WebSocket-Protocol: chat, superchat", b"Sec-WebSocket-Version: 13", b"\r\n",
])  # fmt: skip
REQUEST_OF_CURL = b"\r\n".join([
    b"GET / HTTP/1.1", b"Host: echo.websocket.org", b"User-Agent: curl/7.88.1", b"Accept: */*", b"Connection: Upgrade",
    b"Upgrade: websocket", b"Origin: http://www.websocket.org", b"\r\n",
])  # fmt: skip


class Speaks:
    """An application that speaks some subprotocols, prefers its own order, and says what came."""

    def __init__(self, *subprotocols: str) -> None:
        self.subprotocols = subprotocols
        self.offered = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        offered = scope["subprotocols"]
        self.offered.put(offered)
        chosen = next((name for name in self.subprotocols if name in offered), None)
        await accept(scope, receive, send, subprotocol=chosen)
        async for message in messages(receive):
            await say(send, message)


# ---- the handshake


def test_handshake_of_the_document_is_answered_as_it_says(serve: Serve) -> None:
    """RFC 6455 §1.3: the request and the answer that the document has from there."""
    app = Speaks("chat")
    with RawClient(serve(app).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.header(b"upgrade") == b"websocket"
        assert answer.header(b"connection") == b"Upgrade"
        assert answer.header(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert answer.header(b"sec-websocket-protocol") == b"chat"
    assert app.offered.next() == ["chat", "superchat"]


@pytest.mark.parametrize(
    ("spoken", "agreed"), [(["chat"], "chat"), (["superchat"], "superchat"), (["superchat", "chat"], "superchat")]
)
def test_the_application_chooses_one_of_the_subprotocols(serve: Serve, spoken: list[str], agreed: str) -> None:
    """RFC 6455 §4.2.2, item 5.5: one value that the client offered."""
    client = create_connection(serve(Speaks(*spoken)).ws_url, PATIENCE_S, subprotocols=["chat", "superchat"])
    try:
        assert client.getstatus() == 101
        assert client.getsubprotocol() == agreed
    finally:
        client.close()


def test_the_application_may_choose_no_subprotocol(serve: Serve) -> None:
    """RFC 6455 §4.2.2, item 5.5: then the field is not in the answer; whether it will do is for the client to say."""
    server = serve(Speaks("other"))
    with RawClient(server.port) as client:
        client.send(REQUEST)
        answer = client.read_answer()
        assert answer.status == 101
        assert answer.header(b"sec-websocket-protocol") is None
    with pytest.raises(WebSocketException, match="Invalid WebSocket Header"):
        create_connection(server.ws_url, PATIENCE_S, subprotocols=["chat", "superchat"])


def test_a_subprotocol_that_was_not_offered_is_never_in_the_answer(serve: Serve) -> None:
    """RFC 6455 §4.2.2, item 5.5: `send` raises, the application fails, and the client is told so by HTTP."""
    raised = Recorder()

    async def choose_another(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await accept(scope, receive, send, subprotocol="v3.chat")
        except ValueError as error:
            raised.put(str(error))
            raise

    with RawClient(serve(choose_another).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()

        assert answer.status == 500
        assert answer.header(b"sec-websocket-protocol") is None
    assert raised.next() == "subprotocol 'v3.chat', allowed: one of ['chat', 'superchat'] or None"


def test_request_of_curl_lacks_a_key_and_is_refused_with_400(serve: Serve) -> None:
    """RFC 6455 §4.2.1, item 5: the document's command sends no Sec-WebSocket-Key and no version."""
    with RawClient(serve(echo).port) as client:
        client.send(REQUEST_OF_CURL)
        answer = client.read_answer()

        assert answer.status == 400
        assert answer.body.startswith(b"handshake-key: ")


def test_request_of_curl_with_key_and_version_is_accepted(serve: Serve) -> None:
    """RFC 6455 §4.2.1: what the document's command needs, and that its User-Agent and Accept do no harm."""
    missing = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with RawClient(serve(echo).port) as client:
        client.send(REQUEST_OF_CURL.removesuffix(b"\r\n") + missing)
        assert client.read_answer().status == 101


# ---- the layout of a frame


def test_framing_costs_two_bytes_and_the_mask(serve: Serve) -> None:
    """RFC 6455 §1.5: minimal framing. "hello" is 7 bytes from the server and 11 from the client."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        sent = text("hello")
        client.send(sent)

        assert client.read_exactly(7) == b"\x81\x05hello"
        assert len(sent) == 11


def test_without_fin_a_message_goes_on(serve: Serve) -> None:
    """RFC 6455 §5.4: a message ends with the frame whose FIN is 1, and is delivered then."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(frame(1, b"hel", fin=False) + frame(0, b"lo ", fin=False) + frame(0, b"again"))

        assert client.read_text() == "hello again"


@pytest.mark.parametrize("rsv", range(1, 8))
def test_a_reserved_bit_closes_1002(serve: Serve, rsv: int) -> None:
    """RFC 6455 §5.2: RSV1, RSV2 and RSV3 are 0 where no extension was agreed on."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(frame(1, b"hello", rsv=rsv))

        assert client.read_close() == (1002, f"RSV bits {rsv:03b} in a frame of opcode 1, allowed: 000")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_an_opcode_that_the_builder_refuses_closes_1002(serve: Serve, opcode: int) -> None:
    """RFC 6455 §5.2: the builder raises "Invalid OPCODE"; a client that does not check is told by the server."""
    with pytest.raises(ValueError, match="Invalid OPCODE"):
        ABNF(1, opcode=opcode, data=b"hello").format()
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(frame(opcode, b"hello"))

        assert client.read_close() == (1002, f"opcode {opcode}, allowed: 0, 1, 2, 8, 9, 10")


@pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
def test_a_frame_without_the_mask_bit_closes_1002(serve: Serve, opcode: int) -> None:
    """RFC 6455 §5.1: the builder makes such frames too, and a server MUST close on them, whatever the opcode."""
    built = ABNF(1, opcode=opcode, mask_value=0, data=b"").format()
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(built)

        code, reason = client.read_close()
        assert code == 1002
        assert reason.startswith("unmasked ")


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04", b"\x80\0\0\x7f"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 125, 126, 1027])
def test_any_masking_key_will_do(serve: Serve, key: bytes, size: int) -> None:
    """RFC 6455 §5.3: 32 bits, chosen by the client, of which zeros are some."""
    payload = bytes(index % 256 for index in range(size))
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(frame(2, payload, key=key))

        assert client.read_frame() == (0x82, payload)


def test_a_length_of_64_bits_with_the_first_one_set_closes_1002(serve: Serve) -> None:
    """RFC 6455 §5.2: that bit MUST be 0; the builder has "data is too long" for it."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(b"\x82\xff" + struct.pack("!Q", ABNF.LENGTH_63) + MASK)

        code, reason = client.read_close()
        assert code == 1002
        assert reason == f"length {2**63} in 8 bytes, allowed: the fewest bytes, below 2^63"


def test_the_longest_length_that_may_be_written_is_over_the_limit(serve: Serve) -> None:
    """RFC 6455 §10.4: 2^63 - 1 is legal in a frame, and refused by its header alone: nothing is reserved for it."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(b"\x82\xff" + struct.pack("!Q", ABNF.LENGTH_63 - 1) + MASK)

        code, reason = client.read_close()
        assert code == 1009
        assert reason.startswith(f"message of {2**63 - 1} bytes or more, limit ")


# ---- the frame builder


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
@pytest.mark.parametrize("opcode", [ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY])
def test_frames_of_the_builder_are_understood_and_are_the_same_as_ours(serve: Serve, size: int, opcode: int) -> None:
    """RFC 6455 §5.2: a client frame of each length, byte for byte what the builder of these tests makes."""
    payload = b"d" * size
    built = ABNF.create_frame(payload, opcode)
    built.get_mask_key = lambda _: MASK
    data = built.format()

    assert data == frame(opcode, payload)
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(data)
        assert client.read_frame() == (0x80 | opcode, payload)


def test_fin_of_the_builder_is_0_for_a_fragment_and_1_for_the_last(serve: Serve) -> None:
    """RFC 6455 §5.4: a bit is 0 or 1, which is the builder's first check, and the server joins what was cut."""
    for fin in (-1, 2):
        with pytest.raises(ValueError, match="not 0 or 1"):
            ABNF(fin, data=b"hello").format()
    pieces = [ABNF.create_frame("一边", ABNF.OPCODE_TEXT, 0), ABNF.create_frame("玩去".encode(), ABNF.OPCODE_CONT, 1)]
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        for piece in pieces:
            client.send(piece.format())
        assert client.read_text() == "一边玩去"


# ---- the TCP server

LOCATION = b"https://www.google.com/"


async def redirect(scope: Scope, receive: Receive, send: Send) -> None:
    """The document's TCP server: whatever is asked for is elsewhere."""
    await refuse_lifespan(scope)
    kind = "websocket.http" if scope["type"] == "websocket" else "http"
    headers = [(b"content-type", b"text/html"), (b"location", LOCATION), (b"proxy-connection", b"Keep-alive")]
    await send({"type": f"{kind}.response.start", "status": 302, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": b""})


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "request_head", [GET, handshake("/chat"), b"GET / HTTP/1.0\r\n\r\n"], ids=["http", "websocket", "http-1.0"]
)
def test_redirect_is_a_whole_answer_of_http(serve: Serve, request_head: bytes) -> None:
    """RFC 9112 §4: it begins with the status line, its lines end with CR LF, and its end can be found."""
    with RawClient(serve(redirect).port) as client:
        client.send(request_head)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 302 Found\r\n")
        assert b"\n" not in answer.raw_head.replace(b"\r\n", b"")
        assert answer.header(b"location") == LOCATION
        assert answer.header(b"content-type") == b"text/html"
        assert answer.body == b""
        if request_head != GET:
            assert answer.header(b"connection") == b"close"
            assert client.read_to_end() == b""


def test_proxy_connection_is_not_the_applications_to_say(serve: Serve) -> None:
    """RFC 9110 §7.6.1: whether the connection stays is settled by the server and its client."""
    with RawClient(serve(redirect).port) as client:
        client.send(GET)
        assert client.read_answer().header(b"proxy-connection") is None


def test_connection_stays_for_the_next_request(serve: Serve) -> None:
    """RFC 9112 §9.3: the document's server keeps the connection too, but never reads from it again."""
    with RawClient(serve(redirect).port) as client:
        for _ in range(3):
            client.send(GET)
            assert client.read_answer().status == 302


def test_a_head_of_more_than_one_recv_is_answered_once(serve: Serve) -> None:
    """RFC 9112 §3: the document's server answers what one recv(1024) gave."""
    with RawClient(serve(redirect).port) as client:
        client.send(GET[:-2] + b"X-Padding: " + b"p" * 4000 + b"\r\nConnection: close\r\n\r\n")
        assert client.read_to_end().count(b"HTTP/1.1 302 Found") == 1


def test_a_client_that_leaves_without_a_word_is_no_request(serve: Serve) -> None:
    """The document's server has a branch for it; here the application is not called."""
    called = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        called.put(scope["path"])
        await redirect(scope, receive, send)

    server = serve(app)
    with RawClient(server.port):
        pass
    with RawClient(server.port) as client:
        client.half_close()
        assert client.read_to_end() == b""
    with RawClient(server.port) as client:
        client.send(GET)
        assert client.read_answer().status == 302
    assert called.next() == "/"
    assert called.empty


def test_clients_are_answered_beside_a_hundred_that_say_nothing(serve: Serve) -> None:
    """The document's server has a thread for each; here a client that says nothing costs one object."""
    server = serve(redirect)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(RawClient(server.port))
        with RawClient(server.port) as client:
            client.send(GET)
            assert client.read_answer().status == 302
