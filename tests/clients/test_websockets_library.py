"""The package `websockets` as a client, in both of its ways: blocking and asyncio."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests import PATIENCE_S
from tests.clients.partner import Partner
from tests.conftest import Serve

MIB = 1024 * 1024
NO_PROXY: dict[str, Any] = {"proxy": None, "max_size": None}
DEFLATE = ("deflate", None)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a client of asyncio, at most as long as a test waits."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


def text_of(size: int, seed: int = 1) -> str:
    """Text of so many bytes that deflate makes smaller, but not by much."""
    return random.Random(seed).randbytes(size // 2 + 1).hex()[:size]


def ended(client: ClientConnection) -> ConnectionClosed:
    """Read to the end of a connection."""
    try:
        while True:
            client.recv(PATIENCE_S)
    except ConnectionClosed as closed:
        return closed


# ---- messages

MESSAGES: dict[str, str | bytes] = {
    "empty-text": "", "empty-binary": b"", "text": "hello", "binary": b"\x00\xff\x00\xff",
    "unicode": "grüße 世界 \U0001f600" * 40, "125": "x" * 125, "126": "x" * 126, "65535": b"x" * 65535,
    "65536": b"x" * 65536,
}  # fmt: skip


@pytest.mark.parametrize("compression", DEFLATE)
@pytest.mark.parametrize("kind", MESSAGES)
def test_message_comes_back_to_the_blocking_client(serve: Serve, kind: str, compression: str | None) -> None:
    """RFC 6455 §5.6, and RFC 7692 §7.2 with compression: type and content are kept."""
    with connect(f"{serve(Partner()).ws_url}/echo", compression=compression, **NO_PROXY) as client:
        for _ in range(2):
            client.send(MESSAGES[kind])
            assert client.recv(PATIENCE_S) == MESSAGES[kind]


@pytest.mark.parametrize("compression", DEFLATE)
def test_messages_come_back_to_the_asyncio_client_in_order(serve: Serve, compression: str | None) -> None:
    """RFC 6455 §5.4: all are sent before the first answer is read."""
    wanted = [text_of(number * 97 % 5000, number) for number in range(300)]
    url = f"{serve(Partner()).ws_url}/echo"

    async def client() -> list[object]:
        async with connect_async(url, compression=compression, **NO_PROXY) as connection:
            for message in wanted:
                await connection.send(message)
            return [await connection.recv() for _ in wanted]

    assert run(client()) == wanted


@pytest.mark.parametrize("compression", DEFLATE)
@pytest.mark.parametrize("pieces", [["one"], ["gr", "", "üße", ""], [b"\x00", b"", b"\xff" * 70_000], ["x"] * 1000])
def test_fragments_are_one_message(serve: Serve, pieces: Iterable[Any], compression: str | None) -> None:
    """RFC 6455 §5.4: `send` of an iterable sends a frame for each piece and an empty last one."""
    app = Partner()
    with connect(f"{serve(app).ws_url}/echo", compression=compression, **NO_PROXY) as client:
        client.send(pieces)
        parts = list(pieces)
        assert client.recv(PATIENCE_S) == type(parts[0])().join(parts)


def test_fragments_are_sent_while_pings_go_between_them(serve: Serve) -> None:
    """RFC 6455 §5.4: control frames may stand between fragments, and are answered before the message ends."""
    url = f"{serve(Partner()).ws_url}/echo"

    async def client() -> object:
        async with connect_async(url, **NO_PROXY) as connection:

            async def pieces() -> Any:
                for piece in ("a", "b", "c"):
                    yield piece
                    await (await connection.ping())

            await connection.send(pieces())
            return await connection.recv()

    assert run(client()) == "abc"


def test_message_of_the_server_is_one_frame(serve: Serve) -> None:
    """The server does not fragment what the application sent as one."""
    with connect(f"{serve(Partner()).ws_url}/sizes", **NO_PROXY) as client:
        client.send(str(3 * MIB))
        assert [len(piece) for piece in client.recv_streaming()] == [3 * MIB]


# ---- big messages


# Of these bytes deflate makes a little more than they are, and it is quick about it.
INCOMPRESSIBLE = random.Random(1).randbytes(16 * MIB + 1)
AT_LEVEL_1: dict[str | None, list[ClientPerMessageDeflateFactory] | None] = {
    "deflate": [ClientPerMessageDeflateFactory(compress_settings={"level": 1})],
    None: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("compression", DEFLATE)
@pytest.mark.parametrize("size", [MIB, 5 * MIB, 16 * MIB])
def test_message_up_to_the_limit_comes_back(serve: Serve, size: int, compression: str | None) -> None:
    """max_message_size is 16 MiB by default, inflated: a message that deflate has made longer is within it."""
    extensions = AT_LEVEL_1[compression]
    url = f"{serve(Partner()).ws_url}/echo"
    with connect(url, extensions=extensions, compression=None, **NO_PROXY) as client:
        client.send(INCOMPRESSIBLE[:size])
        assert client.recv(PATIENCE_S) == INCOMPRESSIBLE[:size]


@pytest.mark.slow
@pytest.mark.parametrize("compression", DEFLATE)
def test_message_over_the_limit_closes_1009(serve: Serve, compression: str | None) -> None:
    """RFC 6455 §7.4.1: one byte over 16 MiB, as it is or inflated; the client reads code and reason."""
    app = Partner()
    extensions = AT_LEVEL_1[compression]
    with connect(f"{serve(app).ws_url}/echo", extensions=extensions, compression=None, **NO_PROXY) as client:
        client.send(INCOMPRESSIBLE)
        closed = ended(client)

    assert closed.rcvd is not None
    assert closed.rcvd.code == 1009
    assert str(16 * MIB) in closed.rcvd.reason
    assert app.ends.next() == (1009, closed.rcvd.reason)
    assert app.heard.empty


def test_compressed_zeros_are_refused_for_their_ratio_only_where_that_is_limited(serve: Serve) -> None:
    """RFC 7692 §8: 8 MiB of zeros are 8 KiB on the wire."""
    with connect(f"{serve(Partner(), max_inflate_ratio=200).ws_url}/echo", **NO_PROXY) as client:
        client.send(b"\0" * 8 * MIB)
        closed = ended(client)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1009
    with connect(f"{serve(Partner()).ws_url}/echo", **NO_PROXY) as client:
        client.send(b"\0" * 8 * MIB)
        assert client.recv(PATIENCE_S) == b"\0" * 8 * MIB


# ---- compression

OFFERS = {
    "default": ClientPerMessageDeflateFactory(),
    "no-server-takeover": ClientPerMessageDeflateFactory(server_no_context_takeover=True),
    "no-client-takeover": ClientPerMessageDeflateFactory(client_no_context_takeover=True),
    "server-window-9": ClientPerMessageDeflateFactory(server_max_window_bits=9),
    "server-window-12": ClientPerMessageDeflateFactory(server_max_window_bits=12),
    "client-window-9": ClientPerMessageDeflateFactory(client_max_window_bits=9),
    "client-window-unsaid": ClientPerMessageDeflateFactory(client_max_window_bits=None),
    "all": ClientPerMessageDeflateFactory(True, True, 10, 10),
}


@pytest.mark.parametrize("mode", ["shared", "dedicated"])
@pytest.mark.parametrize("offer", OFFERS)
def test_what_the_client_offers_is_negotiated_and_works(serve: Serve, offer: str, mode: str) -> None:
    """RFC 7692 §7.1: whatever window and takeover both agreed on, each side inflates what the other deflated."""
    with connect(
        f"{serve(Partner(), compression=mode).ws_url}/echo", extensions=[OFFERS[offer]], compression=None, **NO_PROXY
    ) as client:
        assert client.response is not None
        assert client.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        for size in (10, 300, 70_000, 300, 10, 40_000, 40_000):
            client.send(text_of(size))
            assert client.recv(PATIENCE_S) == text_of(size)


@pytest.mark.parametrize("mode", ["shared", "dedicated"])
def test_a_server_window_of_8_bits_is_declined(serve: Serve, mode: str) -> None:
    """RFC 7692 §7.1.2.1: zlib cannot keep to a window of 256 bytes, so the connection goes on without compression."""
    offer = ClientPerMessageDeflateFactory(server_max_window_bits=8)
    url = f"{serve(Partner(), compression=mode).ws_url}/echo"
    with connect(url, extensions=[offer], compression=None, **NO_PROXY) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        client.send("plain")
        assert client.recv(PATIENCE_S) == "plain"


@pytest.mark.parametrize(("mode", "compression"), [("off", "deflate"), ("shared", None), ("dedicated", None)])
def test_compression_that_one_side_does_not_want_is_not_used(serve: Serve, mode: str, compression: str | None) -> None:
    """RFC 6455 §9.1: an extension is in use when it was offered and accepted."""
    with connect(f"{serve(Partner(), compression=mode).ws_url}/echo", compression=compression, **NO_PROXY) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        client.send("x" * 5000)
        assert client.recv(PATIENCE_S) == "x" * 5000


# ---- pings


def test_ping_of_the_blocking_client_is_answered_with_its_payload(serve: Serve) -> None:
    """RFC 6455 §5.5.3: identical application data; the client waits for each by its payload."""
    with connect(f"{serve(Partner()).ws_url}/echo", **NO_PROXY) as client:
        pongs = [client.ping(payload) for payload in (None, "p", b"\xff" * 125, b"")]
        assert all(pong.wait(PATIENCE_S) for pong in pongs)
        client.pong(b"unasked for, and ignored")
        client.send("after")
        assert client.recv(PATIENCE_S) == "after"


def test_ping_of_the_asyncio_client_gives_the_latency(serve: Serve) -> None:
    """The result of the awaited pong is a time in seconds, and it is the connection's latency from then on."""
    url = f"{serve(Partner()).ws_url}/echo"

    async def client() -> tuple[float, float]:
        async with connect_async(url, **NO_PROXY) as connection:
            return await (await connection.ping("now")), connection.latency

    latency, known = run(client())
    assert 0 < latency < PATIENCE_S
    assert known == latency


