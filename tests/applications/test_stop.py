"""A stop of real applications that keep a connection or a thread: it waits for nothing that has no end."""

from __future__ import annotations

import json
import signal

import pytest

from tests.raw import RawClient, close
from tests.server_process import Start, assert_no_traceback

APPS = "tests.applications.apps"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POLL = b"GET /socket.io/?EIO=4&transport=polling%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
MISSING = "the applications are not installed: pip install -e '.[applications]'"
LONG = ("--factory", "--graceful-timeout", "600")


def request_mcp(client: RawClient, method: str, body: dict[str, object] | None, session: bytes = b"") -> None:
    data = json.dumps({"jsonrpc": "2.0", **body}).encode() if body else b""
    fields = b"".join(
        (
            b"Host: localhost\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\n",
            b"Content-Length: %d\r\n" % len(data) if body else b"",
            b"Mcp-Session-Id: %s\r\n" % session if session else b"",
        )
    )
    client.send(b"%s / HTTP/1.1\r\n%s\r\n%s" % (method.encode(), fields, data))


def test_event_stream_of_sse_starlette_ends(start: Start) -> None:
    pytest.importorskip("sse_starlette", reason=MISSING)
    process = start(f"{APPS}:make_events", *LONG)
    with RawClient(process.port) as client:
        client.send(GET)
        assert b"text/event-stream" in client.read_until(b"data: first")
        process.signal(signal.SIGTERM)
        assert client.read_to_end().endswith(b"0\r\n\r\n")
        assert process.wait() == 0
    assert_no_traceback(process)
    assert not [line for line in process.stderr if "ERROR" in line or "waiting for" in line]


def test_event_stream_of_fastmcp_ends(start: Start) -> None:
    pytest.importorskip("fastmcp", reason=MISSING)
    process = start(f"{APPS}:make_mcp", *LONG)
    hello = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    with RawClient(process.port) as client, RawClient(process.port) as events:
        request_mcp(client, "POST", {"id": 1, "method": "initialize", "params": hello})
        session = client.read_answer().header(b"mcp-session-id")
        assert session
        request_mcp(client, "POST", {"method": "notifications/initialized"}, session)
        assert client.read_answer().status == 202
        request_mcp(events, "GET", None, session)
        assert b"text/event-stream" in events.read_until(b"\r\n\r\n")
        process.signal(signal.SIGTERM)
        events.read_to_end()
        assert process.wait() == 0
    process.rest_of_stderr()
    assert not [line for line in process.stderr if "waiting for" in line or "did not end" in line]


def test_long_poll_of_socketio_is_answered(start: Start) -> None:
    """It is a request that the application is still working on, and ends with its answer, the next ping."""
    pytest.importorskip("socketio", reason=MISSING)
    process = start(f"{APPS}:make_socketio", *LONG)
    with RawClient(process.port) as client:
        client.send(POLL % b"")
        session = json.loads(client.read_answer().body[1:])["sid"].encode()
        client.send(POLL % (b"&sid=" + session))
        process.terminate()
        answer = client.read_answer()
        assert (answer.status, answer.body, answer.header(b"connection")) == (200, b"2", b"close")
        assert process.wait() == 0
    assert_no_traceback(process)


def test_websocket_of_socketio_is_closed(start: Start) -> None:
    pytest.importorskip("socketio", reason=MISSING)
    process = start(f"{APPS}:make_socketio", *LONG)
    with RawClient(process.port) as client:
        client.open_websocket("/socket.io/?EIO=4&transport=websocket")
        assert client.read_text().startswith("0{")
        process.signal(signal.SIGTERM)
        assert client.read_close() == (1012, "service restart")
        client.send(close(1012))
        assert process.wait() == 0
    assert_no_traceback(process)


def test_thread_of_marimo_does_not_keep_the_process(start: Start) -> None:
    """The interpreter would wait for an executor's thread that waits for ever."""
    pytest.importorskip("marimo", reason=MISSING)
    process = start(f"{APPS}:make_marimo", *LONG)
    with RawClient(process.port) as page, RawClient(process.port) as websocket:
        page.send(GET)
        assert page.read_answer().status == 200
        websocket.open_websocket("/ws?session_id=s_test12")
        while '"op": "execution"' not in websocket.read_text():
            pass
        process.signal(signal.SIGTERM)
        websocket.send(close(1012))
        assert process.wait() == 0
