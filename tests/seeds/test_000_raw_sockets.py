"""The first document: a client and a server of bare sockets, the request and answer of a handshake, the status codes.

Its two programs agree with each other and with nobody else: the request has no key, the answer no Accept, and what
follows is bytes without frames. Each test gives one of its programs, rules or codes, and what the server does with it.
"""

from __future__ import annotations

import json
import socket
import ssl

import pytest

from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, echo, messages, say
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, handshake, text

REQUEST_OF_CLIENT = b"GET /test.txt HTTP/1.1\r\nHost:test.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
DATA_OF_CLIENT = b"kkkkkkkkkkkkkkkkk"
REQUEST_OF_TEXT = b"\r\n".join([
    b"GET /xxx HTTP/1.1", b"Host: server.example.com", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Protocol: chat, superchat",
    b"Sec-WebSocket-Version: 13", b"\r\n",
])  # fmt: skip
HEADERS_OF_SERVER = [
    (b"date", b"Sat, 1 Mar 2021 12:33:44 GMT"),
    (b"content-type", b"text/plain"),
    (b"pragma", b"no-cache"),
]


class JServer:
    """The document's server: everything that comes goes back behind six letters."""

    def __init__(self) -> None:
        self.ends = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send, headers=HEADERS_OF_SERVER)
        async for message in messages(receive, self.ends):
            assert isinstance(message, str)
            await say(send, "jjjjjj" + message)


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept the first subprotocol that is offered, and tell the client what is known of the connection."""
    offered = scope.get("subprotocols") or [None]
    await accept(scope, receive, send, subprotocol=offered[0])
    await say(send, json.dumps({"path": scope["path"], "server": scope["server"], "client": scope["client"]}))
    async for _ in messages(receive):
        pass


# ---- the client and the server of bare sockets


@pytest.mark.parametrize("behind", [b"", DATA_OF_CLIENT], ids=["alone", "with-data-behind-it"])
def test_request_of_the_client_lacks_a_key_and_is_refused_with_400(serve: Serve, behind: bytes) -> None:
    """RFC 6455 §4.2.1, item 5: a handshake has a Sec-WebSocket-Key. The document's server does not look for one."""
    app = JServer()
    with RawClient(serve(app).port) as client:
        client.send(REQUEST_OF_CLIENT + behind)
        answer = client.read_answer()

        assert answer.status == 400
        assert answer.body.startswith(b"handshake-key: Sec-WebSocket-Key: none, allowed: ")
        assert answer.header(b"connection") == b"close"
        assert answer.header(b"sec-websocket-accept") is None
        assert client.read_to_end() == b""
    assert app.ends.empty, "the application heard of a request that is no handshake"


def test_client_with_a_key_and_frames_is_answered_with_six_letters_before_its_own(serve: Serve) -> None:
    """RFC 6455 §5: the same dialogue in frames, one answer to each message, as often as the client likes."""
    with RawClient(serve(JServer()).port) as client:
        client.open_websocket("/test.txt")
        for _ in range(5):
            client.send(text(DATA_OF_CLIENT.decode()))
            assert client.read_text() == "jjjjjj" + DATA_OF_CLIENT.decode()


def test_data_of_the_client_without_frames_closes_1002(serve: Serve) -> None:
    """RFC 6455 §5.2: the first k is 0x6b, a frame with two reserved bits and a reserved opcode."""
    app = JServer()
    with RawClient(serve(app).port) as client:
        client.open_websocket("/test.txt")
        client.send(DATA_OF_CLIENT)

        code, reason = client.read_close()
        assert code == 1002
        assert reason.startswith("RSV bits 110 in a frame of opcode 11")
    assert app.ends.next() == (1002, reason)


def test_answer_has_the_headers_of_the_server_once_and_an_accept_that_it_lacked(serve: Serve) -> None:
    """RFC 6455 §4.2.2: an application adds headers to the 101, its own Date in place of the server's."""
    with RawClient(serve(JServer()).port) as client:
        answer = client.open_websocket("/test.txt")

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        for name, value in HEADERS_OF_SERVER:
            assert [each for field, each in answer.headers if field == name] == [value]