def test_pings_of_the_server_keep_a_silent_client(serve: Serve) -> None:
    """RFC 6455 §5.5.2: a client that answers pings is alive, though it never says anything itself."""
    pinged = threading.Semaphore(0)

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "< PING" in record.getMessage():
                pinged.release()

    logger = logging.Logger("client")  # of its own: nothing is written anywhere
    logger.addHandler(Watch())
    server = serve(Partner(), ping_interval=0.1, ping_timeout=0.1)
    with connect(f"{server.ws_url}/echo", logger=logger, ping_interval=None, **NO_PROXY) as client:
        for _ in range(5):
            assert pinged.acquire(timeout=PATIENCE_S)
        client.send("alive")
        assert client.recv(PATIENCE_S) == "alive"


# ---- ends


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "done"), (1001, "leaving"), (1011, "client failed"), (3000, "ü" * 61), (4999, "x" * 123)],
)
def test_close_of_the_client_reaches_the_application(serve: Serve, code: int, reason: str) -> None:
    """RFC 6455 §7.1.5 and §7.1.6: the application reads code and reason, the client its own code."""
    app = Partner()
    with connect(f"{serve(app).ws_url}/echo", **NO_PROXY) as client:
        client.close(code, reason)
        assert client.wait_closed(PATIENCE_S)
        assert (client.close_code, client.close_reason) == (code, "")
    assert app.ends.next() == (code, reason)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (1000, "", ConnectionClosedOK),
        (1001, "restart", ConnectionClosedOK),
        (1003, "binary", ConnectionClosedError),
        (1013, "later", ConnectionClosedError),
        (3000, "unauthorised", ConnectionClosedError),
        (4999, "%C3%BC" * 61, ConnectionClosedError),
    ],
)
def test_close_of_the_application_reaches_the_client(
    serve: Serve, code: int, reason: str, kind: type[ConnectionClosed]
) -> None:
    """RFC 6455 §7.1.5 and §7.1.6, the other way; the application reads what it said itself."""
    app = Partner()
    with connect(f"{serve(app).ws_url}/close?code={code}&reason={reason}", **NO_PROXY) as client:
        closed = ended(client)
    assert type(closed) is kind
    assert closed.rcvd is not None
    said = reason.replace("%C3%BC", "ü")
    assert (closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent) == (code, said, True)
    assert app.ends.next() == (code, said)


