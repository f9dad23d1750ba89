"""The demonstration as clients meet it: its HTTP answers, its WebSocket routes, and what it does as an application."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from asgiws.demo import app as shared_app
from asgiws.demo.app import COMMAND_LIMIT, NAME_LIMIT, TEXT_LIMIT, Demo, Event, Receive, Scope, Send
from tests.raw import RawClient, text

if TYPE_CHECKING:
    from tests.conftest import Serve

PATIENCE_S = 10
MORE_THAN_WAIT = 800
"""Messages of 12 kB: 100 kB that may wait for a member in the server, and 9 MB for the buffers of the kernel."""


@pytest.fixture
def http(serve: Serve) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve(Demo()).url, trust_env=False, timeout=PATIENCE_S) as client:
        yield client


def tell(client: ClientConnection, **command: Any) -> None:
    client.send(json.dumps(command))


def hear(client: ClientConnection) -> dict[str, Any]:
    """Return the next event that somebody caused; one that is kept also has its position, "at"."""
    while (event := json.loads(client.recv(PATIENCE_S))).get("type") == "here":
        pass
    assert isinstance(event, dict)
    return {**json.loads(event["data"]), "at": event["at"]} if "at" in event else event


def hear_of(client: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    """Return the next events, which have to be of these kinds."""
    events = [hear(client) for _ in kinds]
    assert [event["type"] for event in events] == list(kinds)
    return events


# ---- HTTP -----------------------------------------------------------------------------------------------------------


def test_page_is_html_in_utf_8(http: httpx.Client) -> None:
    response = http.get("/")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<!doctype html>")


def test_page_policy_allows_its_own_style_and_script_and_no_other(http: httpx.Client) -> None:
    response = http.get("/")

    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for directive, element, others in (("style-src", "style", ""), ("script-src", "script", "'self' ")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"{others}'sha256-{digest}'"


def test_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    links = re.findall(r"""\b(?:src|href)=["']([^"']+)|@import|url\(""", http.get("/").text)

    assert [link.split(":")[0] for link in links] == ["data", "reconnect.js"]  # the icon and the script
    script = http.get("/reconnect.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.text.startswith('"use strict";')


def test_head_has_the_headers_of_get_and_no_body(http: httpx.Client) -> None:
    head, get = http.head("/"), http.get("/")

    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "content-security-policy"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", ["/nothing", "/ws/echo", "/page.html"])
def test_another_path_is_404(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_another_method_is_405_and_says_what_is_allowed(http: httpx.Client, method: str) -> None:
    response = http.request(method, "/")

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


# ---- Echo, clock, info, login ---------------------------------------------------------------------------------------


def test_another_websocket_path_is_refused_with_403(serve: Serve) -> None:
    server = serve(Demo())

    with pytest.raises(InvalidStatus) as refused, connect(f"{server.ws_url}/ws/nothing"):
        pass

    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("message", ["", "hello", "grüße, 世界 \U0001f600", b"", b"\x00\xff", b"x" * 70_000])
def test_echo_sends_back_what_came(serve: Serve, message: str | bytes) -> None:
    with connect(f"{serve(shared_app).ws_url}/ws/echo") as client:
        client.send(message)

        assert client.recv(PATIENCE_S) == message


@pytest.mark.slow
def test_clock_sends_the_time_every_second(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/clock") as client:
        first, second = (datetime.fromisoformat(str(client.recv(PATIENCE_S))) for _ in range(2))

    assert first.utcoffset() == timedelta(0)
    assert timedelta(seconds=0.9) < second - first < timedelta(seconds=PATIENCE_S)


def test_clock_ends_when_the_client_leaves(serve: Serve) -> None:
    demo, ended = Demo(), threading.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        await demo(scope, receive, send)
        if scope["type"] == "websocket":
            ended.set()

    with connect(f"{serve(watched).ws_url}/ws/clock") as client:
        client.recv(PATIENCE_S)

    assert ended.wait(PATIENCE_S)


def test_info_tells_what_was_negotiated_and_closes(serve: Serve) -> None:
    server = serve(Demo())
    with connect(f"{server.ws_url}/ws/info", subprotocols=[Subprotocol("superchat")], origin=None) as client:
        negotiated = hear(client)
        with pytest.raises(ConnectionClosedOK) as closed:
            client.recv(PATIENCE_S)

    assert negotiated["subprotocol"] == "superchat"
    assert negotiated["http_version"] == "1.1"
    assert negotiated["asgi"]["version"] == "3.0"
    assert negotiated["headers"]["host"] == f"127.0.0.1:{server.port}"
    assert negotiated["headers"]["sec-websocket-extensions"].startswith("permessage-deflate")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


REFUSAL = "sorry, the username or password is wrong, please submit again"
WELCOME = "congratulation, you have connect with server\r\nnow, you can do something else"


def submit(client: ClientConnection, text: str) -> str:
    """Say one thing and give the answer to it, as a client of this dialogue does in turn."""
    client.send(text)
    return str(client.recv(PATIENCE_S))


def test_login_answers_each_submission_once_and_in_turn(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/login") as client:
        answers = [submit(client, text) for text in ("admin:wrong", "admin:123456", "first", "admin:123456")]

    assert answers == [REFUSAL, WELCOME, "your submit context: first", "your submit context: admin:123456"]


@pytest.mark.parametrize(
    "wrong", ["", "admin", "admin:", "admin:1234567", "Admin:123456", "ädmin:123456", " admin:123456", "exit"]
)
def test_login_refuses_everything_but_the_credentials(serve: Serve, wrong: str) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/login") as client:
        assert submit(client, wrong) == REFUSAL


def test_login_closes_after_exit(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/login") as client:
        submit(client, "admin:123456")
        client.send("exit")
        with pytest.raises(ConnectionClosedOK) as closed:
            client.recv(PATIENCE_S)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "user exit")


# ---- The chat -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (["chat"], "chat"),
        (["superchat", "chat"], "superchat"),
        (["other", "chat", "superchat"], "chat"),
        (["other"], None),
        ([], None),
    ],
)
def test_chat_accepts_the_first_offered_subprotocol_it_knows(
    serve: Serve, offered: list[str], accepted: str | None
) -> None:
    offers = [Subprotocol(name) for name in offered] or None
    with connect(f"{serve(Demo()).ws_url}/ws/chat", subprotocols=offers) as client:
        assert client.subprotocol == accepted


def test_chat_reaches_everybody_from_join_to_leave(serve: Serve) -> None:
    url = f"{serve(Demo()).ws_url}/ws/chat"
    with connect(url) as ada:
        tell(ada, type="join", name="Ada")
        welcome, joined = hear_of(ada, "welcome", "join")
        assert welcome == {"type": "welcome", "id": welcome["id"], "process": os.getpid()}
        assert joined == {"type": "join", "id": welcome["id"], "name": "Ada", "process": os.getpid(), "online": 1}

        with connect(url) as bob:
            tell(bob, type="join", name=" Bob ")
            hear_of(bob, "welcome", "join")
            (joined,) = hear_of(ada, "join")
            assert (joined["name"], joined["online"]) == ("Bob", 2)

            tell(ada, type="message", text="hello")
            (at_ada,), (at_bob,) = hear_of(ada, "message"), hear_of(bob, "message")
            assert at_ada == at_bob
            assert (at_bob["id"], at_bob["name"], at_bob["text"]) == (welcome["id"], "Ada", "hello")

        (left,) = hear_of(ada, "leave")
        assert (left["name"], left["online"]) == ("Bob", 1)


def test_chat_goes_on_when_a_peer_is_lost_without_a_close(serve: Serve) -> None:
    url = f"{serve(Demo()).ws_url}/ws/chat"
    with connect(url) as ada, connect(url) as bob:
        tell(ada, type="join", name="Ada")
        hear_of(ada, "welcome", "join")
        tell(bob, type="join", name="Bob")
        hear_of(bob, "welcome", "join")
        hear_of(ada, "join")

        bob.socket.shutdown(socket.SHUT_RDWR)

        (left,) = hear_of(ada, "leave")
        assert (left["name"], left["online"]) == ("Bob", 1)
        tell(ada, type="message", text="still here")
        hear_of(ada, "message")


def test_chat_waits_for_no_member_that_reads_nothing(serve: Serve) -> None:
    server = serve(Demo(), write_timeout=600, topic_backlog=100_000)
    with RawClient(server.port, receive_buffer=4096) as silent, connect(f"{server.ws_url}/ws/chat") as ada:
        silent.open_websocket("/ws/chat")
        silent.send(text(json.dumps({"type": "join", "name": "Silent"})))
        silent.read_text()  # its number; it reads nothing more
        tell(ada, type="join", name="Ada")
        hear_of(ada, "welcome", "join")
        for _ in range(MORE_THAN_WAIT):
            tell(ada, type="message", text="\U0001f600" * TEXT_LIMIT)
            if (event := hear(ada))["type"] == "leave":
                break
        assert (event["type"], event["name"], event["online"]) == ("leave", "Silent", 1)


@pytest.mark.slow
def test_chat_reports_who_is_there(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/chat") as ada:
        tell(ada, type="join", name="Ada")
        hear_of(ada, "welcome", "join")

        assert json.loads(ada.recv(PATIENCE_S)) == {"type": "here", "process": os.getpid(), "online": 1}


def test_chat_lets_a_member_leave_and_join_under_another_name(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/chat") as client:
        for name in ("Ada", "Lovelace"):
            tell(client, type="join", name=name)
            _, joined = hear_of(client, "welcome", "join")
            assert (joined["name"], joined["online"]) == (name, 1)
            tell(client, type="leave")


def test_who_joins_sees_what_was_said_and_who_comes_back_what_it_missed(serve: Serve) -> None:
    url = f"{serve(Demo()).ws_url}/ws/chat"
    with connect(url) as ada:
        tell(ada, type="join", name="Ada")
        hear_of(ada, "welcome", "join")
        for number in range(3):
            tell(ada, type="message", text=str(number))
        said = hear_of(ada, "message", "message", "message")
        for since, missed in (("", said), (said[0]["at"], said[1:]), (said[2]["at"], [])):
            with connect(url) as bob:
                tell(bob, type="join", name="Bob", since=since)
                assert hear_of(bob, *["message"] * len(missed)) == missed
                hear_of(bob, "welcome", "join")
            hear_of(ada, "join", "leave")
        with connect(url) as bob:
            tell(bob, type="join", name="Bob", since="another:7")
            assert hear_of(bob, "message", "message", "message") == said
            hear_of(bob, "welcome", "missed", "join")


def join_of(name: str) -> str:
    return json.dumps({"type": "join", "name": name})


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("hello", "not a JSON object"),
        ("[]", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        ("[" * COMMAND_LIMIT, "not a JSON object"),
        ("[" * (COMMAND_LIMIT + 1), f"command of {COMMAND_LIMIT + 1} characters, limit {COMMAND_LIMIT}"),
        ("{}", "type is none of join, message, leave"),
        ('{"type": []}', "type is none of join, message, leave"),
        ('{"type": "message", "text": "hello"}', "join first, and join once"),
        ('{"type": "leave"}', "join first, and join once"),
        ('{"type": "join"}', "name is empty"),
        ('{"type": "join", "name": 1}', "name is empty"),
        (join_of("  "), "name is empty"),
        (join_of("x" * (NAME_LIMIT + 1)), f"name of {NAME_LIMIT + 1} characters, limit {NAME_LIMIT}"),
        ('{"type": "join", "name": "Ada", "since": 7}', "since is not a text of up to 100 characters"),
        (join_of("a\nb"), "name with unprintable characters"),
        (join_of("a\u202eb"), "name with unprintable characters"),  # right-to-left override
        (join_of("a\ud800b"), "name with unprintable characters"),  # half of a surrogate pair
    ],
)
def test_chat_says_why_it_refuses(serve: Serve, command: str | bytes, reason: str) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/chat") as client:
        client.send(command)
        assert hear(client) == {"type": "error", "reason": reason}

        tell(client, type="join", name="x" * NAME_LIMIT)
        hear_of(client, "welcome", "join")


def test_chat_limits_the_text(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/chat") as client:
        tell(client, type="join", name="Ada")
        hear_of(client, "welcome", "join")

        tell(client, type="message", text="\U0001f600" * TEXT_LIMIT)
        tell(client, type="message", text="x" * (TEXT_LIMIT + 1))

        message, error = hear_of(client, "message", "error")
        assert message["text"] == "\U0001f600" * TEXT_LIMIT
        assert error["reason"] == f"text of {TEXT_LIMIT + 1} characters, limit {TEXT_LIMIT}"


def test_chat_refuses_a_second_join(serve: Serve) -> None:
    with connect(f"{serve(Demo()).ws_url}/ws/chat") as client:
        tell(client, type="join", name="Ada")
        tell(client, type="join", name="Eve")

        *_, error = hear_of(client, "welcome", "join", "error")
        assert error["reason"] == "join first, and join once"


# ---- The application ------------------------------------------------------------------------------------------------


def run(scope: Scope, *events: Event) -> list[Event]:
    """Return what the application sends when it receives these events."""
    inbox, sent = iter(events), list[Event]()

    async def receive() -> Event:
        return next(inbox)

    async def send(event: Event) -> None:
        sent.append(event)

    asyncio.run(Demo()(scope, receive, send))
    return sent


def test_lifespan_is_answered_from_startup_to_shutdown() -> None:
    sent = run({"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})

    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


def test_an_unknown_scope_type_raises() -> None:
    with pytest.raises(ValueError, match="scope of type 'carrier-pigeon'"):
        run({"type": "carrier-pigeon"})


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [("", "/", 200), ("/demo", "/demo/", 200), ("/demo", "/", 200), ("/demo", "/demonstration/", 404)],
)
def test_page_is_found_below_the_path_it_is_mounted_at(root_path: str, path: str, status: int) -> None:
    start, _ = run({"type": "http", "method": "GET", "path": path, "root_path": root_path})

    assert start["status"] == status
