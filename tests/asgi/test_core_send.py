"""ASGI 3.0, the core: what `send` takes and what it refuses (checklist 4.1, C4, C5 and C7)."""

from __future__ import annotations

from typing import Any

import pytest

from asgiws.server.asgi import Event, Scope
from tests.apps import Receive, Recorder, Send, echo, refuse_lifespan, say
from tests.asgi.app_help import POST, answer, begin_answer, body, error_of, get, on_request, on_websocket, with_lifespan
from tests.conftest import Serve
from tests.raw import RawClient, text

HTTP_START: dict[str, Any] = {"type": "http.response.start", "status": 200}
BEFORE_START: dict[str, Event] = {
    "no type": {"status": 200},
    "unknown type": {"type": "http.response.begin"},
    "type of another protocol": {"type": "websocket.send", "text": "x"},
    "body before start": {"type": "http.response.body", "body": b"x"},
    "trailers before start": {"type": "http.response.trailers", "headers": []},
    "no status": {"type": "http.response.start"},
    "status as text": {**HTTP_START, "status": "200"},
    "status that is none": {**HTTP_START, "status": 99},
    "status of an interim response": {**HTTP_START, "status": 101},
    "status of four digits": {**HTTP_START, "status": 1000},
    "header of str": {**HTTP_START, "headers": [("x-a", "b")]},
    "header name of str": {**HTTP_START, "headers": [("x-a", b"b")]},
    "header value of int": {**HTTP_START, "headers": [(b"content-length", 5)]},
    "header of three parts": {**HTTP_START, "headers": [(b"x-a", b"b", b"c")]},
    "header of one part": {**HTTP_START, "headers": [(b"x-a",)]},
    "headers as None": {**HTTP_START, "headers": None},
    "line end in a value": {**HTTP_START, "headers": [(b"x-a", b"b\r\nx-injected: 1")]},
    "LF in a value": {**HTTP_START, "headers": [(b"x-a", b"b\nx-injected: 1")]},
    "CR in a value": {**HTTP_START, "headers": [(b"x-a", b"b\rx-injected: 1")]},
    "NUL in a value": {**HTTP_START, "headers": [(b"x-a", b"b\0")]},
    "line end in a name": {**HTTP_START, "headers": [(b"x-injected: 1\r\nx-a", b"b")]},
    "colon in a name": {**HTTP_START, "headers": [(b"x-injected:", b"b")]},
    "space in a name": {**HTTP_START, "headers": [(b"x a", b"b")]},
    "empty name": {**HTTP_START, "headers": [(b"", b"b")]},
    "pseudo header": {**HTTP_START, "headers": [(b":status", b"204")]},
    "length that is no number": {**HTTP_START, "headers": [(b"content-length", b"five")]},
    "negative length": {**HTTP_START, "headers": [(b"content-length", b"-1")]},
    "length with a sign": {**HTTP_START, "headers": [(b"content-length", b"+5")]},
    "empty length": {**HTTP_START, "headers": [(b"content-length", b"")]},
    "two lengths in one": {**HTTP_START, "headers": [(b"content-length", b"5, 5")]},
    "two lengths": {**HTTP_START, "headers": [(b"content-length", b"5"), (b"content-length", b"6")]},
}
BEHIND_START: dict[str, Event] = {
    "no type": {"body": b"x"},
    "unknown type": {"type": "http.response.more"},
    "start again": {**HTTP_START},
    "trailers that were not announced": {"type": "http.response.trailers", "headers": []},
    "body as str": {"type": "http.response.body", "body": "x", "more_body": True},
    "body as None": {"type": "http.response.body", "body": None, "more_body": True},
    "body as int": {"type": "http.response.body", "body": 5, "more_body": True},
}


def assert_misuse(error: object) -> None:
    """A fault of the application is an exception, and not the one that says that the client has left."""
    assert isinstance(error, Exception)
    assert not isinstance(error, OSError)


