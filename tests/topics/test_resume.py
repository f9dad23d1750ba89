"""History as clients and applications see it: positions, `since`, `recovered`, counts, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from asgiws import Topic, TopicsUnavailable
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, close, text

KIB = 1024


async def room(websocket: WebSocket) -> None:
    """Send what was missed, then whether that is all, then what follows; "count" asks how many are here."""
    topic = Topic(websocket.path_params["name"], history=int(websocket.query_params.get("history", 100)), ttl=60)
    await websocket.accept()
    async with topic.subscribed(websocket, since=websocket.query_params.get("since")) as subscription:
        await websocket.send_text(f"recovered {subscription.recovered}")
        async for message in websocket.iter_text():
            if message == "count":
                await websocket.send_text(str(await topic.count()))
            else:
                await topic.publish(message)


app = Starlette(routes=[WebSocketRoute("/{name}", room)])


class Client:
    """A client that remembers the last position that it has seen."""

    opened: list[RawClient] = []  # noqa: RUF012 - of all clients of a test

    def __init__(self, server: RunningServer, query: str = "", *, receive_buffer: int | None = None) -> None:
        self.raw = RawClient(server.port, receive_buffer=receive_buffer)
        self.opened.append(self.raw)
        self.raw.open_websocket(f"/room?{query}")
        self.at = ""

    def read(self) -> str:
        """Return the next text; that of a topic without its position."""
        received = self.raw.read_text()
        if not received.startswith('{"at":"'):
            return received
        message: dict[str, str] = json.loads(received)
        self.at = message["at"]
        return message["data"]

    def missed(self) -> tuple[list[str], bool]:
        """Return what was sent before the subscription was there, and whether it was all."""
        texts = []
        while not (received := self.read()).startswith("recovered "):
            texts.append(received)
        return texts, received == "recovered True"


@pytest.fixture(autouse=True)
def closed_sockets() -> Iterator[None]:
    """Close the sockets that a test leaves open, after its server."""
    yield
    while Client.opened:
        Client.opened.pop().socket.close()


@pytest.mark.promise
def test_a_client_that_comes_back_gets_what_it_missed_and_then_what_follows(serve: Serve) -> None:
    server = serve(app)
    stays, goes = Client(server), Client(server)
    assert stays.missed() == goes.missed() == ([], True)
    stays.raw.send(text("before"))
    assert stays.read() == goes.read() == "before"
    goes.raw.send(close())
    assert goes.raw.read_close()[0] == 1000
    for number in range(3):
        stays.raw.send(text(f"missed {number}"))
        assert stays.read() == f"missed {number}"
    back = Client(server, f"since={goes.at}")
    assert back.missed() == ([f"missed {number}" for number in range(3)], True)
    stays.raw.send(text("after"))
    assert stays.read() == back.read() == "after"
    assert stays.at == back.at
    assert Client(server, f"since={stays.at}").missed() == ([], True)
    assert Client(server, "since=").missed()[0][0] == "before"
    assert Client(server).missed() == ([], True)


@pytest.mark.parametrize("since", ["nonsense", "0000:1", "%C3%A4:1", "x" * 5000, ":"])
def test_an_unknown_position_brings_what_is_kept_and_is_not_recovered(serve: Serve, since: str) -> None:
    server = serve(app)
    publisher = Client(server, "history=2")
    for number in range(3):
        publisher.raw.send(text(str(number)))
    while publisher.read() != "2":
        pass
    assert Client(server, f"since={since}").missed() == (["1", "2"], False)
    server.stop()
    counts = server.server.report()["counts"]["topic_recoveries"]
    assert counts == {"complete": 0, "incomplete": 1}


def test_more_history_than_a_client_takes_at_once_waits_for_the_client(serve: Serve) -> None:
    """It is not dropped as a slow consumer: 20 MB are sent at the pace at which it reads, and live messages wait."""
    server = serve(app, topic_backlog=300 * KIB)

    async def publish(first: int, count: int) -> None:
        for number in range(first, first + count):
            await Topic("room", history=200).publish(f"{number}:" + "ä" * 100 * KIB)

    server.wait_for(publish(0, 100))
    client = Client(server, "since=", receive_buffer=4096)
    got = [client.read()]
    server.wait_for(publish(100, 3))
    texts, recovered = client.missed()
    numbers = [int(each.partition(":")[0]) for each in got + texts]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 100
    assert recovered
    for number in range(len(numbers), 103):
        assert client.read().startswith(f"{number}:")
    assert server.server.counters.slow_consumers == 0


def test_a_client_that_leaves_while_it_is_sent_its_history_leaves_no_subscription(serve: Serve) -> None:
    server = serve(app)

    async def publish() -> None:
        for _ in range(60):
            await Topic("room", history=100).publish("x" * 400 * KIB)

    server.wait_for(publish())
    client = Client(server, "since=", receive_buffer=4096)
    client.read()
    client.raw.reset()
    server.stop()
    assert server.hub.subscription_count == 0


def test_sockets_are_counted(serve: Serve) -> None:
    server = serve(app)
    clients = [Client(server, query) for query in ("", "since=", "since=")]
    assert [client.missed()[1] for client in clients] == [True] * 3
    clients[0].raw.send(text("count"))
    assert clients[0].read() == "3"
    clients[2].raw.send(close())
    assert clients[2].raw.read_to_end()
    clients[0].raw.send(text("count"))
    assert clients[0].read() in ("2", "3")


MISUSE: list[tuple[dict[str, Any], str]] = [
    ({"history": -1}, "history=-1, allowed: 0 to 10000 messages"),
    ({"history": 10_001}, "history=10001, allowed: 0 to 10000 messages"),
    ({"history": "9"}, "history='9', ttl=300, allowed: a count and seconds"),
    ({"history": 9, "ttl": 0}, "ttl=0, allowed: 1 to 604800 seconds"),
    ({"history": 9, "ttl": 604_801}, "ttl=604801, allowed: 1 to 604800 seconds"),
]


@pytest.mark.parametrize(("options", "error"), MISUSE, ids=lambda value: str(value)[:30])
def test_values_that_are_not_allowed_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        Topic("t", **options)
    assert str(raised.value) == error


async def misuse(websocket: WebSocket) -> None:
    """Do what is not allowed, and send what it raises."""
    await websocket.accept()
    plain, topic = Topic("t"), Topic("t", history=5)
    for step in (
        lambda: plain.subscribe(websocket, since="a:1"),
        lambda: topic.subscribe(websocket, since=7),  # type: ignore[arg-type]
        lambda: topic.publish(b"bytes"),
        lambda: topic.subscribe(websocket),
        lambda: topic.subscribe(websocket, since=""),
    ):
        try:
            await step()
        except Exception as error:
            await websocket.send_text(f"{type(error).__name__}: {error}")
    await topic.publish("still subscribed")
    await websocket.receive()


MISUSES = [
    "ValueError: since= for Topic('t'), allowed: for a topic with history=",
    "TypeError: since=int, allowed: a position as str, or None",
    "TypeError: published bytes to a topic with history, allowed: str",
    "AlreadySubscribed: since= for t, which is subscribed; allowed: with the first subscription",
]


def test_misuse_raises_one_clear_sentence_and_changes_nothing(serve: Serve) -> None:
    server = serve(Starlette(routes=[WebSocketRoute("/{name}", misuse)]))
    client = Client(server)
    assert [client.read() for _ in MISUSES] == MISUSES
    assert client.read() == "still subscribed"


def test_misuse_raises_the_same_under_testclient() -> None:
    with TestClient(Starlette(routes=[WebSocketRoute("/", misuse)])).websocket_connect("/") as client:
        assert [client.receive_text() for _ in MISUSES] == MISUSES
        assert json.loads(client.receive_text())["data"] == "still subscribed"


def test_history_under_testclient() -> None:
    """As under this server: a loop for each WebSocket, one order, and nothing twice."""
    client = TestClient(app)
    path = "/kept-in-tests"
    with client.websocket_connect(path) as one:
        assert one.receive_text() == "recovered True"
        for number in range(3):
            one.send_text(str(number))
        got = [json.loads(one.receive_text()) for _ in range(3)]
        assert [each["data"] for each in got] == ["0", "1", "2"]
        with client.websocket_connect(f"{path}?since={got[0]['at']}") as two:
            assert [json.loads(two.receive_text()) for _ in range(2)] == got[1:]
            assert two.receive_text() == "recovered True"
            one.send_text("live")
            assert one.receive_text() == two.receive_text()
            two.send_text("count")
            assert two.receive_text() == "2"
        with client.websocket_connect(f"{path}?since=lost:1") as three:
            assert [json.loads(three.receive_text())["data"] for _ in range(4)] == ["0", "1", "2", "live"]
            assert three.receive_text() == "recovered False"


def test_server_code_reads_on_from_a_position(serve: Serve) -> None:
    server = serve(app)

    async def listen(since: str, count: int) -> list[dict[str, str]]:
        messages = Topic("room", history=100).messages(since=since)
        found = [json.loads(await anext(messages)) for _ in range(count)]
        await messages.aclose()  # type: ignore[attr-defined]
        return found

    async def publish() -> None:
        for number in range(150):
            await Topic("room", history=100).publish(str(number))

    server.wait_for(publish())
    kept = server.wait_for(listen("", 100))
    assert [each["data"] for each in kept] == [str(number) for number in range(50, 150)]
    assert server.wait_for(listen(kept[97]["at"], 2)) == kept[98:]
    epoch = kept[0]["at"].partition(":")[0]
    with pytest.raises(TopicsUnavailable, match=f"what was published to room after {epoch}:1 is not kept any more"):
        server.wait_for(listen(f"{epoch}:1", 1))
    assert server.hub.subscription_count == 0


def test_what_is_kept_does_not_count_for_the_limit_of_a_listener(serve: Serve) -> None:
    """A reader with room for two is sent ten that are kept, and meanwhile two more."""
    server = serve(app)

    async def listen() -> list[str]:
        topic = Topic("room", history=100)
        for number in range(10):
            await topic.publish(str(number))
        messages = topic.messages(limit=2, since="")
        found = [await anext(messages)]
        for number in (10, 11):
            await topic.publish(str(number))
        found += [await anext(messages) for _ in range(11)]
        for number in range(12, 15):
            await topic.publish(str(number))
        found += [await anext(messages) for _ in range(2)]
        with pytest.raises(TopicsUnavailable, match="fell 2 messages behind"):
            await anext(messages)
        return [json.loads(each)["data"] for each in found]

    assert server.wait_for(listen()) == [str(number) for number in range(14)]


def test_what_topics_keep_is_bounded_by_an_option(serve: Serve) -> None:
    server = serve(app, topic_history=300 * KIB)

    async def publish() -> None:
        for number in range(100):
            await Topic(f"room:{number}", history=100).publish("x" * 20 * KIB)
        await asyncio.sleep(0)

    server.wait_for(publish())
    (held,) = server.call(server.server.report)["levels"]["topic_history_bytes"].values()
    assert 250 * KIB < held <= 300 * KIB