@pytest.mark.parametrize(("path", "code"), [("/close", 1000), ("/return", 1000), ("/raise", 1011)])
def test_application_that_ends_closes(serve: Serve, path: str, code: int) -> None:
    """ASGI: without a code it is 1000, after a return too, and 1011 after an exception."""
    with connect(serve(Partner()).ws_url + path, **NO_PROXY) as client:
        closed = ended(client)
    assert closed.rcvd is not None
    assert closed.rcvd.code == code


def test_client_that_vanishes_is_1006_for_the_application(serve: Serve) -> None:
    """RFC 6455 §7.1.5."""
    app = Partner()
    url = f"{serve(app).ws_url}/echo"

    async def client() -> None:
        async with connect_async(url, **NO_PROXY) as connection:
            connection.transport.abort()

    run(client())
    assert app.ends.next() == (1006, "")


def test_iteration_ends_when_the_server_stops_and_the_code_is_1012(serve: Serve) -> None:
    """The registry of close codes: service restart; every client reads it."""
    server = serve(Partner())

    async def client(ready: asyncio.Event) -> int | None:
        async with connect_async(f"{server.ws_url}/echo", **NO_PROXY) as connection:
            await connection.send("here")
            try:
                async for _ in connection:
                    ready.set()
            except ConnectionClosedError:
                pass
            return connection.close_code

    async def clients() -> list[int | None]:
        ready = [asyncio.Event() for _ in range(20)]
        tasks = [asyncio.create_task(client(event)) for event in ready]
        for event in ready:
            await event.wait()
        server.begin_stop()
        return await asyncio.gather(*tasks)

    assert run(clients()) == [1012] * 20


