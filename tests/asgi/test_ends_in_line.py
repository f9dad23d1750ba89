"""An end keeps its place in line: what the application answers to what came before it goes out before the Close.

RFC 6455 §5.5.1 and §7.1.7; ASGI WebSocket 2.5, W8. A Close or a violation behind messages takes effect when the
application's `receive` reaches it, at once when it waits there, and after `answer_timeout` when it is busy or never
receives.
"""

from __future__ import annotations

import asyncio

import pytest

import asgiws
from asgiws.server.asgi import Event
from tests.apps import Receive, Recorder, Send, echo, messages, say
from tests.asgi.app_help import (
    NEVER_S,
    disconnected,
    error_lines,
    error_of,
    on_websocket,
    read_to_disconnect,
    received,
    websocket_watcher,
)
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, text

SOON_S = 0.2

UNMASKED = "unmasked text frame, allowed: masked frames"
ENDS = {
    "violation": (frame(1, b"x", key=None), (1002, UNMASKED), disconnected(1002, UNMASKED)),
    "Close": (close(4000, "bye"), (4000, ""), disconnected(4000, "bye")),
    "empty Close": (close(None), (None, ""), disconnected(1005)),
}
every_end = pytest.mark.parametrize(("end", "sent", "event"), ENDS.values(), ids=ENDS)

Sent = tuple[int | None, str]


@every_end
@pytest.mark.parametrize("count", [1, 2, 500])
def test_messages_before_an_end_in_the_same_packet_are_answered_first(
    serve: Serve, end: bytes, sent: Sent, event: Event, count: int
) -> None:
    """Autobahn calls this strict: all echoes in order, then the Close; more messages than the inbox holds, too."""
    with RawClient(serve(echo, answer_timeout=NEVER_S).port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(count)) + end)
        assert [client.read_text() for _ in range(count)] == [str(number) for number in range(count)]
        assert client.read_close() == sent
        assert client.read_to_end() == b""


@every_end
def test_messages_before_an_end_are_delivered_first_and_nothing_behind_it(
    serve: Serve, end: bytes, sent: Sent, event: Event
) -> None:
    """RFC 6455 §5.5.1, §7.1.7: behind a Close or a violation no frame is processed, no ping answered."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), answer_timeout=NEVER_S).port) as client:
        client.open_websocket()
        behind = text("behind") + frame(9, b"behind") + close(4999, "behind")
        client.send(text("one") + frame(9, b"between") + frame(2, b"two") + end + behind)
        assert client.read_frame() == (0x8A, b"between")
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        assert [seen.next() for _ in range(4)] == [received("one"), received(b"two"), event, event]


@every_end
def test_end_takes_effect_at_once_when_the_app_waits(serve: Serve, end: bytes, sent: Sent, event: Event) -> None:
    """No deadline has to pass for an application that is in `receive`."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), answer_timeout=NEVER_S).port) as client:
        client.open_websocket()
        client.send(text("one"))
        assert seen.next() == received("one")
        client.send(end)
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        assert seen.next() == event


@every_end
def test_slow_answer_to_the_last_message_goes_out_before_the_close(
    serve: Serve, end: bytes, sent: Sent, event: Event
) -> None:
    """The application has taken the message, and works on it while the end waits."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()
        await say(send, "slow answer")
        seen.put(await receive())
        seen.put(await error_of(say(send, "too late")))

    server = serve(on_websocket(talk), answer_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + end)
        assert seen.next() == received("one")
        server.call(go_on.set)
        assert client.read_text() == "slow answer"
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        assert seen.next() == event
        assert type(seen.next()) is asgiws.ClientDisconnected


@every_end
@pytest.mark.parametrize("messages", [1, 3])
def test_end_takes_effect_after_the_deadline_when_the_app_is_busy(
    serve: Serve, end: bytes, sent: Sent, event: Event, messages: int
) -> None:
    """Then `send` raises; and `receive` has the messages, still, and the end behind them."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await go_on.wait()
        seen.put(await error_of(say(send, "too late")))
        await read_to_disconnect(receive, seen)
        seen.put(await receive())

    server = serve(on_websocket(talk), answer_timeout=SOON_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("unread") * messages + end)
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        server.call(go_on.set)
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert [seen.next() for _ in range(messages + 2)] == [received("unread")] * messages + [event, event]


@every_end
def test_end_behind_a_message_that_is_being_answered_takes_effect_after_the_deadline(
    serve: Serve, end: bytes, sent: Sent, event: Event
) -> None:
    """The inbox holds the end alone, for the application has taken the message and never comes back."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()

    server = serve(on_websocket(talk), answer_timeout=SOON_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + end)
        assert seen.next() == received("one")
        assert client.read_close() == sent
        assert client.read_to_end() == b""
        server.call(go_on.set)


def test_violation_takes_effect_after_the_deadline_when_the_app_never_receives(serve: Serve) -> None:
    """An application that only sends goes on until then, and is stopped by its `send`."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        error = None
        while error is None:
            error = await error_of(say(send, "tick"))
            await asyncio.sleep(0)
        seen.put(error)

    with RawClient(serve(on_websocket(talk), answer_timeout=SOON_S).port) as client:
        client.open_websocket()
        client.send(frame(1, b"x", key=None))
        while (last := client.read_frame()) == (0x81, b"tick"):
            pass
        assert last == (0x88, b"\x03\xea" + UNMASKED.encode())
        assert client.read_to_end() == b""
        assert type(seen.next()) is asgiws.ClientDisconnected


