"""The package `websocket-client`: `create_connection`, its frames and pings, and `WebSocketApp`."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websocket import (
    ABNF,
    WebSocket,
    WebSocketApp,
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketTimeoutException,
    create_connection,
)

from tests import PATIENCE_S
from tests.clients.partner import Partner
from tests.conftest import Serve


@contextlib.contextmanager
def connected(url: str, **options: Any) -> Iterator[WebSocket]:
    """Connect, and leave nothing open behind."""
    client = create_connection(url, PATIENCE_S, **options)
    try:
        yield client
    finally:
        client.close()
        client.shutdown()  # type: ignore[no-untyped-call]  # it has no types


def closed_with(client: WebSocket) -> tuple[int | None, str]:
    """Read up to a Close, which this client hands out as data; gives code and reason."""
    opcode, data = client.recv_data(control_frame=True)
    assert opcode == ABNF.OPCODE_CLOSE, (opcode, data)
    return (struct.unpack("!H", data[:2])[0] if data else None), data[2:].decode()


# ---- messages


@pytest.mark.parametrize("message", ["", "hello", "grüße 世界 \U0001f600", "x" * 125, "x" * 126, "x" * 65536])
def test_text_comes_back_as_text(serve: Serve, message: str) -> None:
    """RFC 6455 §5.6; this client offers no compression."""
    with connected(f"{serve(Partner()).ws_url}/echo") as client:
        client.send(message)
        assert client.recv() == message


@pytest.mark.parametrize("message", [b"\x00", b"\xff\xfe" * 40_000, b"x" * (2 * 1024 * 1024)])
def test_binary_comes_back_as_binary(serve: Serve, message: bytes) -> None:
    """RFC 6455 §5.6."""
    with connected(f"{serve(Partner()).ws_url}/echo") as client:
        client.send_binary(message)
        assert client.recv_data() == (ABNF.OPCODE_BINARY, message)


def test_frames_that_the_client_cuts_are_one_message(serve: Serve) -> None:
    """RFC 6455 §5.4: a fragment of text, a ping, and two continuations."""
    app = Partner()
    with connected(f"{serve(app).ws_url}/echo") as client:
        client.send_frame(ABNF.create_frame("one, ", ABNF.OPCODE_TEXT, 0))
        client.ping("between")
        client.send_frame(ABNF.create_frame(b"two, ", ABNF.OPCODE_CONT, 0))
        client.send_frame(ABNF.create_frame(b"three", ABNF.OPCODE_CONT, 1))

        assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"between")
        assert client.recv() == "one, two, three"


def test_threads_may_send_on_one_connection(serve: Serve) -> None:
    """The client locks each frame; the server hears every message of every thread whole and in that thread's order."""
    with connected(f"{serve(Partner()).ws_url}/echo", enable_multithread=True) as client:

        def send_all(name: str) -> None:
            for number in range(50):
                client.send(f"{name} {number} " + name * 300)

        threads = [threading.Thread(target=send_all, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        heard = [str(client.recv()) for _ in range(200)]
        for thread in threads:
            thread.join(PATIENCE_S)
    for name in "abcd":
        assert [message for message in heard if message.startswith(name)] == [
            f"{name} {number} " + name * 300 for number in range(50)
        ]


def test_connection_is_good_after_the_client_gave_up_a_recv(serve: Serve) -> None:
    """A timeout of the client is its own affair; nothing of it is seen here."""
    with connected(f"{serve(Partner()).ws_url}/echo") as client:
        client.settimeout(0.05)
        with pytest.raises(WebSocketTimeoutException):
            client.recv()
        client.settimeout(PATIENCE_S)
        client.send("later")
        assert client.recv() == "later"


# ---- pings


@pytest.mark.parametrize("payload", [b"", b"payload", b"\xff" * 125])
def test_ping_is_answered_with_its_payload(serve: Serve, payload: bytes) -> None:
    """RFC 6455 §5.5.3."""
    with connected(f"{serve(Partner()).ws_url}/echo") as client:
        client.ping(payload)
        assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, payload)


def test_ping_of_the_server_is_answered_by_recv(serve: Serve) -> None:
    """RFC 6455 §5.5.2: the client answers while it reads; the connection outlives the ping timeout many times."""
    server = serve(Partner(), ping_interval=0.1, ping_timeout=0.1)
    with connected(f"{server.ws_url}/echo") as client:
        for _ in range(5):
            opcode, _ = client.recv_data(control_frame=True)
            assert opcode == ABNF.OPCODE_PING
        client.send("alive")
        assert client.recv() == "alive"


def test_client_that_does_not_read_is_closed_1011(serve: Serve) -> None:
    """The keepalive: this client answers pings in `recv` only, so one that never calls it seems dead."""
    app = Partner()
    with connected(f"{serve(app, ping_interval=0.05, ping_timeout=0.05).ws_url}/echo"):
        assert app.ends.next() == (1011, "keepalive ping timeout")


# ---- ends


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (3000, "ü" * 61), (4999, "x" * 123)])
def test_close_status_of_the_client_reaches_the_application_and_is_echoed(serve: Serve, code: int, reason: str) -> None:
    """RFC 6455 §5.5.1: the client keeps the Close that answered its own."""
    app = Partner()
    with connected(f"{serve(app).ws_url}/echo") as client:
        client.close(code, reason)
        assert client.close_frame is not None
        assert client.close_frame.data == struct.pack("!H", code)
    assert app.ends.next() == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1008, "policy"), (1013, "later"), (4000, "own")])
