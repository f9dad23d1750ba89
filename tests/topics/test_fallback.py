"""Topics without this server: Starlette's TestClient and uvicorn, within one process."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from asgiws import Topic
from asgiws.topics.fallback import Fallback
from asgiws.topics.message import Message
from tests.topics.chat import app


def test_application_with_topics_runs_under_testclient() -> None:
    """As an application's own tests do, without a context and so with a loop for each WebSocket."""
    client = TestClient(app)
    with (
        client.websocket_connect("/rooms/1") as one,
        client.websocket_connect("/rooms/1") as two,
        client.websocket_connect("/rooms/2") as other,
    ):
        assert [socket.receive_text() for socket in (one, two, other)] == ["subscribed"] * 3
        one.send_text("hello")
        assert [one.receive_text(), two.receive_text()] == ["hello", "hello"]
        assert client.post("/rooms/2", content="from a route").text == "published"
        assert other.receive_text() == "from a route"
        two.send_text("bye")
        assert [one.receive_text(), two.receive_text()] == ["bye", "bye"]


def test_in_one_loop_too_and_a_socket_that_left_gets_nothing() -> None:
    with TestClient(app) as client, client.websocket_connect("/rooms/1") as stays:
        assert stays.receive_text() == "subscribed"
        with client.websocket_connect("/rooms/1") as leaves:
            assert leaves.receive_text() == "subscribed"
        client.post("/rooms/1", content="still here")
        assert stays.receive_text() == "still here"


def test_the_limits_hold_there_too() -> None:
    client = TestClient(app)
    with client.websocket_connect("/rooms/1") as one:
        assert one.receive_text() == "subscribed"
        with pytest.raises(ValueError, match=r"published message of 524289 bytes, allowed: 524288"):
            client.post("/rooms/1", content="x" * (512 * 1024 + 1))
        with pytest.raises(ValueError, match="topic name of 205 characters, allowed: 1 to 200"):
            client.post("/rooms/" + "x" * 200, content="x")


def test_a_socket_that_subscribes_again_at_once_can_leave_again() -> None:
    async def again(websocket: WebSocket) -> None:
        topic = Topic("again")
        await websocket.accept()
        await topic.subscribe(websocket)
        await topic.unsubscribe(websocket)
        await topic.subscribe(websocket)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await topic.unsubscribe(websocket)
        await topic.publish("nobody gets it")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await websocket.send_text("done")
        await websocket.receive()

    app = Starlette(routes=[WebSocketRoute("/", again)])
    with TestClient(app) as client, client.websocket_connect("/") as socket:
        assert socket.receive_text() == "done"


def test_what_cannot_send_is_refused() -> None:
    async def subscribe() -> None:
        await Topic("room").subscribe({"type": "websocket"})

    with pytest.raises(TypeError, match="dict, allowed under this server: an object with send_text or send"):
        asyncio.run(subscribe())


def test_publishing_from_another_event_loop_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Such as that of a thread under this server, which reaches none of its sockets."""
    fallback = Fallback()
    fallback.publish(Message("t", "x"), None)
    fallback.publish(Message("t", "y"), None)
    assert caplog.messages == [
        "asgiws does not serve on this event loop, so topics reach only the connections of this process that "
        "another server has"
    ]
