"""Topics of one process, as clients and applications see them."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from asgiws import ClientDisconnected, Topic
from asgiws.server.asgi import Receive, Scope, Send
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, close, text
from tests.topics.chat import app as chat

MIB = 1024 * 1024


OPENED: list[RawClient] = []


@pytest.fixture(autouse=True)
def closed_sockets() -> Iterator[None]:
    """Close the sockets that a test leaves open, after its server."""
    yield
    while OPENED:
        OPENED.pop().socket.close()


def member(server: RunningServer, path: str = "/rooms/1", *fields: str, receive_buffer: int | None = None) -> RawClient:
    """Open a socket, and wait until it has subscribed."""
    client = RawClient(server.port, receive_buffer=receive_buffer)
    OPENED.append(client)
    client.open_websocket(path, *fields)
    assert client.read_text() == "subscribed"
    return client


def post(server: RunningServer, path: str, body: str) -> int:
    with RawClient(server.port) as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        return client.read_answer().status


def leave(client: RawClient) -> None:
    client.send(close())
    assert client.read_close()[0] == 1000
    assert client.read_to_end() == b""


def test_every_subscriber_gets_a_message_the_publisher_too(serve: Serve) -> None:
    server = serve(chat)
    members = [member(server) for _ in range(5)]
    other = member(server, "/rooms/2")
    members[0].send(text("hello"))
    assert [client.read_text() for client in members] == ["hello"] * 5
    other.send(text("apart"))
    assert other.read_text() == "apart"
    for client in (*members, other):
        leave(client)


def test_an_http_route_publishes(serve: Serve) -> None:
    server = serve(chat)
    client = member(server)
    assert post(server, "/rooms/1", "from a route") == 200
    assert client.read_text() == "from a route"
    leave(client)


def test_a_socket_that_has_ended_leaves_no_subscription(serve: Serve) -> None:
    """By its Close, by a reset, and by the end of its application."""
    server = serve(chat)
    stays, closes, resets = member(server), member(server), member(server)
    leave(closes)
    resets.reset()
    stays.send(text("still here"))
    assert stays.read_text() == "still here"
    leave(stays)
    server.stop()
    assert server.hub.subscription_count == server.hub.topic_count == 0


async def steps(websocket: WebSocket) -> None:
    """Subscribe, unsubscribe and publish as the client says."""
    await websocket.accept()
    async for order in websocket.iter_json():
        try:
            topic = Topic(order.get("topic", "t"), slow=order.get("slow", "close"))
            if order["do"] == "subscribe":
                await topic.subscribe(websocket)
            elif order["do"] == "unsubscribe":
                await topic.unsubscribe(websocket)
            elif order["do"] == "send":
                await websocket.send_text(order["data"])
            else:
                count = order.get("count", 1)
                for number in range(count):
                    data = order.get("data", str(number))
                    await topic.publish(data, exclude=websocket if order.get("exclude") else None)
        except Exception as error:
            await websocket.send_text(f"{type(error).__name__}: {error}")
        else:
            await websocket.send_text("done " + order["do"])


stepwise = Starlette(routes=[WebSocketRoute("/", steps)])


class Stepper:
    """A client of `steps`."""

    def __init__(self, server: RunningServer, *fields: str) -> None:
        self.raw = RawClient(server.port)
        OPENED.append(self.raw)
        self.raw.open_websocket("/", *fields)

    def do(self, what: str, **order: Any) -> str:
        self.raw.send(text(json.dumps({"do": what, **order})))
        return self.raw.read_text()


def test_two_subscriptions_of_one_socket_are_one(serve: Serve) -> None:
    client = Stepper(serve(stepwise))
    assert [client.do("subscribe") for _ in range(2)] == ["done subscribe"] * 2
    assert client.do("publish", data="once") == "once"
    assert client.raw.read_text() == "done publish"
    assert client.do("unsubscribe") == "done unsubscribe"
    assert client.do("publish", data="nobody") == "done publish"
    assert client.do("unsubscribe") == "done unsubscribe"


def test_excluded_socket_does_not_get_the_message(serve: Serve) -> None:
    server = serve(stepwise)
    one, two = Stepper(server), Stepper(server)
    assert one.do("subscribe") == two.do("subscribe") == "done subscribe"
    assert one.do("publish", data="for the others", exclude=True) == "done publish"
    assert two.raw.read_text() == "for the others"


@pytest.mark.parametrize("fields", [(), ("Sec-WebSocket-Extensions: permessage-deflate",)])
def test_own_sends_and_deliveries_keep_their_order(serve: Serve, fields: tuple[str, ...]) -> None:
    """While orders wait in the inbox, both go through the cork."""
    client = Stepper(serve(stepwise), *fields)
    assert client.do("subscribe") == "done subscribe"
    orders = []
    for number in range(200):
        orders.append(text(json.dumps({"do": "publish", "data": f"published {number}"})))
        orders.append(text(json.dumps({"do": "send", "data": f"sent {number}"})))
    client.raw.send(b"".join(orders))
    for number in range(200):
        assert client.raw.read_text() == f"published {number}"
        assert client.raw.read_text() == "done publish"
        assert client.raw.read_text() == f"sent {number}"
        assert client.raw.read_text() == "done send"


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ({"topic": ""}, "ValueError: topic name of 0 characters, allowed: 1 to 200"),
        ({"topic": "x" * 201}, "ValueError: topic name of 201 characters, allowed: 1 to 200"),
        ({"topic": "a b"}, "ValueError: topic name 'a b', allowed: visible ASCII characters, no spaces"),
        ({"topic": "ä"}, "ValueError: topic name '\\xe4', allowed: visible ASCII characters, no spaces"),
        ({"topic": 7}, "TypeError: topic int, allowed: a name as str"),
        ({"slow": "drop"}, "ValueError: slow='drop', allowed: 'close' or 'skip'"),
        ({"data": 7}, "TypeError: published int, allowed: str or bytes"),
        (
            {"data": "x" * (MIB // 2 + 1)},
            "ValueError: published message of 524289 bytes, allowed: 524288 (--max-publish-size)",
        ),
        (
            {"data": "ä" * (MIB // 4 + 1)},
            "ValueError: published message of 524290 bytes, allowed: 524288 (--max-publish-size)",
        ),
    ],
)
def test_misuse_raises_and_changes_nothing(serve: Serve, order: dict[str, Any], error: str) -> None:
    """The limits at N and N+1: 200 characters and 512 KiB are taken."""
    client = Stepper(serve(stepwise))
    assert client.do("subscribe", topic="x" * 200) == "done subscribe"
    raw = client.raw
    raw.send(text(json.dumps({"do": "publish", "topic": "x" * 200, **order})))
    assert raw.read_text() == error
    answers = client.do("publish", topic="x" * 200, data="x" * (MIB // 2)), raw.read_text()
    assert sorted(map(len, answers)) == [len("done publish"), MIB // 2]


def test_subscribe_before_the_accept_and_after_the_end_raises(serve: Serve) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        topic = Topic("t")
        await receive()
        try:
            await topic.subscribe(scope)
        except RuntimeError as error:
            seen.append(str(error))
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        try:
            await topic.subscribe(scope)
        except ClientDisconnected as error:
            seen.append(str(error))
        await topic.publish("while the close is under way")
        await topic.unsubscribe(scope)

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_close() == (1000, "")
        client.send(close())
        assert client.read_to_end() == b""
    server.stop()
    assert seen == [
        "subscribe before the websocket is open, allowed: after websocket.accept",
        "subscribe after the websocket was closed (1000)",
    ]


def test_a_scope_without_the_extension_is_refused_with_one_sentence(serve: Serve) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        for websocket in ({**scope, "extensions": {}}, object()):
            try:
                await Topic("t").subscribe(websocket)
            except (RuntimeError, TypeError) as error:
                seen.append(str(error))

    server = serve(app)
    with RawClient(server.port) as client:
        client.open_websocket()
        assert client.read_close() == (1000, "")
        client.send(close())
        client.read_to_end()
    assert seen == [
        "a websocket scope without the extension websocket.topics, allowed: the scope of a WebSocket as the server "
        "made it",
        "object, allowed: a WebSocket that has a scope, or the scope itself",
    ]


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the events that the client asks for."""
    if scope["type"] != "websocket":
        return
    assert scope["extensions"]["websocket.topics"] == {}
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        try:
            await send(json.loads(event["text"]))
        except Exception as error:
            await send({"type": "websocket.send", "text": f"{type(error).__name__}: {error}"})


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"type": "websocket.subscribe"}, "TypeError: topic NoneType, allowed: a name as str"),
        ({"type": "websocket.subscribe", "topic": "t", "name": 1}, "ValueError: websocket.subscribe with name, "
                                                                   "allowed: slow, topic"),
        ({"type": "websocket.subscribe", "topic": "t", "slow": 1}, "ValueError: websocket.subscribe with slow=1, "
                                                                   "allowed: 'close' or 'skip'"),
        ({"type": "websocket.publish", "topic": "t"}, "ValueError: websocket.publish with neither text and bytes, "
                                                      "allowed: one of them"),
    ],
)  # fmt: skip
def test_events_of_the_extension(serve: Serve, event: dict[str, Any], error: str) -> None:
    server = serve(plain)
    with RawClient(server.port) as one, RawClient(server.port) as two:
        for client in (one, two):
            client.open_websocket()
            client.send(text(json.dumps({"type": "websocket.subscribe", "topic": "t"})))
            client.send(text(json.dumps({"type": "websocket.send", "text": "subscribed"})))
            assert client.read_text() == "subscribed"
        one.send(text(json.dumps(event)))
        assert one.read_text() == error
        one.send(text(json.dumps({"type": "websocket.publish", "topic": "t", "text": "all"})))
        assert one.read_text() == two.read_text() == "all"
        one.send(text(json.dumps({"type": "websocket.publish", "topic": "t", "text": "others", "exclude_self": True})))
        assert two.read_text() == "others"
        one.send(text(json.dumps({"type": "websocket.unsubscribe", "topic": "t"})))
        two.send(text(json.dumps({"type": "websocket.publish", "topic": "t", "text": "two alone"})))
        assert two.read_text() == "two alone"
        one.send(text(json.dumps({"type": "websocket.send", "text": "done"})))
        assert one.read_text() == "done"


