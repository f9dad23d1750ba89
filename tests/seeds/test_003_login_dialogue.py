"""The fourth document: a handshake and its fields, a server that checks them, and a login dialogue over `websockets`.

The dialogue is that of `asgiws.demo`, /ws/login; the document's client talks to it, and to the document's own server,
and hears the same. Where the two differ, the document's server falls over or lets somebody in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from asgiws.demo.app import Demo
from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, accept, echo, messages, refuse_lifespan, say
from tests.conftest import Serve
from tests.raw import KEY, RawClient, handshake

REQUEST = b"\r\n".join([
    b"GET / HTTP/1.1", b"Upgrade: websocket", b"Connection: Upgrade", b"Host: example.com",
    b"Origin: http://example.com", b"Sec-WebSocket-Key: sN9cRrP/n9NdMgdcy2VJFQ==", b"Sec-WebSocket-Version: 13",
    b"\r\n",
])  # fmt: skip
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def status_of(port: int, request: bytes) -> int:
    with RawClient(port) as client:
        client.send(request)
        return client.read_answer().status


# ---- the handshake and its fields


def test_request_of_the_document_gets_the_accept_value_it_says(serve: Serve) -> None:
    """RFC 6455 §4.2.2, item 5.4; and no Sec-WebSocket-Location, which was of a draft."""
    with RawClient(serve(echo).port) as client:
        client.send(REQUEST)
        answer = client.read_answer()

        assert answer.raw_head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.header(b"upgrade") == b"websocket"
        assert answer.header(b"connection") == b"Upgrade"
        assert answer.header(b"sec-websocket-accept") == b"fFBooB7FAkLlXgRSz0BT3v4hq5s="
        assert answer.header(b"sec-websocket-location") is None


def test_accept_value_follows_from_the_key(serve: Serve) -> None:
    """RFC 6455 §1.3: SHA-1 of key and magic string in base64. The document's server has one value for all keys."""
    server = serve(echo)
    values = set()
    for number in range(3):
        key = base64.b64encode(bytes([number]) * 16)
        with RawClient(server.port) as client:
            client.send(handshake().replace(KEY, key))
            value = client.read_answer().header(b"sec-websocket-accept")
        assert value == base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        values.add(value)
    assert len(values) == 3
    assert b"Y3nhRRZjdrBphYXwpoEouw" not in values


@pytest.mark.parametrize("version", ["0", "6", "7", "8", "12"])
def test_versions_of_the_drafts_are_refused(serve: Serve, version: str) -> None:
    """RFC 6455 §4.4 and §11.6: 13 is the version, those of the drafts are not to be used."""
    request = REQUEST.replace(b"Version: 13", f"Version: {version}".encode())
    assert status_of(serve(echo).port, request) == 426


class Sees:
    """An application that writes down the headers of each handshake."""

    def __init__(self) -> None:
        self.headers = Recorder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        self.headers.put(dict(scope["headers"]))
        await echo(scope, receive, send)


def test_cookie_and_user_agent_are_for_the_application_as_in_http(serve: Serve) -> None:
    """RFC 6455 §4.1, item 12: other fields of HTTP may be there, cookies among them."""
    app = Sees()
    with RawClient(serve(app).port) as client:
        client.open_websocket("/", "Cookie: session=abc; theme=dark", "User-Agent: Mozilla/5.0")
    headers = app.headers.next()
    assert headers[b"cookie"] == b"session=abc; theme=dark"
    assert headers[b"user-agent"] == b"Mozilla/5.0"


@pytest.mark.parametrize("origin", [None, "http://example.com", "https://example.com:8443", "null"])
def test_origin_is_optional_and_says_scheme_host_and_port(serve: Serve, origin: str | None) -> None:
    """RFC 6454 §7: no path, as the document says, but the port is part of it where it is not the scheme's own."""
    app = Sees()
    with RawClient(serve(app).port) as client:
        client.open_websocket("/", *([f"Origin: {origin}"] if origin else []))
    assert app.headers.next().get(b"origin") == (origin.encode() if origin else None)