@pytest.mark.parametrize("padding", [0, 5000], ids=["byte-by-byte", "longer-than-one-recv"])
def test_head_is_read_to_its_end_and_not_by_one_recv(serve: Serve, padding: int) -> None:
    """RFC 9112 §3: a head ends with an empty line. The document's server takes what one recv(4096) gives for it."""
    request = handshake("/test.txt", f"X-Padding: {'p' * padding}")
    with RawClient(serve(JServer()).port) as client:
        for piece in [request] if padding else [request[at : at + 1] for at in range(len(request))]:
            client.send(piece)
        assert client.read_answer().status == 101

        client.send(text("k"))
        assert client.read_text() == "jjjjjjk"


def test_data_right_behind_the_head_is_not_lost(serve: Serve) -> None:
    """RFC 6455 §4.1: a client may send as soon as it likes. The document's server throws away what recv gave more."""
    with RawClient(serve(JServer()).port) as client:
        client.send(handshake("/test.txt") + text("early"))

        assert client.read_answer().status == 101
        assert client.read_text() == "jjjjjjearly"


def test_a_client_that_vanishes_ends_its_application(serve: Serve) -> None:
    """RFC 6455 §7.1.5: the code is 1006. The document's server reads b"" and answers it, for ever."""
    app = JServer()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(text("k"))
        assert client.read_text() == "jjjjjjk"
    assert app.ends.next() == (1006, "")


def test_a_second_client_is_served_while_the_first_stays(serve: Serve) -> None:
    """The document's server never comes back to accept while its first client lives."""
    server = serve(JServer())
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.open_websocket()
        second.open_websocket()
        second.send(text("2"))
        assert second.read_text() == "jjjjjj2"
        first.send(text("1"))
        assert first.read_text() == "jjjjjj1"


# ---- request and answer


def test_request_of_the_document_is_answered_as_it_says(serve: Serve) -> None:
    """RFC 6455 §1.3: the status, Upgrade, Connection, the Accept of this key, and one of the subprotocols offered."""
    with RawClient(serve(chat).port) as client:
        client.send(REQUEST_OF_TEXT)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.header(b"upgrade") == b"websocket"
        assert answer.header(b"connection") == b"Upgrade"
        assert answer.header(b"sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert answer.header(b"sec-websocket-protocol") == b"chat"


def test_a_connection_has_an_address_and_a_port_at_each_end(serve: Serve) -> None:
    """ASGI scope: a socket is an address and a port, here the server's and the client's own."""
    server = serve(chat)
    with RawClient(server.port) as client:
        client.send(REQUEST_OF_TEXT)
        client.read_answer()

        known = json.loads(client.read_text())
        assert known["path"] == "/xxx"
        assert known["server"] == ["127.0.0.1", server.port]
        assert known["client"] == list(client.socket.getsockname())


@pytest.mark.parametrize("host", ["server.example.com", "server.example.com:80", "192.168.1.100:8080"])
def test_the_port_in_host_is_the_clients_affair(serve: Serve, host: str) -> None:
    """RFC 6455 §3: 80 is the port of ws and 443 that of wss when none is named, but any may be, and Host repeats it."""
    with RawClient(serve(echo).port) as client:
        client.send(handshake(host=host))
        assert client.read_answer().status == 101


@pytest.mark.parametrize("version", ["0", "7", "8", "12", "14"])
def test_a_version_other_than_13_is_refused_with_426_and_told_13(serve: Serve, version: str) -> None:
    """RFC 6455 §4.4: what the server does not speak it refuses, and says what it speaks."""
    request = handshake().replace(b"Sec-WebSocket-Version: 13", f"Sec-WebSocket-Version: {version}".encode())
    with RawClient(serve(echo).port) as client:
        client.send(request)
        answer = client.read_answer()

        assert answer.status == 426
        assert answer.header(b"sec-websocket-version") == b"13"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n", 505),
    ],
    ids=["http-1.0", "http-2-preface", "http-2.0-in-text"],
)
def test_upgrade_is_for_http_1_1_alone(serve: Serve, request_head: bytes, status: int) -> None:
    """RFC 6455 §4.1, item 2, and RFC 9113 §8.6: HTTP/2 has no Upgrade, and HTTP/1.0 does not know it."""
    with RawClient(serve(echo).port) as client:
        client.send(request_head)
        answer = client.read_answer()

        assert answer.status == status
        assert b"HTTP/1.1" in answer.body