@pytest.mark.parametrize("code", [4000, None])
def test_close_alone_is_answered_at_once_also_when_the_app_is_busy(serve: Serve, code: int | None) -> None:
    """RFC 6455 §5.5.1: as soon as practical; no message waits for an answer that would have to go first."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        await go_on.wait()
        seen.put(await error_of(say(send, "too late")))
        seen.put(await receive())

    server = serve(on_websocket(talk), answer_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(close(code))
        assert client.read_close() == (code, "")
        assert client.read_to_end() == b""
        server.call(go_on.set)
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert seen.next() == disconnected(code or 1005)


@every_end
@pytest.mark.parametrize("messages", [0, 1])
def test_app_that_returns_with_an_end_in_line_closes_1000_and_the_connection_ends(
    serve: Serve, end: bytes, sent: Sent, event: Event, messages: int
) -> None:
    """The end in line has not taken effect, so it is the application that ended it; no answer has to be awaited."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()
        await say(send, "answer")

    server = serve(on_websocket(talk), answer_timeout=NEVER_S, close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + text("unread") * messages + end)
        assert seen.next() == received("one")
        server.call(go_on.set)
        assert client.read_text() == "answer"
        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""


@every_end
def test_app_that_raises_with_an_end_in_line_is_logged_and_the_connection_ends(
    serve: Serve, caplog: pytest.LogCaptureFixture, end: bytes, sent: Sent, event: Event
) -> None:
    """ASGI C6: one Close, 1011 for the application's fault, and no wait for an answer that is there already."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()
        raise ValueError("busy with this")

    server = serve(on_websocket(talk), answer_timeout=NEVER_S, close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + text("unread") + end)
        assert seen.next() == received("one")
        server.call(go_on.set)
        assert client.read_close() == (1011, "internal error")
        assert client.read_to_end() == b""
    server.stop()
    assert len(error_lines(caplog)) == 1


@every_end
def test_close_of_the_app_crosses_an_end_in_line(serve: Serve, end: bytes, sent: Sent, event: Event) -> None:
    """RFC 6455 §5.5.1: both sides may close at once; the peer's Close, or its fault, is the answer to ours."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()
        await send({"type": "websocket.close", "code": 4001, "reason": "mine"})
        seen.put(await receive())

    server = serve(on_websocket(talk), answer_timeout=NEVER_S, close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + text("unread") + end)
        assert seen.next() == received("one")
        server.call(go_on.set)
        assert client.read_close() == (4001, "mine")
        assert client.read_to_end() == b""
        assert seen.next() == disconnected(4001, "mine")


def test_close_of_the_app_reads_on_behind_a_full_inbox(serve: Serve) -> None:
    """RFC 6455 §7.1.2: the peer's Close is looked for, though reading had stopped before messages nobody took."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put("open")
        await go_on.wait()
        await send({"type": "websocket.close"})
        seen.put(await receive())

    server = serve(on_websocket(talk), close_timeout=NEVER_S)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.open_websocket()
        client.send(text("unread") * 100_000)
        other.open_websocket()
        assert [seen.next(), seen.next()] == ["open", "open"]
        server.call(go_on.set)
        assert client.read_close() == (1000, "")
        client.send(close())
        assert client.read_to_end() == b""
        assert other.read_close() == (1000, "")


@every_end
def test_stop_of_the_server_crosses_an_end_in_line(serve: Serve, end: bytes, sent: Sent, event: Event) -> None:
    """The peer's Close, or its fault, is the answer to ours: the connection ends at once, the application goes on."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            seen.put("cancelled at the end of the graceful timeout")
            raise

    server = serve(on_websocket(talk), answer_timeout=NEVER_S, close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + text("unread") + end)
        assert seen.next() == received("one")
        server.begin_stop()
        assert client.read_close() == (1012, "service restart")
        assert client.read_to_end() == b""
        assert seen.empty
        server.call(go_on.set)


@pytest.mark.parametrize("way", ["reset", "half-close"])
def test_tcp_connection_that_is_lost_behind_messages_is_told_behind_them(serve: Serve, way: str) -> None:
    """ASGI W8: in line as well; what the application answers to them goes nowhere."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await go_on.wait()
        seen.put(await error_of(say(send, "answer")))
        await read_to_disconnect(receive, seen)

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("one") + text("two"))
        assert seen.next() == received("one")
        if way == "reset":
            client.reset()
        else:
            client.half_close()
            assert client.read_to_end() == b""
        server.call(go_on.set)
        error = seen.next()
        assert error is None or type(error) is asgiws.ClientDisconnected
        assert [seen.next(), seen.next()] == [received("two"), disconnected(1006)]


@pytest.mark.parametrize("count", [10, 100, 5000])
def test_messages_in_the_packet_before_a_half_close_are_all_delivered_and_then_the_disconnect(
    serve: Serve, count: int
) -> None:
    """ASGI W8: also more messages than the inbox holds; one disconnect, and no message behind it."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        for _ in range(count + 3):
            seen.put(await receive())

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(count)))
        client.half_close()
        assert [seen.next() for _ in range(count)] == [received(str(number)) for number in range(count)]
        assert [seen.next() for _ in range(3)] == [disconnected(1006)] * 3


def test_messages_that_are_read_after_the_client_has_gone_are_counted(serve: Serve) -> None:
    """More than the inbox holds: those of the rest are parsed when the application comes to them."""
    seen, goes_on = Recorder(), asyncio.Event()

    @on_websocket
    async def app(receive: Receive, send: Send) -> None:
        await goes_on.wait()
        seen.put([message async for message in messages(receive)])

    running = serve(app, ping_interval=0)
    with RawClient(running.port) as client:
        client.open_websocket()
        client.send(b"".join(text(str(number)) for number in range(100)))
        client.reset()
    while running.call(lambda: running.server.connection_count):
        """Each look is a turn of the server's loop."""
    running.call(goes_on.set)
    assert seen.next() == [str(number) for number in range(100)]
    running.stop()
    assert running.server.counters.messages_in == 100
