"""Who ended a WebSocket: for each way the bytes on the wire, the application's `receive`, and its later `send`.

ASGI WebSocket 2.5 (checklist 4.3, W2, W8 to W10 and W26) and RFC 6455 §5.5.1 and §7. Ends that stand behind messages
that were not delivered yet are in `test_ends_in_line`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import asgiws
from tests.apps import Receive, Recorder, Send, say
from tests.asgi.app_help import (
    NEVER_S,
    assert_app_saw,
    assert_logged_once,
    disconnected,
    error_of,
    on_websocket,
    read_to_disconnect,
    received,
    wait_connections,
    websocket_watcher,
)
from tests.conftest import Serve
from tests.raw import RawClient, close, frame, text

LONGEST_REASON = "\u00e9" * 61 + "x"


# ---- the peer


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4999])
def test_close_of_the_peer_is_echoed_and_told(serve: Serve, code: int) -> None:
    """ASGI W8; RFC 6455 §5.5.1: the same code back, then the TCP connection ends at once; the application has both."""
    seen = Recorder()
    server = serve(websocket_watcher(seen), close_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(close(code, LONGEST_REASON))
        assert client.read_close() == (code, "")
        assert client.read_to_end() == b""
        wait_connections(server, 0)
        assert_app_saw(seen, disconnected(code, LONGEST_REASON))


def test_close_without_a_code_is_answered_by_one_and_told_as_1005(serve: Serve) -> None:
    """ASGI W8: 1005 if the frame had no code; RFC 6455 §7.4.1: which is never sent."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), close_timeout=NEVER_S).port) as client:
        client.open_websocket()
        client.send(close(None))
        assert client.read_close() == (None, "")
        assert client.read_to_end() == b""
        assert_app_saw(seen, disconnected(1005))


@pytest.mark.parametrize("way", ["reset", "half-close"])
@pytest.mark.parametrize("before", [b"", text("whole")[:-1], frame(1, b"a", fin=False)], ids=["", "frame", "fragment"])
def test_tcp_connection_that_is_lost_is_told_as_1006(serve: Serve, way: str, before: bytes) -> None:
    """ASGI W8; RFC 6455 §7.1.5: 1006 for a connection lost without a Close; nothing is sent, nothing cut delivered."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen)).port) as client:
        client.open_websocket()
        client.send(before)
        if way == "reset":
            client.reset()
        else:
            client.half_close()
            assert client.read_to_end() == b""
        assert_app_saw(seen, disconnected(1006))


VIOLATIONS = {
    "unmasked frame": (frame(1, b"x", key=None), 1002),
    "reserved bits": (frame(1, b"x", rsv=2), 1002),
    "reserved opcode": (frame(3), 1002),
    "fragmented ping": (frame(9, fin=False), 1002),
    "long ping": (frame(9, bytes(126)), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "text inside a message": (frame(1, fin=False) + frame(1), 1002),
    "close code 1005": (close(1005), 1002),
    "close code 999": (close(999), 1002),
    "Close of one byte": (frame(8, b"\x03"), 1002),
    "close reason not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(1, b"\xff"), 1007),
    "text not UTF-8 in a fragment": (frame(1, b"\xc3", fin=False) + frame(0, b"x", fin=False), 1007),
    "message too big": (frame(2, bytes(1001)), 1009),
    "message too big in fragments": (frame(2, bytes(1000), fin=False) + frame(0, b"x"), 1009),
}


@pytest.mark.parametrize(("violation", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_violation_of_the_peer_is_answered_with_its_code_and_told(serve: Serve, violation: bytes, code: int) -> None:
    """RFC 6455 §7.1.7: Close with 1002, 1007 or 1009 and a reason, TCP closed; the application has the same two."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), max_message_size=1000, answer_timeout=NEVER_S).port) as client:
        client.open_websocket()
        client.send(violation)
        sent_code, reason = client.read_close()
        assert sent_code == code
        assert reason
        assert client.read_to_end() == b""
        assert_app_saw(seen, disconnected(code, reason))


def test_close_reaches_a_peer_that_is_still_sending_its_violation(serve: Serve) -> None:
    """RFC 6455 §7.1.7: closing at once would reset the connection, and the Close be lost on its way."""
    seen = Recorder()
    with RawClient(serve(websocket_watcher(seen), max_message_size=1000).port) as client:
        client.open_websocket()
        client.send(frame(2, bytes(4_000_000)))
        assert client.read_close()[0] == 1009
        assert client.read_to_end() == b""