def test_close_of_the_application_reaches_the_client(serve: Serve, code: int, reason: str) -> None:
    """RFC 6455 §7.1.5. The client answers every Close with 1000; the application reads its own code all the same."""
    app = Partner()
    with connected(f"{serve(app).ws_url}/close?code={code}&reason={reason}") as client:
        assert closed_with(client) == (code, reason)
        with pytest.raises(WebSocketConnectionClosedException):
            client.recv()
    assert app.ends.next() == (code, reason)


@pytest.mark.parametrize(("path", "end"), [("/return", (1000, "")), ("/raise", (1011, "internal error"))])
def test_application_that_ends_closes(serve: Serve, path: str, end: tuple[int, str]) -> None:
    """ASGI: an application that returns, and one that raises."""
    with connected(serve(Partner()).ws_url + path) as client:
        assert closed_with(client) == end


def test_client_that_aborts_is_1006_for_the_application(serve: Serve) -> None:
    """RFC 6455 §7.1.5."""
    app = Partner()
    with connected(f"{serve(app).ws_url}/echo") as client:
        client.abort()  # type: ignore[no-untyped-call]  # it has no types
        assert app.ends.next() == (1006, "")


def test_clients_are_told_1012_when_the_server_stops(serve: Serve) -> None:
    """The registry of close codes: service restart."""
    server = serve(Partner())
    with connected(f"{server.ws_url}/echo") as first, connected(f"{server.ws_url}/echo") as second:
        server.begin_stop()
        assert closed_with(first) == closed_with(second) == (1012, "service restart")


# ---- handshakes


def test_options_of_the_client_are_seen_in_the_scope(serve: Serve) -> None:
    """RFC 6455 §4.1: headers, cookie, origin, host and subprotocols of `create_connection`."""
    with connected(
        f"{serve(Partner()).ws_url}/scope?room=7",
        header=["X-Token: secret", "User-Agent: tester/1"],
        cookie="a=1; b=2",
        origin="https://example.com",
        host="app.example.com",
    ) as client:
        known = json.loads(client.recv())
        received = client.getheaders()
    headers = dict(known["headers"])
    assert headers["x-token"] == "secret"
    assert headers["user-agent"] == "tester/1"
    assert headers["cookie"] == "a=1; b=2"
    assert headers["origin"] == "https://example.com"
    assert headers["host"] == "app.example.com"
    assert known["query"] == {"room": "7"}
    assert received is not None
    assert received["x-served-by"] == "partner"