# ---- the simple client and server


def simple_request(*more: bytes, origin: bytes = b"127.0.0.1:9999") -> bytes:
    """The request of the document's client, with what it lacks in front."""
    fields = [
        b"Connection:Upgrade", b"Upgrade:websocket", b"Sec-Websocket-Key:" + KEY, b"Origin:" + origin,
    ]  # fmt: skip
    return b"\r\n".join([b"GET / HTTP/1.1", *more, *fields, b"\r\n"])


HOST, VERSION = b"Host:127.0.0.1:9999", b"Sec-WebSocket-Version:13"


@pytest.mark.parametrize(
    ("more", "status", "name"),
    [([], 400, b"missing-host"), ([VERSION], 400, b"missing-host"), ([HOST], 426, b"websocket-version")],
    ids=["as-it-is", "no-host", "no-version"],
)
def test_request_of_the_simple_client_lacks_host_and_version(
    serve: Serve, more: list[bytes], status: int, name: bytes
) -> None:
    """RFC 9112 §3.2 and RFC 6455 §4.2.1: both are needed, and the answer says which one is not there."""
    with RawClient(serve(echo).port) as client:
        client.send(simple_request(*more))
        answer = client.read_answer()
        assert answer.status == status
        assert answer.body.startswith(name + b": ")


def test_request_of_the_simple_client_with_both_is_accepted(serve: Serve) -> None:
    """RFC 9112 §2.2 and RFC 6455 §4.1: no space behind the colons, a key of 16 random bytes, and a line 101.

    The document's client looks for "Status Code:101", which a browser shows and no server sends.
    """
    with RawClient(serve(echo).port) as client:
        client.send(simple_request(HOST, VERSION))
        answer = client.read_answer()
        assert answer.raw_head.startswith(b"HTTP/1.1 101 ")
        assert b"Status Code" not in answer.raw_head


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (b"GET ", b"POST ", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 400),
        (b"Connection: Upgrade", b"Connection: keep-alive", 400),
        (b"Connection: Upgrade\r\n", b"", 400),
        (b"Sec-WebSocket-Key: sN9cRrP/n9NdMgdcy2VJFQ==\r\n", b"", 400),
        (b"sN9cRrP/n9NdMgdcy2VJFQ==", b"", 400),
    ],
    ids=["method", "version", "connection", "no-connection", "no-key", "empty-key"],
)
def test_what_the_simple_server_checks_is_checked(serve: Serve, before: bytes, after: bytes, status: int) -> None:
    """RFC 6455 §4.2.1. The document's server means to answer 403 and sends nothing; ours says what is wrong."""
    app = Sees()
    assert status_of(serve(app).port, REQUEST.replace(before, after)) == status
    assert app.headers.empty


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Upgrade: websocket", b"Upgrade: WebSocket"),
        (b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
        (b"Connection: Upgrade", b"connection: upgrade"),
        (b"Origin: http://example.com\r\n", b""),
        (b"Host: example.com", b"Host: [::1]:9999"),
        (b"Sec-WebSocket-Key", b"sec-websocket-key"),
    ],
    ids=["upgrade-case", "connection-list", "connection-case", "no-origin", "colons-in-host", "field-case"],
)
def test_what_the_simple_server_checks_too_closely_is_accepted(serve: Serve, before: bytes, after: bytes) -> None:
    """RFC 6455 §4.2.1: tokens and field names without case, Connection a list (Firefox sends one), Origin optional."""
    assert status_of(serve(echo).port, REQUEST.replace(before, after)) == 101


def test_a_request_without_upgrade_is_an_http_request(serve: Serve) -> None:
    """RFC 9110 §7.8: the document's server refuses it; an ASGI server has an application for it."""
    assert status_of(serve(echo).port, REQUEST.replace(b"Upgrade: websocket\r\n", b"")) == 200