@pytest.mark.parametrize("event", BEFORE_START.values(), ids=BEFORE_START)
def test_c4_invalid_event_before_the_response_raises_out_of_send_and_sends_nothing(serve: Serve, event: Event) -> None:
    """ASGI C4: raise for an unknown type, a missing key, a wrong type. What raised has not happened."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await error_of(send(event)))
        await answer(send, b"fine", status=202)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Connection: close"))
        answered = client.read_answer()
        assert_misuse(seen.next())
        assert (answered.status, answered.body) == (202, b"fine")
        assert b"injected" not in answered.raw_head
        assert client.read_to_end() == b""


@pytest.mark.parametrize("event", BEHIND_START.values(), ids=BEHIND_START)
def test_c4_invalid_event_in_a_response_raises_out_of_send_and_sends_nothing(serve: Serve, event: Event) -> None:
    """ASGI C4: raise for an unknown type, a missing key, a wrong type. What raised has not happened."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        seen.put(await error_of(send(event)))
        await body(send, b"be", more=True)
        seen.put(await error_of(send(event)))
        await body(send, b"hind")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Connection: close"))
        assert client.read_answer().body == b"behind"
        assert_misuse(seen.next())
        assert_misuse(seen.next())
        assert client.read_to_end() == b""


ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
BEFORE_ACCEPT: dict[str, Event] = {
    "no type": {"text": "x"},
    "unknown type": {"type": "websocket.open"},
    "send": {"type": "websocket.send", "text": "x"},
    "http response": {"type": "http.response.start", "status": 200},
    "body of an answer that was not begun": {"type": "websocket.http.response.body", "body": b"x"},
    "answer without a status": {"type": "websocket.http.response.start"},
    "answer with status as text": {"type": "websocket.http.response.start", "status": "401"},
    "answer with a line end in a header": {
        "type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"b\r\nx-injected: 1")],
    },
    "subprotocol as bytes": {**ACCEPT, "subprotocol": b"chat"},
    "header of str": {**ACCEPT, "headers": [("x-a", "b")]},
}  # fmt: skip
BEHIND_ACCEPT: dict[str, Event] = {
    "no type": {"text": "x"},
    "unknown type": {"type": "websocket.say", "text": "x"},
    "http response": {"type": "http.response.start", "status": 200},
    "answer to the handshake": {"type": "websocket.http.response.start", "status": 401},
    "accept again": {**ACCEPT},
    "neither text nor bytes": {"type": "websocket.send"},
    "both None": {"type": "websocket.send", "text": None, "bytes": None},
    "both": {"type": "websocket.send", "text": "x", "bytes": b"x"},
    "text as bytes": {"type": "websocket.send", "text": b"x"},
    "bytes as str": {"type": "websocket.send", "bytes": "x"},
    "text as int": {"type": "websocket.send", "text": 5},
    "text as a lone surrogate": {"type": "websocket.send", "text": "\ud800"},
    "long text that ends in a lone surrogate": {"type": "websocket.send", "text": "x" * 100_000 + "\udfff"},
}


@pytest.mark.parametrize("event", BEFORE_ACCEPT.values(), ids=BEFORE_ACCEPT)
def test_c4_invalid_event_before_the_accept_raises_out_of_send_and_sends_nothing(serve: Serve, event: Event) -> None:
    """ASGI C4: raise for an unknown type, a missing key, a wrong type. What raised has not happened."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        await receive()
        seen.put(await error_of(send(event)))
        await send(dict(ACCEPT))
        await say(send, "fine")

    with RawClient(serve(app).port) as client:
        answered = client.open_websocket("/", "Sec-WebSocket-Protocol: chat")
        assert_misuse(seen.next())
        assert b"injected" not in answered.raw_head
        assert answered.header(b"sec-websocket-protocol") is None
        assert client.read_text() == "fine"
        assert client.read_close() == (1000, "")


@pytest.mark.parametrize("event", BEHIND_ACCEPT.values(), ids=BEHIND_ACCEPT)
@pytest.mark.parametrize("extension", ["", "Sec-WebSocket-Extensions: permessage-deflate"], ids=["plain", "deflate"])
def test_c4_invalid_event_on_an_open_websocket_raises_out_of_send_and_sends_nothing(
    serve: Serve, event: Event, extension: str
) -> None:
    """ASGI C4: raise for an unknown type, a missing key, a wrong type. What raised has not happened."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await error_of(send(event)))
        await say(send, "fine")

    with RawClient(serve(on_websocket(talk)).port) as client:
        client.open_websocket("/", *[extension] if extension else [])
        assert_misuse(seen.next())
        assert client.read_text() == "fine"
        assert client.read_close() == (1000, "")


def test_c5_unknown_keys_in_events_do_not_raise(serve: Serve) -> None:
    """ASGI C5: extra keys in an event must not raise, whatever the event."""
    extra = {"x-unknown": object(), "more": None}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Event) -> None:
            await send({**message, **extra})

        await echo(scope, receive, send_more)

    with RawClient(serve(with_lifespan(app, {})).port) as client:
        client.send(POST)
        assert client.read_answer().body == b"body"
        client.open_websocket()
        client.send(text("x"))
        assert client.read_text() == "x"


def test_c7_messages_after_the_response_are_no_errors_and_send_nothing(serve: Serve) -> None:
    """ASGI C7, H15: once the response is complete `send` does nothing."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await answer(send, b"done")
        for event in (*BEFORE_START.values(), *BEHIND_START.values()):
            if "type" in event:
                seen.put(await error_of(send(event)))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get() + get("/", "Connection: close"))
        assert client.read_answer().body == b"done"
        assert client.read_answer().body == b"done"
        assert client.read_to_end() == b""
    assert seen.next() is None
    while not seen.empty:
        assert seen.next() is None
