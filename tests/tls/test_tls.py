"""What a connection over TLS carries: HTTP, WebSocket, files, ends; as without it, on both loops."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, accept, echo, refuse_lifespan
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, handshake, text
from tests.tls.certificates import Authority, HandmadeTLS, Issued, TLSClient

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def facts(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what the scope says of TLS."""
    await refuse_lifespan(scope)
    tls = scope["extensions"].get("tls")
    seen.put((scope["scheme"], tls and {**tls}))
    if scope["type"] == "websocket":
        await accept(scope, receive, send)
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


seen = Recorder()


# ---- the scope (checklist E8)


def test_http_over_tls_is_https_with_the_extension(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(facts, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.send(REQUEST)
        assert client.read_answer().body == b"https"
        cipher = client.socket.cipher()
        numbers = {entry["name"]: entry["id"] & 0xFFFF for entry in client.socket.context.get_ciphers()}
    assert cipher is not None
    assert seen.next() == (
        "https",
        {
            "server_cert": server.pem,
            "client_cert_chain": [],
            "client_cert_name": None,
            "tls_version": 0x0304,
            "cipher_suite": numbers[cipher[0]],
        },
    )


def test_websocket_over_tls_is_wss_with_the_extension(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(facts, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        scheme, tls = seen.next()
    assert (scheme, tls["tls_version"]) == ("wss", 0x0304)


def test_tls_1_2_has_its_own_numbers(serve: Serve, authority: Authority, server: Issued) -> None:
    """RFC 5246 and the registry of cipher suites: ECDHE-ECDSA-AES256-GCM-SHA384 is 0xc02c."""
    running = serve(facts, **server.options)
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    with TLSClient(running.port, context) as client:
        client.send(REQUEST)
        client.read_answer()
    tls = seen.next()[1]
    assert (tls["tls_version"], tls["cipher_suite"]) == (0x0303, 0xC02C)


def test_plain_connection_has_no_extension(serve: Serve) -> None:
    """ASGI TLS: it is forbidden there."""
    running = serve(facts)
    assert httpx.get(running.url).text == "http"
    assert seen.next() == ("http", None)


def test_each_scope_has_an_extension_of_its_own(serve: Serve, authority: Authority, server: Issued) -> None:
    """Middleware writes into its scope."""

    async def spoil(scope: Scope, receive: Receive, send: Send) -> None:
        await facts(scope, receive, send)
        scope["extensions"]["tls"].clear()

    running = serve(spoil, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        for _ in range(2):
            client.send(REQUEST)
            client.read_answer()
    seen.next()
    assert seen.next()[1]["server_cert"] == server.pem


@pytest.mark.parametrize("wanted", ["optional", "required"])
def test_client_certificate_is_in_the_scope(
    serve: Serve, authority: Authority, server: Issued, client: Issued, wanted: str
) -> None:
    """Its name is RFC 4514: the most specific part first, the comma and the quotes escaped."""
    running = serve(facts, **server.options, ssl_client_cert=wanted, ssl_ca_certs=str(authority.file))
    with TLSClient(running.port, authority.client_context(client)) as connection:
        connection.send(REQUEST)
        connection.read_answer()
    tls = seen.next()[1]
    assert tls["client_cert_chain"][0] == client.pem
    assert tls["client_cert_name"].startswith("CN=Alice,OU=Testing cert #")
    assert tls["client_cert_name"].endswith(',O=Cheese\\, \\"Ltd\\"')


def test_optional_client_certificate_may_be_missing(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(facts, **server.options, ssl_client_cert="optional", ssl_ca_certs=str(authority.file))
    with TLSClient(running.port, authority.client_context()) as connection:
        connection.send(REQUEST)
        connection.read_answer()
    tls = seen.next()[1]
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ([], None)


def test_resumed_session_still_has_its_client_certificate(
    serve: Serve, authority: Authority, server: Issued, client: Issued
) -> None:
    """RFC 8446 §2.2: a ticket replaces the certificates of the handshake, not who the client is."""
    running = serve(facts, **server.options, ssl_client_cert="required", ssl_ca_certs=str(authority.file))
    context = authority.client_context(client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TLSClient(running.port, context) as first:
        first.send(REQUEST)
        first.read_answer()
        session = first.socket.session
    name = seen.next()[1]["client_cert_name"]
    second = TLSClient.__new__(TLSClient)
    super(TLSClient, second).__init__(running.port)
    with second:
        second.socket = context.wrap_socket(second.socket, server_hostname="localhost", session=session)
        assert second.socket.session_reused
        second.send(REQUEST)
        second.read_answer()
    tls = seen.next()[1]
    assert tls["client_cert_name"] == name
    assert tls["client_cert_chain"][0] == client.pem


# ---- real clients


def test_httpx_and_websockets_speak_https_and_wss(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, **server.options)
    context = authority.client_context()
    with httpx.Client(verify=context) as client:
        for body in (b"hello", b"x" * 1_000_000):
            assert client.post(f"https://localhost:{running.port}", content=body).content == body
    with connect(f"wss://localhost:{running.port}", ssl=context, max_size=None) as websocket:
        for message in ("hello", "x" * 1_000_000, b"\0" * 70_000):
            websocket.send(message)
            assert websocket.recv() == message


def test_protocol_of_the_application_layer_is_http_1_1(serve: Serve, authority: Authority, server: Issued) -> None:
    """RFC 7301: a client that offers HTTP/2 too learns which one is spoken."""
    running = serve(echo, **server.options)
    context = authority.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with TLSClient(running.port, context) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"


# ---- bytes


def test_messages_in_one_record_and_records_in_pieces_arrive(
    serve: Serve, authority: Authority, server: Issued
) -> None:
    """A record is no message: several in one, one in many, and a record byte by byte."""
    running = serve(echo, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        client.send(text("a") + text("b") + frame(2, b"c" * 50_000))
        assert (client.read_text(), client.read_text()) == ("a", "b")
        assert client.read_frame() == (0x82, b"c" * 50_000)
        for byte in text("slow"):
            client.send(bytes([byte]))
        assert client.read_text() == "slow"


def test_record_that_arrives_byte_by_byte_is_read(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, **server.options)
    with RawClient(running.port) as below:
        client = HandmadeTLS(below, authority.client_context(), piece_bytes=1)
        client.shake()
        client.send(REQUEST)
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_first_request_behind_the_handshake_in_one_packet_is_answered(
    serve: Serve, authority: Authority, server: Issued
) -> None:
    """The last flight of the handshake and a large body arrive together."""
    running = serve(echo, **server.options)
    body = b"y" * 300_000
    with TLSClient(running.port, authority.client_context()) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.read_answer().body == body


def test_keep_alive_connection_answers_pipelined_requests(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.send(REQUEST * 3)
        assert [client.read_answer().status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_file_is_sent(serve: Serve, authority: Authority, server: Issued, tmp_path: Path, kind: str) -> None:
    """sendfile(2) cannot encrypt: the parts are read."""
    path = tmp_path / "file"
    content = bytes(range(256)) * 2000
    path.write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        fields = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        if kind == "pathsend":
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            with path.open("rb") as file:
                await send({"type": "http.response.zerocopysend", "file": file.fileno()})

    running = serve(app, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        for _ in range(2):
            client.send(REQUEST)
            assert client.read_answer().body == content


# ---- ends


def test_denial_reaches_the_client(serve: Serve, authority: Authority, server: Issued) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.http.response.start", "status": 451, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no" * 100_000})

    running = serve(app, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.send(handshake())
        answer = client.read_answer()
        assert (answer.status, len(answer.body)) == (451, 200_000)


def test_close_is_answered_and_followed_by_the_end_of_tls(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        client.send(close(4000, "bye"))
        assert client.read_close() == (4000, "")
        assert client.read_to_end() == b""


def test_refusal_reaches_a_client_that_is_still_sending(serve: Serve, authority: Authority, server: Issued) -> None:
    """RFC 9112 §9.6: a reset would destroy the answer on its way. The client sends on until it has it."""
    running = serve(echo, max_message_size=1000, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        client.send(frame(2, b"x" * 2_000_000))
        assert client.read_close()[0] == 1009
    with TLSClient(running.port, authority.client_context()) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000)
        assert client.read_answer().status == 431


def test_half_closed_request_is_answered(serve: Serve, authority: Authority, server: Issued) -> None:
    """RFC 8446 §6.1: a close_notify ends one direction, the answer still comes."""
    answering = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        while (await receive())["type"] != "http.disconnect":
            pass
        seen.put("half-closed")
        await answering.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    running = serve(app, **server.options)
    with RawClient(running.port) as below:
        client = HandmadeTLS(below, authority.client_context())
        client.shake()
        client.send(REQUEST)
        client.end_sending()
        assert seen.next() == "half-closed"
        running.loop.call_soon_threadsafe(answering.set)
        assert client.read_until(b"late").startswith(b"HTTP/1.1 200 ")


def test_stop_says_1012_and_ends_tls(serve: Serve, authority: Authority, server: Issued) -> None:
    running = serve(echo, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        running.begin_stop()
        client.be_closed(1012, "service restart")


def test_client_that_vanishes_is_1006_to_the_application(serve: Serve, authority: Authority, server: Issued) -> None:
    ends = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        event = await receive()
        ends.put((event["type"], event["code"]))

    running = serve(app, **server.options)
    with TLSClient(running.port, authority.client_context()) as client:
        client.open_websocket()
        client.reset()
    assert ends.next() == ("websocket.disconnect", 1006)


def test_slow_consumer_is_dropped(serve: Serve, authority: Authority, server: Issued) -> None:
    """--write-timeout counts what waits below the encryption."""
    ends = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        except OSError:
            ends.put((await receive())["reason"])

    running = serve(app, write_timeout=0.2, **server.options)
    with TLSClient(running.port, authority.client_context(), receive_buffer=4096) as client:
        client.open_websocket()
        assert ends.next() == "slow consumer"


@pytest.mark.slow
def test_slow_client_gets_all_of_a_large_last_answer(serve: Serve, authority: Authority, server: Issued) -> None:
    """Closing waits for what was written, for as long as the client takes some of it; no deadline for the whole."""
    size = 20_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"x" * size})

    running = serve(app, close_timeout=1, write_timeout=1, **server.options)
    count = 0
    with TLSClient(running.port, authority.client_context(), receive_buffer=65536) as client:
        client.send(REQUEST)
        while data := client.socket.recv(16384):
            count += len(data)
            # Each piece takes a little work here: all of them together longer than both deadlines.
            sum(range(100_000))
    assert count >= size


def test_damaged_record_ends_the_connection_and_is_counted(serve: Serve, authority: Authority, server: Issued) -> None:
    """RFC 8446 §5.2: bad_record_mac."""
    running = serve(echo, **server.options)
    with RawClient(running.port) as below:
        client = HandmadeTLS(below, authority.client_context())
        client.shake()
        below.send(b"\x17\x03\x03\x00\x20" + b"?" * 32)
        below.read_to_end()
    assert running.server.counters.rejections["bad-tls-record"] == 1