def test_an_application_that_refuses_answers_403(serve: Serve) -> None:
    """ASGI websocket.close before the accept: the 403 that the document's server means to send."""

    async def verify(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        allowed = b"origin" in dict(scope["headers"])
        await send({"type": "websocket.accept" if allowed else "websocket.close"})

    server = serve(verify)
    assert status_of(server.port, REQUEST) == 101
    assert status_of(server.port, REQUEST.replace(b"Origin: http://example.com\r\n", b"")) == 403


def test_an_application_that_is_done_after_the_handshake_closes_1000(serve: Serve) -> None:
    """RFC 6455 §7.1.2: the document's server drops the connection behind its answer, which a client reads as 1006."""

    async def shake_hands(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)

    with RawClient(serve(shake_hands).port) as client:
        client.open_websocket()
        assert client.read_close() == (1000, "")


# ---- HTTP beside it


def test_requests_share_a_connection_until_one_says_close(serve: Serve) -> None:
    """RFC 9112 §9.3: persistent connections, the document's long ones, are the default of HTTP/1.1."""
    with RawClient(serve(echo).port) as client:
        for number in range(3):
            client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n%d" % number)
            assert client.read_answer().body == b"%d" % number
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.read_answer().header(b"connection") == b"close"
        assert client.read_to_end() == b""


def test_a_long_poll_is_held_until_there_is_something_to_say(serve: Serve) -> None:
    """The document: the server holds the request and answers when there is news, which another client brings."""
    news: list[asyncio.Future[bytes]] = []
    held = Recorder()

    async def poll(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        body = b"told"
        if scope["method"] == "GET":
            news.append(asyncio.get_running_loop().create_future())
            held.put("held")
            body = await news[0]
        else:
            news[0].set_result((await receive())["body"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    server = serve(poll)
    with RawClient(server.port) as waiting, RawClient(server.port) as telling:
        waiting.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert held.next() == "held"
        telling.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nnews")
        assert telling.read_answer().body == b"told"
        assert waiting.read_answer().body == b"news"


# ---- the login dialogue


async def check_permit(socket: ServerConnection) -> None:
    """Half of the document's server: ask until the name and the password are right."""
    while True:
        parts = str(await socket.recv()).split(":")
        if (parts[0], parts[1]) == ("admin", "123456"):
            await socket.send("congratulation, you have connect with server\r\nnow, you can do something else")
            return
        await socket.send("sorry, the username or password is wrong, please submit again")


async def documents_server(socket: ServerConnection) -> None:
    """The document's server, over `websockets`: log in, then hear everything again."""
    await check_permit(socket)
    async for message in socket:
        await socket.send(f"your submit context: {message!s}")


async def documents_client(url: str, inputs: list[str]) -> list[str]:
    """The document's client, typing `inputs`: log in, talk, and close when the user says exit. Gives what it heard."""
    heard: list[str] = []

    async def submit(socket: ClientConnection, line: str) -> str:
        await socket.send(line)
        heard.append(str(await socket.recv()))
        return heard[-1]

    lines = iter(inputs)
    async with connect(url, proxy=None) as socket:
        while "congratulation" not in await submit(socket, next(lines)):
            pass
        for line in lines:
            if line == "exit":
                await socket.close(reason="user exit")
                heard.append(f"closed {socket.close_code}")
                break
            await submit(socket, line)
    return heard


DIALOGUE = ["admin:654321", "Admin:123456", ":", "admin:123456", "hello", "世界", "admin:123456", "x" * 70_000, "exit"]


def test_login_dialogue_is_the_same_with_the_documents_server_and_with_ours(serve: Serve) -> None:
    """The document's client hears the same refusals, welcome and echoes from both, word for word."""
    server = serve(Demo())

    async def with_both() -> tuple[list[str], list[str]]:
        async with serve_websockets(documents_server, "127.0.0.1", 0) as theirs:
            port = next(iter(theirs.sockets)).getsockname()[1]
            heard = await documents_client(f"ws://127.0.0.1:{port}/", DIALOGUE)
        return heard, await documents_client(f"{server.ws_url}/ws/login", DIALOGUE)

    theirs, ours = asyncio.run(with_both())
    assert ours == theirs
    assert [answer.split()[0] for answer in ours[:4]] == ["sorry,", "sorry,", "sorry,", "congratulation,"]
    assert ours[4:6] == ["your submit context: hello", "your submit context: 世界"]
    assert ours[-1] == "closed 1000"


def submit_all(url: str, *submitted: str | bytes) -> list[str]:
    """Submit one after the other, and give each answer, or the code of the Close."""

    async def run() -> list[str]:
        answers: list[str] = []
        async with connect(url, proxy=None) as socket:
            try:
                for message in submitted:
                    await socket.send(message)
                    answers.append(str(await socket.recv()))
            except ConnectionClosed as closed:
                answers.append(f"closed {closed.rcvd.code if closed.rcvd else None}")
        return answers

    return asyncio.run(run())


SORRY = "sorry, the username or password is wrong, please submit again"


@pytest.mark.parametrize("nonsense", ["", "admin", "no colon", b"\xff\xfe", b"admin"])
def test_credentials_without_a_colon_are_wrong_and_no_fault(serve: Serve, nonsense: str | bytes) -> None:
    """The document's server looks for the second half of them, fails, and closes 1011; ours asks again."""
    assert submit_all(f"{serve(Demo()).ws_url}/ws/login", nonsense, nonsense) == [SORRY, SORRY]


def test_credentials_with_something_behind_them_are_wrong(serve: Serve) -> None:
    """The document's server compares two of the parts and lets this one in."""
    assert submit_all(f"{serve(Demo()).ws_url}/ws/login", "admin:123456:or anything else") == [SORRY]


def test_nothing_is_echoed_before_the_login(serve: Serve) -> None:
    """The dialogue's rule: the password comes first, whatever is said."""
    answers = submit_all(f"{serve(Demo()).ws_url}/ws/login", "hello", "your submit context", "exit")
    assert answers == [SORRY] * 3


def test_guessing_is_bounded_by_max_message_rate(serve: Serve) -> None:
    """RFC 6455 §7.4.1, 1008: the document's server lets a client try as fast as it can."""
    server = serve(Demo(), max_message_rate=10)
    answers = submit_all(f"{server.ws_url}/ws/login", *(f"admin:{number:06}" for number in range(200)))

    assert answers[-1] == "closed 1008"
    assert answers[:-1] == [SORRY] * (len(answers) - 1)


def test_exit_closes_with_a_reason_that_the_application_reads(serve: Serve) -> None:
    """RFC 6455 §7.1.6: the client closes, code 1000 and "user exit", and hears its code again."""
    ends = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        async for message in messages(receive, ends):
            await say(send, "congratulation" if message == "admin:123456" else "sorry")

    heard = asyncio.run(documents_client(serve(app).ws_url, ["?", "admin:123456", "exit"]))
    assert heard == ["sorry", "congratulation", "closed 1000"]
    assert ends.next() == (1000, "user exit")


def test_two_logins_do_not_share_their_state(serve: Serve) -> None:
    """The document's server has its state on the stack of each connection; so has the demonstration."""
    url = f"{serve(Demo()).ws_url}/ws/login"

    async def run() -> list[str]:
        async with connect(url, proxy=None) as first, connect(url, proxy=None) as second:
            await first.send("admin:123456")
            await asyncio.wait_for(first.recv(), PATIENCE_S)
            await second.send("hello")
            await first.send("hello")
            return [str(await second.recv()), str(await first.recv())]

    assert asyncio.run(run()) == [SORRY, "your submit context: hello"]