def test_a_scope_that_middleware_copied_still_finds_its_connection(serve: Serve) -> None:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await chat({**scope, "extensions": copy.deepcopy(scope["extensions"])}, receive, send)
        else:
            await chat(scope, receive, send)

    client = member(serve(middleware))
    client.send(text("hello"))
    assert client.read_text() == "hello"


# ---- slow clients


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it(serve: Serve) -> None:
    server = serve(chat, topic_backlog=200_000)
    slow, quick = member(server, receive_buffer=4096), member(server)
    for _ in range(80):
        assert post(server, "/rooms/1", "x" * 100_000) == 200
        assert len(quick.read_text()) == 100_000
    assert server.server.counters.slow_consumers == 1
    assert len(slow.read_to_end()) < 80 * 100_000


def test_a_client_that_skips_misses_messages_and_stays(serve: Serve) -> None:
    server = serve(stepwise, topic_backlog=200_000)
    slow, publisher = Stepper(server), Stepper(server)
    assert slow.do("subscribe", slow="skip") == "done subscribe"
    for _ in range(80):
        assert publisher.do("publish", data="x" * 100_000) == "done publish"
    skipped = server.hub.skipped
    assert server.call(server.server.report)["counts"]["topic_skipped"] == {"": skipped}
    assert 0 < skipped < 80
    assert [len(slow.raw.read_text()) for _ in range(80 - skipped)] == [100_000] * (80 - skipped)
    assert publisher.do("publish", data="caught up") == "done publish"
    assert slow.raw.read_text() == "caught up"
    assert server.server.counters.slow_consumers == 0


