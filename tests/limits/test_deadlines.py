"""Each deadline ends what waits too long, says so, and leaves the other connections alone."""

from __future__ import annotations

import asyncio
import re

import pytest

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, handshake, text


def recording(recorder: Recorder) -> object:
    """An application that accepts and writes down every event, answering nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        recorder.put(await receive())
        await send({"type": "websocket.accept"})
        while True:
            event = await receive()
            recorder.put(event)
            if event["type"] == "websocket.disconnect":
                return

    return app


@pytest.mark.parametrize(
    "sent", [b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b"], ids=["method", "line", "field"]
)
def test_head_that_does_not_end_is_answered_408(serve: Serve, sent: bytes) -> None:
    """RFC 9110 §15.5.9; slowloris."""
    server = serve(echo, head_timeout=0.2)
    with RawClient(server.port) as client:
        client.send(sent)
        answer = client.read_answer()
        assert (answer.status, answer.header(b"connection")) == (408, b"close")
        assert answer.body == b"head-timeout: no whole head in 0.2 s\n"
        assert client.read_to_end() == b""


def test_dribbled_head_gets_no_longer_than_a_silent_one(serve: Serve) -> None:
    server = serve(echo, head_timeout=0.3)
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        client.socket.settimeout(0.02)
        for _ in range(1000):
            client.send(b"y")
            try:
                client.read_until(b"\r\n")
                break
            except TimeoutError:
                continue
        else:
            raise AssertionError("the head was read for ever")


def test_connection_without_a_byte_is_closed(serve: Serve) -> None:
    server = serve(echo, head_timeout=0.2)
    with RawClient(server.port) as client:
        assert client.read_to_end() == b""


def test_body_that_rests_while_the_application_waits_is_answered_408(serve: Serve) -> None:
    server = serve(echo, body_timeout=0.2)
    with RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        answer = client.read_answer()
        assert answer.status == 408
        assert answer.body == b"body-timeout: no body byte for 0.2 s\n"


def test_application_that_does_not_wait_for_the_body_is_not_cut_off(serve: Serve) -> None:
    """The deadline is the client's: an application may think as long as it likes."""
    release = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["path"] == "/release":
            release.set()
        else:
            await release.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    server = serve(app, body_timeout=0.05, keep_alive_timeout=0.4)
    with RawClient(server.port) as thinking, RawClient(server.port) as idle, RawClient(server.port) as other:
        thinking.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        idle.send(b"GET /release HTTP/1.1\r\nHost: x\r\nX-Not-Yet: 1\r\n")
        # A keep-alive timeout on another connection is the clock here: several body deadlines have passed by then.
        idle.send(b"\r\n")
        idle.read_answer()
        assert idle.read_to_end() == b""
        other.send(b"GET /release HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.read_answer().status == 204
        assert thinking.read_answer().status == 204


def test_idle_keep_alive_connection_is_closed(serve: Serve) -> None:
    server = serve(echo, keep_alive_timeout=0.2)
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer().status == 200
        assert client.read_to_end() == b""


def test_handshake_that_the_application_does_not_answer_gets_503(serve: Serve) -> None:
    recorder = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        recorder.put((await receive())["type"])
        recorder.put(await receive())
        try:
            await send({"type": "websocket.accept"})
        except OSError as error:
            recorder.put(type(error).__name__)

    server = serve(app, handshake_timeout=0.2)
    with RawClient(server.port) as client:
        client.send(handshake())
        assert client.read_answer().status == 503
        assert client.read_to_end() == b""
    assert recorder.next() == "websocket.connect"
    assert recorder.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert recorder.next() == "ClientDisconnected"
    assert server.call(lambda: server.server.counters.rejections["handshake-timeout"]) == 1


def test_websocket_without_messages_is_closed_after_the_idle_timeout(serve: Serve) -> None:
    recorder = Recorder()
    server = serve(recording(recorder), idle_timeout=0.2, ping_interval=0.05)  # type: ignore[arg-type] # an ASGI app
    with RawClient(server.port) as client:
        client.open_websocket()
        first = client.read_frame()
        while first[0] == 0x89:  # pings are no messages, and their answers neither
            client.send(frame(10, first[1]))
            first = client.read_frame()
        assert first == (0x88, b"\x03\xe9idle timeout")
        client.send(close(1001))
    assert recorder.next()["type"] == "websocket.connect"
    assert recorder.next() == {"type": "websocket.disconnect", "code": 1001, "reason": "idle timeout"}


def test_round_trip_of_an_answered_ping_is_measured(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 6455 §5.5.2; the line at the end of the connection has it."""
    caplog.set_level("INFO")
    server = serve(echo, ping_interval=0.1, access_log=True)
    with RawClient(server.port) as client:
        client.open_websocket()
        first, payload = client.read_frame()
        assert first == 0x89
        client.send(frame(10, payload) + text("after"))
        assert client.read_text() == "after"
        client.send(close())
        client.read_to_end()
    server.stop()
    (line,) = [message for message in caplog.messages if " closed 1000 by client" in message]
    assert re.search(r" round-trip=\d+\.\dms$", line)


def test_websocket_ends_after_its_maximum_lifetime(serve: Serve) -> None:
    server = serve(echo, max_lifetime=0.3)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("busy"))
        assert client.read_text() == "busy"
        assert client.read_close() == (1001, "maximum lifetime")


def test_peer_that_does_not_answer_a_close_is_cut_off(serve: Serve) -> None:
    """RFC 6455 §7.1.1: the TCP connection ends in any case."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})

    server = serve(app, close_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_close() == (4000, "")
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("option", "sent", "rule"),
    [
        ({"max_message_rate": 3}, text("m") * 4, "over 3 messages in a second, the limit"),
        ({"max_byte_rate": 100}, text("m" * 95), "over 100 bytes in a second, the limit"),
        ({"max_control_rate": 3}, frame(10, b"") * 4, "over 3 control frames in a second, the limit"),
    ],
    ids=["messages", "bytes", "control-frames"],
)
def test_rate_over_its_limit_closes_1008(serve: Serve, option: dict[str, int], sent: bytes, rule: str) -> None:
    server = serve(echo, **option)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(sent)
        first, payload = client.read_frame()
        while first == 0x81:  # what stayed within the limit is echoed first
            first, payload = client.read_frame()
        assert (first, payload) == (0x88, b"\x03\xf0" + rule.encode())
    assert server.call(lambda: server.server.counters.rejections.total()) == 1


@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ({"max_message_rate": 3}, text("m") * 3),
        ({"max_byte_rate": 100}, text("m" * 94)),
        ({"max_control_rate": 3}, frame(10, b"") * 3 + text("m")),
    ],
    ids=["messages", "bytes", "control-frames"],
)
def test_rate_at_its_limit_is_served(serve: Serve, option: dict[str, int], sent: bytes) -> None:
    server = serve(echo, **option)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(sent)
        assert client.read_text().startswith("m")
        client.send(b"")
        client.half_close()
        assert b"\x88" not in client.read_to_end()