def test_peer_that_goes_on_behind_its_violation_is_ended_by_force(serve: Serve) -> None:
    """RFC 6455 §7.1.7: what comes then is thrown away, and `close_timeout` later the TCP connection with it."""
    seen = Recorder()
    server = serve(websocket_watcher(seen), close_timeout=0.2)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(frame(3))
        assert client.read_close()[0] == 1002
        assert client.read_to_end() == b""
        client.send(text("ignored"))
        wait_connections(server, 0)
        with pytest.raises(ConnectionError):
            client.send(text("ignored") * 1_000_000)
        assert seen.next()["code"] == 1002


# ---- the application closes


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": None, "reason": None}, 1000, ""),
        ({"code": 1001}, 1001, ""),
        ({"code": 1014, "reason": "bye"}, 1014, "bye"),
        ({"reason": "only a reason"}, 1000, "only a reason"),
        ({"code": 3000, "reason": LONGEST_REASON}, 3000, LONGEST_REASON),
        ({"code": 4999, "reason": "x" * 123}, 4999, "x" * 123),
    ],
)
def test_w10_close_of_the_app_is_sent_and_told(serve: Serve, fields: dict[str, object], code: int, reason: str) -> None:
    """ASGI W10: the given code or 1000, and the reason. With the peer's answer the TCP connection ends at once.

    `receive` gives what the application said, whatever the peer answers.
    """
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", **fields})
        await read_to_disconnect(receive, seen)
        seen.put(await receive())
        seen.put(await error_of(send({"type": "websocket.close"})))

    with RawClient(serve(on_websocket(talk), close_timeout=NEVER_S).port) as client:
        client.open_websocket()
        assert client.read_close() == (code, reason)
        client.send(close(4321, "mine"))
        assert client.read_to_end() == b""
        assert_app_saw(seen, disconnected(code, reason))


def closes(send: Send) -> Any:
    return send({"type": "websocket.close"})


async def returns(send: Send) -> None: ...


async def raises(send: Send) -> None:
    raise ValueError("at the end")


@pytest.mark.parametrize(("end", "code"), [(closes, 1000), (returns, 1000), (raises, 1011)])
class TestOurClose:
    """The closing handshake that begins on our side, whoever began it."""

    @pytest.fixture
    def client(self, serve: Serve, end: Any, options: dict[str, object]) -> Iterator[RawClient]:
        async def talk(receive: Receive, send: Send) -> None:
            await receive()
            await say(send, "last words")
            await end(send)

        with RawClient(serve(on_websocket(talk), **options).port) as client:
            client.open_websocket()
            yield client

    @pytest.mark.parametrize("options", [{"close_timeout": NEVER_S}])
    def test_stands_behind_what_was_sent_and_ends_with_the_answer(self, client: RawClient, code: int) -> None:
        """RFC 6455 §7.1.1: both Closes are out, and the server closes the TCP connection first."""
        client.send(text("one") + text("unread"))
        assert client.read_text() == "last words"
        assert client.read_close()[0] == code
        client.send(close(code))
        assert client.read_to_end() == b""

    @pytest.mark.parametrize("options", [{"close_timeout": 0.2}])
    def test_ends_without_an_answer_after_the_close_timeout(self, client: RawClient, code: int) -> None:
        """RFC 6455 §7.1.1: a peer that never answers cannot keep the connection; `close_timeout`."""
        client.send(text("one"))
        assert client.read_text() == "last words"
        assert client.read_close()[0] == code
        assert client.read_to_end() == b""

    @pytest.mark.parametrize("options", [{"close_timeout": NEVER_S}])
    @pytest.mark.parametrize(
        "sent", [frame(2, bytes(3_000_000)) * 2 + close(), text("x") * 100_000 + close(), frame(3), frame(1, b"\xff")],
        ids=["two large messages", "many messages", "violation", "bad text"],
    )  # fmt: skip
    def test_ends_with_the_answer_behind_anything_else(self, client: RawClient, code: int, sent: bytes) -> None:
        """RFC 6455 §5.5.1: what the peer sent before it saw our Close is read and dropped, whatever it is."""
        client.send(text("one"))
        assert client.read_text() == "last words"
        assert client.read_close()[0] == code
        client.send(sent)
        assert client.read_to_end() == b""

    @pytest.mark.parametrize("options", [{"close_timeout": NEVER_S}])
    @pytest.mark.parametrize("way", ["reset", "half-close"])
    def test_ends_when_the_peer_leaves_instead(self, client: RawClient, code: int, way: str) -> None:
        """RFC 6455 §7.1.4: the end of the TCP connection is the end, without an answer, too."""
        client.send(text("one"))
        assert client.read_text() == "last words"
        assert client.read_close()[0] == code
        if way == "reset":
            client.reset()  # that the server ends with nothing left over is what `serve` checks
        else:
            client.half_close()
            assert client.read_to_end() == b""