def test_an_upgrade_to_http_2_is_not_followed(serve: Serve) -> None:
    """RFC 9110 §7.8: a server may ignore Upgrade, and the request is answered in HTTP/1.1."""
    with RawClient(serve(echo).port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
        assert client.read_answer().raw_head.startswith(b"HTTP/1.1 200 OK\r\n")


def test_after_the_handshake_http_is_not_spoken(serve: Serve) -> None:
    """RFC 6455 §1.7: only the handshake is HTTP; a request behind it is a frame that breaks the rules."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket()
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_close()[0] == 1002


def test_a_connection_has_a_state_of_its_own(serve: Serve) -> None:
    """The document calls it stateful: what an application counts for one client it does not count for another."""

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        number = 0
        async for _ in messages(receive):
            number += 1
            await say(send, str(number))

    server = serve(count)
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.open_websocket()
        second.open_websocket()
        counts = []
        for client in (first, first, second, first, second):
            client.send(text("one more"))
            counts.append(client.read_text())
    assert counts == ["1", "2", "1", "3", "2"]


ANYWHERE = "Origin: https://elsewhere.example"


def test_the_same_origin_policy_does_not_guard_a_websocket(serve: Serve) -> None:
    """RFC 6455 §10.2: as the document says, a page of any origin may connect, unless the server looks at Origin."""
    with RawClient(serve(echo).port) as client:
        client.open_websocket("/", ANYWHERE)


@pytest.mark.parametrize(("origin", "status"), [(ANYWHERE, 403), ("Origin: https://app.example.com", 101)])
def test_allowed_origins_guard_it(serve: Serve, origin: str, status: int) -> None:
    """RFC 6455 §10.2: a server that is not for every page answers the others with 403."""
    server = serve(echo, allowed_origins="https://app.example.com")
    with RawClient(server.port) as client:
        client.send(handshake("/", origin))
        assert client.read_answer().status == status


# ---- the status codes, each with what brings it about


class CloseAsTold:
    """Closes with the code that the query names, and writes down what `send` raised."""

    def __init__(self) -> None:
        self.raised = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        try:
            await send({"type": "websocket.close", "code": int(scope["query_string"]), "reason": "as told"})
        except ValueError as error:
            self.raised.put(str(error))
            raise


async def text_only(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(scope, receive, send)
    async for message in messages(receive):
        if not isinstance(message, str):
            await send({"type": "websocket.close", "code": 1003, "reason": "text only"})
            return


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    await accept(scope, receive, send)
    raise RuntimeError("the application meets something unexpected")


def test_101_is_a_status_of_http(serve: Serve) -> None:
    """RFC 6455 §7.4.2: 101 stands in the answer to the handshake; in a Close it is below 1000 and never used."""
    with RawClient(serve(echo).port) as client:
        assert client.open_websocket().status == 101
        client.send(close(101))
        assert client.read_close() == (1002, "close code 101, allowed: 1000-1003, 1007-1014, 3000-4999")


@pytest.mark.parametrize("code", [101, 1006, 1015])
def test_an_application_cannot_send_a_code_that_only_reports(serve: Serve, code: int) -> None:
    """RFC 6455 §7.4.1: 1006 and 1015 are never in a Close; `send` raises, and the client is told 1011."""
    app = CloseAsTold()
    with RawClient(serve(app).port) as client:
        client.open_websocket(f"/?{code}")
        assert client.read_close() == (1011, "internal error")
    assert app.raised.next().startswith(f"close code {code}, allowed: ")


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1009, 1010, 1011, 1012, 1013, 1014])
def test_an_application_sends_every_code_of_the_table_that_may_be_sent(serve: Serve, code: int) -> None:
    """RFC 6455 §7.4.1 and the registry of close codes, which added 1012 to 1014."""
    with RawClient(serve(CloseAsTold()).port) as client:
        client.open_websocket(f"/?{code}")
        assert client.read_close() == (code, "as told")


def test_1000_is_a_normal_end(serve: Serve) -> None:
    """RFC 6455 §7.4.1: an application that returns has done what it was there for."""

    async def accept_and_return(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)

    with RawClient(serve(accept_and_return).port) as client:
        client.open_websocket()
        assert client.read_close() == (1000, "")


def test_1001_is_the_server_going_away_from_an_idle_client(serve: Serve) -> None:
    """RFC 6455 §7.4.1: the document has it for the server alone, but it is for whichever side goes."""
    with RawClient(serve(JServer(), idle_timeout=0.1).port) as client:
        client.open_websocket()
        assert client.read_close() == (1001, "idle timeout")


def test_1002_is_a_broken_rule(serve: Serve) -> None:
    """RFC 6455 §7.4.1: here a frame without a mask."""
    with RawClient(serve(JServer()).port) as client:
        client.open_websocket()
        client.send(frame(1, b"k", key=None))
        assert client.read_close() == (1002, "unmasked text frame, allowed: masked frames")


def test_1003_is_data_that_the_other_side_does_not_take(serve: Serve) -> None:
    """RFC 6455 §7.4.1: the protocol carries binary messages, an application may be for text only."""
    with RawClient(serve(text_only).port) as client:
        client.open_websocket()
        client.send(frame(2, b"\x00\x01"))
        assert client.read_close() == (1003, "text only")


def test_1006_is_a_connection_that_ended_without_a_close(serve: Serve) -> None:
    """RFC 6455 §7.1.5: the application reads it; it never was on the wire."""
    app = JServer()
    client = RawClient(serve(app).port)
    client.open_websocket()
    client.reset()
    assert app.ends.next() == (1006, "")


def test_1007_is_text_that_is_not_utf_8(serve: Serve) -> None:
    """RFC 6455 §8.1."""
    with RawClient(serve(JServer()).port) as client:
        client.open_websocket()
        client.send(frame(1, "一边".encode("gbk")))
        assert client.read_close()[0] == 1007


@pytest.mark.parametrize(("size", "refused"), [(1000, False), (1001, True)])
def test_1009_is_a_message_over_the_limit(serve: Serve, size: int, refused: bool) -> None:
    """RFC 6455 §7.4.1 and §10.4: refused as soon as its length is known, here before a byte of it came."""
    with RawClient(serve(JServer(), max_message_size=1000).port) as client:
        client.open_websocket()
        if refused:
            client.send(text("k" * size)[:4])
            assert client.read_close()[0] == 1009
        else:
            client.send(text("k" * size))
            assert client.read_text() == "jjjjjj" + "k" * size


def test_1010_is_the_clients_to_send(serve: Serve) -> None:
    """RFC 6455 §7.4.1: a client that misses an extension it needs; the server echoes the code."""
    app = JServer()
    with RawClient(serve(app).port) as client:
        client.open_websocket()
        client.send(close(1010, "permessage-deflate"))
        assert client.read_close() == (1010, "")
    assert app.ends.next() == (1010, "permessage-deflate")


def test_1011_is_an_application_that_failed(serve: Serve) -> None:
    """RFC 6455 §7.4.1: an exception of the application does not reach the client, that there was one does."""
    with RawClient(serve(fail).port) as client:
        client.open_websocket()
        assert client.read_close() == (1011, "internal error")


def test_1012_is_a_server_that_restarts(serve: Serve) -> None:
    """The registry of close codes: clients that know it connect again."""
    app = JServer()
    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        server.begin_stop()
        assert client.read_close() == (1012, "service restart")
        client.send(close(1012))
        server.stop()
    assert app.ends.next() == (1012, "service restart")


def test_1015_is_a_tls_handshake_that_failed_and_none_is_answered_here(serve: Serve) -> None:
    """RFC 6455 §7.4.1: the client makes it up, because no frame was exchanged; the server was asked for nothing."""
    app = JServer()
    server = serve(app)
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    with RawClient(server.port) as client:
        client.open_websocket()
    assert app.ends.next() == (1006, "")
    assert app.ends.empty