# ---- encoding and turns


def test_a_message_is_encoded_once_for_each_kind_of_connection(serve: Serve) -> None:
    server = serve(chat)
    members = [member(server) for _ in range(20)]
    members += [member(server, "/rooms/1", "Sec-WebSocket-Extensions: permessage-deflate") for _ in range(20)]
    before = server.hub.encoded
    assert post(server, "/rooms/1", "y" * 1000) == 200
    frames = [client.read_frame() for client in members]
    assert {first for first, _ in frames[:20]} == {0x81}
    assert {first for first, _ in frames[20:]} == {0xC1}
    assert server.hub.encoded - before == 2


def test_large_messages_keep_their_place(serve: Serve) -> None:
    """They are compressed in another thread, and what was published behind them waits."""
    server = serve(stepwise)
    one = Stepper(server, "Sec-WebSocket-Extensions: permessage-deflate")
    two = Stepper(server)
    assert one.do("subscribe") == two.do("subscribe") == "done subscribe"
    publisher = Stepper(server)
    for number in range(3):
        assert publisher.do("publish", data=str(number) * (MIB // 2)) == "done publish"
        assert publisher.do("publish", data=f"behind {number}") == "done publish"
    for number in range(3):
        assert one.raw.read_frame()[0] == 0xC1
        assert one.raw.read_text() == f"behind {number}"
        assert two.raw.read_text() == str(number) * (MIB // 2)
        assert two.raw.read_text() == f"behind {number}"


def test_large_messages_are_not_compressed_for_each_connection_by_itself(serve: Serve) -> None:
    """That would hold the loop for milliseconds, times the number of subscribers."""
    server = serve(chat, compression="dedicated")
    members = [member(server, "/rooms/1", "Sec-WebSocket-Extensions: permessage-deflate") for _ in range(3)]
    for size, first in ((1000, 0xC1), (MIB // 2, 0x81), (1000, 0xC1)):
        assert post(server, "/rooms/1", "y" * size) == 200
        assert [client.read_frame()[0] for client in members] == [first] * 3


def test_what_was_published_behind_a_large_message_counts_for_the_backlog(serve: Serve) -> None:
    """It is held meanwhile, and all of it is written in one turn."""
    server = serve(chat, topic_backlog=200_000, compression="off")
    slow = member(server, receive_buffer=4096)

    async def publish_burst() -> None:
        await Topic("room:1").publish("x" * (MIB // 2))
        for _ in range(340):
            await Topic("room:1").publish("x" * 10_000)

    server.wait_for(publish_burst())
    assert len(slow.read_to_end()) < 3_900_000
    assert server.server.counters.slow_consumers == 1


def test_the_loop_turns_during_a_large_fan_out(serve: Serve) -> None:
    """2,500 deliveries take three turns of the loop, in which another task runs."""
    delivered: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await stepwise(scope, receive, send)

    server = serve(app)
    client = Stepper(server)

    async def fan_out() -> None:
        class Quiet:
            encoder = None

            def deliver(self, message: object, skip_when_slow: bool, hold: bool) -> bool:
                return True

            def flush(self) -> None: ...

            async def deliver_past(self, messages: object) -> None: ...

            def on_gap(self, topic: str) -> None: ...

        for subscriber in (subscribers := [Quiet() for _ in range(2500)]):
            await server.hub.subscribe("many", subscriber)
        await Topic("many").publish("hello")
        while server.hub.delivered < 2500:
            delivered.append(server.hub.delivered)
            await asyncio.sleep(0)
        for subscriber in subscribers:
            server.hub.unsubscribe("many", subscriber)

    server.wait_for(fan_out())
    assert sorted(set(delivered)) == [1000, 2000]
    client.raw.send(close())


def test_server_code_listens(serve: Serve) -> None:
    """`messages` in a task: it gets what is published, and learns that it was too slow."""

    async def listen(limit: int, publish: int) -> list[Any]:
        found: list[Any] = []
        messages = Topic("t").messages(limit=limit)
        first = asyncio.ensure_future(anext(messages))
        while not server.hub.subscription_count:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        for number in range(publish):
            await Topic("t").publish(number.to_bytes(1))
        found.append(await first)
        try:
            while len(found) < publish:
                found.append(await anext(messages))
        except OSError as error:
            found.append(str(error))
        await messages.aclose()  # type: ignore[attr-defined]
        return found

    server = serve(chat)
    assert server.wait_for(listen(10, 3)) == [b"\x00", b"\x01", b"\x02"]
    assert server.wait_for(listen(2, 5)) == [b"\x00", b"\x01", "listener of t fell 2 messages behind"]
    assert server.hub.subscription_count == 0


def test_start_up_code_publishes(serve: Serve) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await Topic("t").publish("nobody is there yet")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await Topic("t").publish("nobody is there any more")
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await chat(scope, receive, send)

    server = serve(app)
    assert server.hub.published == 1
    server.stop()
    assert server.hub.published == 2


def test_publishing_without_a_pause_lets_the_loop_turn(serve: Serve) -> None:
    turns: list[int] = []

    async def publish() -> None:
        async def count() -> None:
            while True:
                turns.append(server.hub.published)
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        for _ in range(1000):
            await Topic("t").publish("x")
        counting.cancel()

    server = serve(chat)
    server.wait_for(publish())
    assert len(turns) >= 7