def test_connections_over_the_limit_get_503_and_free_places_are_used(serve: Serve) -> None:
    server = serve(echo, max_connections=2)
    with RawClient(server.port) as first, RawClient(server.port) as second:
        first.open_websocket()
        second.open_websocket()
        with RawClient(server.port) as third:
            answer = third.read_answer()
            assert (answer.status, int(answer.header(b"retry-after") or 0) in range(1, 11)) == (503, True)
            assert answer.body == b"too-many-connections: 2 connections, the limit\n"
            assert third.read_to_end() == b""
        first.send(close())
        first.read_to_end()
        with RawClient(server.port) as third:
            third.open_websocket()


def test_handshakes_over_the_rate_get_429(serve: Serve) -> None:
    server = serve(echo, handshake_rate=2)
    with RawClient(server.port) as first, RawClient(server.port) as second, RawClient(server.port) as third:
        first.open_websocket()
        second.open_websocket()
        third.send(handshake())
        answer = third.read_answer()
        assert (answer.status, int(answer.header(b"retry-after") or 0) in range(1, 11)) == (429, True)
        assert answer.body == b"too-many-handshakes: over 2 handshakes in a second, the limit\n"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://example.com", 101),
        ("https://evil.example", 403),
        ("http://example.com", 403),
        ("https://a.b.example.org", 101),
        ("https://example.org", 403),
        ("https://badexample.org", 403),
        ("null", 403),
        (None, 101),
    ],
)
def test_origins_are_checked_before_the_application_is_called(serve: Serve, origin: str | None, status: int) -> None:
    """RFC 6455 §10.2: cross-site WebSocket hijacking."""
    server = serve(echo, allowed_origins=["https://example.com", "*.example.org"])
    with RawClient(server.port) as client:
        client.send(handshake("/", *([f"Origin: {origin}"] if origin else [])))
        assert client.read_answer().status == status
    refused = server.call(lambda: server.server.counters.rejections["origin-not-allowed"])
    assert refused == (1 if status == 403 else 0)


def test_refused_connections_that_linger_are_bounded(serve: Serve) -> None:
    """Refusing politely takes a descriptor until the client closes; a flood of such clients is cut off instead."""
    server = serve(echo, max_connections=1)
    clients = [RawClient(server.port) for _ in range(300)]
    try:
        clients[0].open_websocket()
        answers = [client.read_to_end() for client in clients[1:]]
        assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 256
        assert answers.count(b"") == 299 - 256
        clients[0].send(text("still here"))
        assert clients[0].read_text() == "still here"
    finally:
        for client in clients:
            client.socket.close()


def test_refused_connections_that_are_cut_off_are_counted_too(serve: Serve) -> None:
    """The counters have them all (asgiws/telemetry/README.md)."""
    server = serve(echo, max_connections=1)
    clients = [RawClient(server.port) for _ in range(300)]
    try:
        clients[0].open_websocket()
        for client in clients[1:]:
            client.read_to_end()
        assert server.call(lambda: server.server.counters.rejections["too-many-connections"]) == 299
    finally:
        for client in clients:
            client.socket.close()