def test_origin_may_be_suppressed(serve: Serve) -> None:
    """RFC 6455 §4.1, item 8: a client that is not a browser need not have one, and allowed_origins is not for it."""
    server = serve(Partner(), allowed_origins="https://example.com")
    with connected(f"{server.ws_url}/scope", suppress_origin=True) as client:
        assert "origin" not in dict(json.loads(client.recv())["headers"])
    with pytest.raises(WebSocketBadStatusException) as refused:
        create_connection(f"{server.ws_url}/scope", PATIENCE_S, origin="https://example.org")
    assert refused.value.status_code == 403


def test_subprotocol_is_agreed_on(serve: Serve) -> None:
    """RFC 6455 §4.2.2, item 5.5."""
    with connected(f"{serve(Partner()).ws_url}/protocol", subprotocols=["chat.v3", "chat.v2", "chat.v1"]) as client:
        assert client.getsubprotocol() == "chat.v2"
        assert client.getstatus() == 101


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/refuse", 403, b""), ("/deny?status=401", 401, b"denied"), ("/deny?status=503", 503, b"denied")],
)
def test_refused_handshake_has_status_and_body(serve: Serve, path: str, status: int, body: bytes) -> None:
    """ASGI websocket.close before the accept, and the denial response."""
    with pytest.raises(WebSocketBadStatusException) as refused:
        create_connection(serve(Partner()).ws_url + path, PATIENCE_S)
    assert (refused.value.status_code, refused.value.resp_body or b"") == (status, body)


def test_redirect_of_a_handshake_is_followed(serve: Serve) -> None:
    """RFC 6455 §4.1: an answer other than 101 is HTTP."""
    server = serve(Partner())
    with connected(f"{server.ws_url}/deny?status=302&location={server.ws_url}/echo") as client:
        client.send("found")
        assert client.recv() == "found"


# ---- WebSocketApp


def test_app_of_the_client_hears_messages_and_closes(serve: Serve) -> None:
    """`run_forever`: its callbacks in order, and its own close status at the application."""
    app = Partner()
    events: list[tuple[Any, ...]] = []

    def on_open(client: WebSocketApp) -> None:
        events.append(("open",))
        client.send("first")

    def on_message(client: WebSocketApp, message: Any) -> None:
        events.append(("message", message))
        if message == "first":
            client.send("second")
        else:
            client.close(status=3001, reason=b"heard enough")

    client = WebSocketApp(f"{serve(app).ws_url}/echo", on_open=on_open, on_message=on_message)
    client.run_forever()

    assert events == [("open",), ("message", "first"), ("message", "second")]
    assert app.ends.next() == (3001, "heard enough")


def test_app_of_the_client_is_told_code_and_reason(serve: Serve) -> None:
    """`on_close` has what the application closed with."""
    ends: list[tuple[int, str]] = []
    server = serve(Partner())
    # It does not close its socket after a Close of the server, so the socket is not left to it.
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as plain:
        client = WebSocketApp(
            f"{server.ws_url}/close?code=4001&reason=bye",
            on_close=lambda _, code, reason: ends.append((code, reason)),
            socket=plain,
        )
        client.run_forever()

    assert ends == [(4001, "bye")]


def test_app_of_the_client_pings_and_hears_pongs(serve: Serve) -> None:
    """`ping_interval`: a thread of the client pings, and each pong has its payload."""
    pongs: list[bytes] = []

    def on_pong(client: WebSocketApp, payload: bytes) -> None:
        pongs.append(payload)
        if len(pongs) == 3:
            client.close()

    client = WebSocketApp(f"{serve(Partner()).ws_url}/echo", on_pong=on_pong)
    client.run_forever(ping_interval=0.1, ping_payload="still there?")

    assert pongs == [b"still there?"] * 3