# ---- handshakes


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["chat.v1"], "chat.v1"), (["chat.v1", "chat.v2"], "chat.v1"), (["x", "chat.v2"], "chat.v2"), (["x"], None)],
)
def test_subprotocol_is_agreed_on(serve: Serve, offered: list[str], agreed: str | None) -> None:
    """RFC 6455 §4.2.2, item 5.5: the application's choice among those offered, or none."""
    subprotocols = [Subprotocol(name) for name in offered]
    with connect(f"{serve(Partner()).ws_url}/protocol", subprotocols=subprotocols, **NO_PROXY) as client:
        assert client.subprotocol == agreed


def test_headers_go_both_ways(serve: Serve) -> None:
    """RFC 6455 §4.1, item 12, and ASGI websocket.accept: headers of the client and of the application."""
    with connect(
        f"{serve(Partner()).ws_url}/scope?token=a%20b",
        origin=Origin("https://example.com"),
        additional_headers={"Authorization": "Bearer x", "Cookie": "a=1; b=2"},
        user_agent_header="tester/1",
        **NO_PROXY,
    ) as client:
        known = json.loads(client.recv(PATIENCE_S))
        assert client.response is not None
        assert client.response.headers["X-Served-By"] == "partner"
    headers = dict(known["headers"])
    assert headers["authorization"] == "Bearer x"
    assert headers["cookie"] == "a=1; b=2"
    assert headers["user-agent"] == "tester/1"
    assert headers["origin"] == "https://example.com"
    assert known["query"] == {"token": "a b"}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/refuse", 403, b""), ("/deny?status=401", 401, b"denied"), ("/deny?status=404", 404, b"denied")],
)
def test_refused_handshake_has_status_and_body(serve: Serve, path: str, status: int, body: bytes) -> None:
    """ASGI websocket.close before the accept, and the denial response."""
    with pytest.raises(InvalidStatus) as refused, connect(serve(Partner()).ws_url + path, **NO_PROXY):
        pass
    assert (refused.value.response.status_code, refused.value.response.body) == (status, body)


def test_redirect_of_a_handshake_is_followed(serve: Serve) -> None:
    """RFC 6455 §4.1: an answer other than 101 is HTTP, and clients may follow a redirect."""
    url = f"{serve(Partner()).ws_url}/deny?status=307&location=/echo"
    with connect(url, **NO_PROXY) as client:
        client.send("found")
        assert client.recv(PATIENCE_S) == "found"


# ---- many


def test_two_hundred_connections_at_once_are_all_answered(serve: Serve) -> None:
    """Each has its own order, and none hears another."""
    url = f"{serve(Partner()).ws_url}/echo"

    async def client(number: int, opened: asyncio.Barrier) -> bool:
        async with connect_async(url, open_timeout=PATIENCE_S, **NO_PROXY) as connection:
            await opened.wait()
            wanted = [f"{number} {turn}" for turn in range(20)]
            for message in wanted:
                await connection.send(message)
            return [await connection.recv() for _ in wanted] == wanted

    async def clients() -> list[bool]:
        opened = asyncio.Barrier(200)
        return await asyncio.gather(*(client(number, opened) for number in range(200)))

    assert run(clients()) == [True] * 200


@pytest.mark.parametrize("mode", ["shared", "dedicated", "off"])
def test_message_to_many_reaches_each_whatever_it_negotiated(serve: Serve, mode: str) -> None:
    """One object sent to all: some inflate it with their own window, some read it as it is."""
    url = f"{serve(Partner(), compression=mode).ws_url}/hall"
    extensions = [None, *([each] for each in OFFERS.values())]
    words = ["short", text_of(5000), text_of(100_000), "short"]

    async def visit(extension: list[ClientPerMessageDeflateFactory] | None, all_here: asyncio.Barrier) -> bool:
        async with connect_async(url, extensions=extension, compression=None, **NO_PROXY) as connection:
            while await connection.recv() != f"{len(extensions)} here":
                pass
            if await all_here.wait() == 0:
                for word in words:
                    await connection.send(word)
            heard = [await connection.recv() for _ in words]
            await all_here.wait()
            return heard == words

    async def visitors() -> list[bool]:
        all_here = asyncio.Barrier(len(extensions))
        return await asyncio.gather(*(visit(extension, all_here) for extension in extensions))

    assert run(visitors()) == [True] * len(extensions)
