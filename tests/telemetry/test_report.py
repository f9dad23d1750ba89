"""What a server says of itself, under real traffic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asgiws.server.asgi import Scope
from asgiws.telemetry.counters import Counts
from tests import PATIENCE_S, raw
from tests.apps import Receive, Send, echo
from tests.raw import RawClient, handshake

if TYPE_CHECKING:
    from tests.conftest import RunningServer, Serve


def report_of(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = server.call(server.server.report)
    return found


def counts_of(server: RunningServer) -> Counts:
    found: Counts = report_of(server)["counts"]
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Ask the server again and again, with each turn of its loop."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s


def wait_for_none(server: RunningServer) -> None:
    """Wait until the server has seen the end of every connection."""
    wait_until(lambda: server.call(lambda: server.server.connection_count) == 0)


def test_open_connection_shows_its_traffic(serve: Serve) -> None:
    """A connection that lives for hours is counted while it lives."""
    server = serve(echo)
    with RawClient(server.port) as client:
        client.open_websocket("/room")
        for _ in range(3):
            client.send(raw.text("hello"))
            client.read_text()
        counts = counts_of(server)
        (row,) = report_of(server)["connections"]

    assert counts["websocket_messages"] == {"in": 3, "out": 3}
    assert counts["websocket_bytes"] == {"in": 3 * 11, "out": 3 * 7}
    assert (row["path"], row["messages_in"], row["bytes_out"], row["state"]) == ("/room", 3, 21, "open")
    assert row["client"].startswith("127.0.0.1:")


def test_traffic_is_counted_once_when_the_connection_has_ended(serve: Serve) -> None:
    server = serve(echo)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(raw.text("hello"))
        client.read_text()
        client.send(raw.close())
        client.read_close()
    wait_for_none(server)
    report = report_of(server)

    assert report["counts"]["websocket_messages"] == {"in": 1, "out": 1}
    assert report["counts"]["websocket_closes"] == {"client:1000": 1}
    assert sum(report["histograms"]["websocket_duration"]["counts"]) == 1
    assert report["levels"]["connections"] == {"arriving": 0, "http": 0, "waiting": 0, "websocket": 0}
    assert report["connections"] == []


def test_connections_are_told_by_kind(serve: Serve) -> None:
    server = serve(echo)
    with RawClient(server.port) as websocket, RawClient(server.port) as http:
        websocket.open_websocket()
        http.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        http.read_answer()
        report = report_of(server)

    assert report["levels"]["connections"] == {"arriving": 0, "http": 1, "waiting": 0, "websocket": 1}
    assert report["counts"]["http_requests"] == {"": 1}
    assert sum(report["histograms"]["http_request_duration"]["counts"]) == 1


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/refuse":
        await receive()
        await send({"type": "websocket.close"})
    elif scope["path"] == "/half":
        await receive()
        await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
    elif scope["path"] == "/never":
        await receive()
        await receive()
    else:
        await echo(scope, receive, send)


def test_handshakes_are_told_by_outcome(serve: Serve) -> None:
    server = serve(_refuse)
    with RawClient(server.port) as client:
        client.open_websocket()
        with RawClient(server.port) as refused:
            refused.send(handshake("/refuse"))
            assert refused.read_answer().status == 403
        with RawClient(server.port) as rejected:
            rejected.send(handshake().replace(b"Version: 13", b"Version: 12"))
            assert rejected.read_answer().status == 426
        with RawClient(server.port) as abandoned:
            abandoned.send(handshake("/never"))
            wait_until(lambda: report_of(server)["levels"]["connections"]["websocket"] == 2)
        wait_until(lambda: report_of(server)["levels"]["connections"]["websocket"] == 1)
        counts = counts_of(server)

    assert counts["websocket_handshakes"] == {"accepted": 1, "refused": 1, "rejected": 1, "abandoned": 1}
    assert counts["rejections"] == {"websocket-version": 1}


def test_denial_that_the_application_does_not_complete_is_abandoned(serve: Serve) -> None:
    server = serve(_refuse)
    with RawClient(server.port) as client:
        client.send(handshake("/half"))
        client.read_to_end()
    wait_for_none(server)

    assert counts_of(server)["websocket_handshakes"] == {"accepted": 0, "refused": 0, "rejected": 0, "abandoned": 1}


async def _deaf(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.Event().wait()


def test_messages_that_wait_for_the_application_are_told(serve: Serve) -> None:
    server = serve(_deaf, graceful_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(raw.text("hello") * 2 + raw.frame(9))
        client.read_frame()  # the pong: both messages were parsed
        report = report_of(server)

    assert report["levels"]["inbox_messages"] == {"": 2}
    assert report["levels"]["inbox_bytes"] == {"": 10}
    assert report["connections"][0]["inbox_messages"] == 2


def test_text_that_waits_for_the_application_is_told_in_characters(serve: Serve) -> None:
    server = serve(_deaf, graceful_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(raw.text("\u00e9" * 5) + raw.frame(2, bytes(7)) + raw.frame(9))
        client.read_frame()  # the pong: both messages were parsed
        report = report_of(server)

    assert report["levels"]["inbox_bytes"] == {"": 5 + 7}


async def _flood(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "bytes": bytes(1024 * 1024)})


def test_unsent_bytes_of_a_slow_reader_are_told(serve: Serve) -> None:
    server = serve(_flood, compression="off", graceful_timeout=0.2)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket()
        wait_until(lambda: report_of(server)["levels"]["write_buffer_bytes"][""])
        row = report_of(server)["connections"][0]

    assert row["unsent_bytes"] > 0


def test_compression_is_told_while_and_after_a_connection(serve: Serve) -> None:
    for mode in ("shared", "dedicated"):
        server = serve(echo, compression=mode)
        with RawClient(server.port) as client:
            client.open_websocket("/", "Sec-WebSocket-Extensions: permessage-deflate")
            client.send(raw.text("a" * 1000))
            client.read_frame()
            during = counts_of(server)
        wait_for_none(server)
        after = counts_of(server)

        assert during["compression_input_bytes"] == after["compression_input_bytes"] == {"": 1000}
        assert 0 < during["compression_output_bytes"][""] == after["compression_output_bytes"][""] < 100


def test_round_trips_are_counted(serve: Serve) -> None:
    server = serve(echo, ping_interval=0.08)
    with RawClient(server.port) as client:
        client.open_websocket()
        first, payload = client.read_frame()
        assert first == 0x89
        client.send(raw.frame(10, payload))
        wait_until(lambda: sum(report_of(server)["histograms"]["websocket_round_trip"]["counts"]))
        row = report_of(server)["connections"][0]

    assert 0 < row["round_trip_s"] < 5


def test_blocked_loop_shows_as_lag(serve: Serve) -> None:
    server = serve(echo, ping_interval=0.08)
    server.call(lambda: time.sleep(0.3))

    def late() -> int:
        histogram = report_of(server)["histograms"]["event_loop_lag"]
        return sum(histogram["counts"][7:])  # above 0.1 s

    wait_until(late)


async def _raise(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("the application's own fault")


def test_exceptions_of_the_application_are_counted(serve: Serve) -> None:
    server = serve(_raise, lifespan="off")
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer().status == 500
        counts = counts_of(server)

    assert counts["app_errors"] == {"": 1}
    assert counts["http_responses"] == {"500": 1}


def test_report_has_the_ten_that_hold_most_carried_most_and_are_oldest(serve: Serve) -> None:
    server = serve(echo)
    clients = [RawClient(server.port) for _ in range(30)]
    for client in clients:
        client.open_websocket()
    clients[25].send(raw.text("x" * 1000))
    clients[25].read_text()
    rows = report_of(server)["connections"]
    for client in clients:
        client.socket.close()

    numbers = {row["number"] for row in rows}
    assert set(range(1, 11)) | {26} <= numbers
    assert len(rows) < 30


def test_server_closes_a_connection_by_its_number(serve: Serve) -> None:
    server = serve(echo)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.open_websocket()
        other.open_websocket()
        assert server.call(lambda: server.server.close_connection(1, 4000, "enough")) is True
        assert client.read_close() == (4000, "enough")
        client.send(raw.close(4000))
        client.read_to_end()
        assert server.call(lambda: server.server.close_connection(1, 4000, "enough")) is False
        assert counts_of(server)["websocket_closes"] == {"admin:4xxx": 1}
        other.send(raw.text("still here"))
        assert other.read_text() == "still here"