def test_app_that_raises_is_logged_once_with_its_traceback(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """ASGI C6, W2: Close 1011, and one line with the traceback."""

    async def talk(receive: Receive, send: Send) -> None:
        raise KeyError("oh")

    server = serve(on_websocket(talk))
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_close() == (1011, "internal error")
        client.send(close(1011))
        assert client.read_to_end() == b""
    server.stop()
    assert_logged_once(caplog, "KeyError")


# ---- what the application must not close with

ILLEGAL: dict[str, dict[str, object]] = {
    **{str(code): {"code": code} for code in (0, -1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, 2**64)},
    "code as str": {"code": "1000"},
    "code as float": {"code": 1000.0},
    "code as bool": {"code": True},
    "reason of 124 bytes": {"reason": "x" * 124},
    "reason of 62 characters and 124 bytes": {"reason": "\u00e9" * 62},
    "long reason": {"code": 4000, "reason": "x" * 100_000},
    "reason as bytes": {"reason": b"bye"},
    "reason with a lone surrogate": {"reason": "\ud800"},
}


@pytest.mark.parametrize("fields", ILLEGAL.values(), ids=ILLEGAL)
@pytest.mark.parametrize(
    ("then", "sent"),
    [("raises on", (1011, "internal error")), ("returns", (1000, "")), ("closes properly", (4000, "proper"))],
)
def test_illegal_close_raises_out_of_send_and_the_connection_is_closed_properly(
    serve: Serve, fields: dict[str, object], then: str, sent: tuple[int, str]
) -> None:
    """ASGI C4, W10; RFC 6455 §7.4, §5.5: never a frame that is illegal, and the connection goes on until it ends."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        error = await error_of(send({"type": "websocket.close", **fields}))
        seen.put(error)
        assert error is not None
        await say(send, "still open")
        if then == "raises on":
            raise error
        if then == "closes properly":
            await send({"type": "websocket.close", "code": 4000, "reason": "proper"})

    with RawClient(serve(on_websocket(talk), close_timeout=NEVER_S).port) as client:
        client.open_websocket()
        assert client.read_text() == "still open"
        assert client.read_close() == sent
        client.send(close(sent[0]))
        assert client.read_to_end() == b""
        assert isinstance(seen.next(), ValueError | TypeError)


# ---- the server stops


@pytest.mark.parametrize(("options", "code"), [({}, 1012), ({"shutdown_code": 1001}, 1001)])
def test_stop_of_the_server_closes_1012_and_is_told(serve: Serve, options: dict[str, object], code: int) -> None:
    """RFC 6455 §7.4, registry: 1012 "service restart", or `shutdown_code`; the application has the same."""
    seen = Recorder()
    server = serve(websocket_watcher(seen), close_timeout=NEVER_S, graceful_timeout=NEVER_S, **options)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("before"))
        assert seen.next() == received("before")
        server.begin_stop()
        assert client.read_close() == (code, "service restart")
        assert_app_saw(seen, disconnected(code, "service restart"))
        client.send(close(code))
        assert client.read_to_end() == b""
    server.stop()


def test_stop_of_the_server_releases_an_app_that_is_blocked_in_send(serve: Serve) -> None:
    """ASGI W26: `send` raises; the client that does not read is not waited for beyond the deadlines."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await say(send, "begun")
        seen.put(await error_of(say(send, bytes(64 * 2**20))))
        seen.put(await receive())

    server = serve(on_websocket(talk), write_timeout=0)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket()
        assert client.read_text() == "begun"
        client.read_exactly(10)
        server.begin_stop()
        assert type(seen.next()) is asgiws.ClientDisconnected
        assert seen.next() == disconnected(1012, "service restart")
        client.reset()


# ---- the first cause is the one that is told


def test_disconnect_stays_the_same_whatever_follows(serve: Serve) -> None:
    """ASGI W8: exactly one disconnect, repeated unchanged: after its own close, the TCP loss, and the server's stop."""
    seen, go_on = Recorder(), asyncio.Event()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await receive())
        await error_of(send({"type": "websocket.close", "code": 4444, "reason": "other"}))
        seen.put(await receive())
        await go_on.wait()
        seen.put(await receive())

    server = serve(on_websocket(talk), graceful_timeout=NEVER_S)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(close(4000, "first"))
        assert client.read_close() == (4000, "")
        client.reset()
        wait_connections(server, 0)
        server.begin_stop()
        server.call(go_on.set)
        assert [seen.next() for _ in range(3)] == [disconnected(4000, "first")] * 3
