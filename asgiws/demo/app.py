"""The demonstration as an ASGI 3.0 application: one page, and WebSocket routes that any client can use.

Plain ASGI: it runs on any ASGI server. Only the chat uses a part of asgiws, `Topic`, which delivers a message to the
clients of all worker processes; on another server, to those of one.

Read it from the bottom up. `Demo` finds the handler of a path in a table; a handler takes `scope` (what is known of the
connection), `receive` (await the next event) and `send` (await that an event is sent), accepts, and reads messages
until the client has left. To a client that has left `send` raises an `OSError`: let it pass, the server expects it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from asgiws import Topic, TopicsUnavailable

__all__ = ["Demo", "app"]

CREDENTIALS: Final = b"admin:123456"
CHAT_SUBPROTOCOLS: Final = ("chat", "superchat")
NAME_LIMIT: Final = 32  # characters
TEXT_LIMIT: Final = 1_000
REPORT_INTERVAL_S: Final = 2.0
SINCE_LIMIT: Final = 100
HISTORY: Final = 100  # messages that who joins gets to see
COMMAND_LIMIT: Final = 16_384  # fits a text of the limit with each character escaped the long way: \ud83d\ude00
HEADERS_SHOWN: Final = ("host", "origin", "sec-websocket-extensions", "sec-websocket-protocol", "user-agent")

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


async def accept(scope: Scope, receive: Receive, send: Send, supported: tuple[str, ...] = ()) -> str | None:
    """Complete the handshake with the first offered subprotocol that is supported, and return that subprotocol."""
    await receive()  # websocket.connect, always the first event
    subprotocol = next((offered for offered in scope.get("subprotocols", ()) if offered in supported), None)
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    return subprotocol


async def messages(receive: Receive) -> AsyncIterator[str | bytes]:
    """Yield each message, a `str` when it was text and `bytes` when it was binary, until the client has left."""
    while (event := await receive())["type"] == "websocket.receive":
        yield event["bytes"] if event.get("text") is None else event["text"]


async def send_message(send: Send, message: str | bytes) -> None:
    """Send one message: text for a `str`, binary for `bytes`."""
    await send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each message back as it came."""
    await accept(scope, receive, send)
    async for message in messages(receive):
        await send_message(send, message)


async def clock(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the time every second, in ISO 8601 and UTC, until the client has left."""

    async def wait_until_left() -> None:
        async for _ in messages(receive):
            pass

    await accept(scope, receive, send)
    # Only receive() reports that the client has left, so one stays awaited while the seconds pass.
    left = asyncio.create_task(wait_until_left())
    try:
        while not left.done():
            await send_message(send, datetime.now(UTC).isoformat(timespec="milliseconds"))
            await asyncio.wait({left}, timeout=1)
    finally:
        left.cancel()


async def login(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse every message until one holds the credentials, from then on repeat what the client says."""
    await accept(scope, receive, send)  # no prompt: the client speaks first and gets one answer to each message
    logged_in = False
    async for message in messages(receive):
        text = message if isinstance(message, str) else message.decode(errors="replace")
        if logged_in and text == "exit":
            await send({"type": "websocket.close", "code": 1000, "reason": "user exit"})
            return
        if logged_in:
            answer = f"your submit context: {text}"
        elif hmac.compare_digest(text.encode(), CREDENTIALS):  # takes as long for a nearly right text as for any other
            logged_in = True
            answer = "congratulation, you have connect with server\r\nnow, you can do something else"
        else:
            answer = "sorry, the username or password is wrong, please submit again"
        await send_message(send, answer)


async def info(scope: Scope, receive: Receive, send: Send) -> None:
    """Send one JSON object with what this connection negotiated, then close."""
    subprotocol = await accept(scope, receive, send, CHAT_SUBPROTOCOLS)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    negotiated = {
        "subprotocol": subprotocol,
        "http_version": scope.get("http_version", "1.1"),
        "asgi": scope["asgi"],
        "asgi_extensions": sorted(scope.get("extensions") or ()),
        "client": scope.get("client"),
        "headers": {name: headers[name] for name in HEADERS_SHOWN if name in headers},
    }
    await send_message(send, json.dumps(negotiated))
    await send({"type": "websocket.close", "code": 1000, "reason": "that is all"})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a path that is not in the table: closed before it was accepted, the handshake is answered with 403."""
    await receive()
    await send({"type": "websocket.close"})


# ---- The chat -------------------------------------------------------------------------------------------------------


class BadCommandError(ValueError):
    """A chat client sent something that the chat does not understand or allow; the message says what."""


class Member:
    """One connected chat client: a WebSocket as `Topic` takes it, on any server; `name` is None while it is not in."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = secrets.randbits(48)  # unique in all processes
        self.name: str | None = None
        self.scope = scope
        self._send = send

    async def send_text(self, text: str) -> None:
        """Send one message."""
        await send_message(self._send, text)

    async def close(self, code: int) -> None:
        """Close the connection."""
        await self._send({"type": "websocket.close", "code": code})


class ChatRoom:
    """The part of the chat that this process serves; the topic connects it with the other processes.

    Commands come in and events go out as JSON objects, one a message; README.md lists them. Each event says which
    process it comes from and how many members that process serves, so a client can add them up.
    """

    def __init__(self) -> None:
        self.topic = Topic("chat")
        self.kept = Topic("chat", history=HISTORY)  # the same topic; what is published here is kept
        self.members: set[Member] = set()
        self.reporting: asyncio.Task[None] | None = None

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client from its handshake until it has left."""
        await accept(scope, receive, send, CHAT_SUBPROTOCOLS)
        member = Member(scope, send)
        try:
            async for message in messages(receive):
                try:
                    await self.obey(member, parse_command(message))
                except BadCommandError as error:
                    await member.send_text(json.dumps({"type": "error", "reason": str(error)}))
        finally:
            await self.leave(member)

    async def obey(self, member: Member, command: dict[str, Any]) -> None:
        """Carry out one command of a member."""
        match command.get("type"), member.name:
            case "join", None:
                await self.join(member, parse_field(command, "name", NAME_LIMIT), parse_since(command))
            case "message", str():
                await self.say(member, parse_field(command, "text", TEXT_LIMIT))
            case "leave", str():
                await self.leave(member)
            case "join" | "message" | "leave", _:
                raise BadCommandError("join first, and join once")
            case _:
                raise BadCommandError("type is none of join, message, leave")

    async def join(self, member: Member, name: str, since: str | None) -> None:
        """Send the member what was said after the position it has seen last, then its number, then that it is here.

        It is subscribed by then: what is said from now on follows without a hole, and nothing comes twice.
        """
        if not name.isprintable():  # also refuses the invisible characters that reverse the text around them
            raise BadCommandError("name with unprintable characters")
        subscription = await self.kept.subscribe(member, since=since)
        await member.send_text(json.dumps({"type": "welcome", "id": member.id, "process": os.getpid()}))
        if not subscription.recovered:
            await member.send_text(json.dumps({"type": "missed"}))
        member.name = name
        self.members.add(member)
        self.reporting = self.reporting or asyncio.create_task(self.report())
        await self.publish("join", member)

    async def leave(self, member: Member) -> None:
        """Take the member out and send that to those who stay; nothing happens when it was not in."""
        if member not in self.members:
            return
        self.members.remove(member)
        if self.reporting and not self.members:
            self.reporting.cancel()
            self.reporting = None
        await self.topic.unsubscribe(member)
        await self.publish("leave", member)
        member.name = None

    async def report(self) -> None:
        """Send how many members this process serves, every few seconds, to those who have joined elsewhere since."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            with contextlib.suppress(TopicsUnavailable):  # the next report replaces this one
                await self.publish("here")

    async def say(self, author: Member, text: str) -> None:
        """Send a message to all members in all processes, and keep it for those who join or come back."""
        event = {"type": "message", "id": author.id, "name": author.name, "text": text}
        await self.kept.publish(json.dumps({**event, "process": os.getpid(), "time": int(time.time())}))

    async def publish(self, kind: str, author: Member | None = None) -> None:
        """Send one event to all members in all processes. The server waits for nobody who reads slowly."""
        event = {"type": kind, "process": os.getpid(), "online": len(self.members)}
        if author:
            event |= {"id": author.id, "name": author.name}
        await self.topic.publish(json.dumps(event))


def parse_command(message: str | bytes) -> dict[str, Any]:
    """Return the JSON object in a chat client's message. Raises BadCommandError."""
    if len(message) > COMMAND_LIMIT:
        raise BadCommandError(f"command of {len(message)} characters, limit {COMMAND_LIMIT}")
    try:
        command = json.loads(message)
    except (ValueError, RecursionError):
        command = None
    if not isinstance(command, dict):
        raise BadCommandError("not a JSON object")
    return command


def parse_field(command: dict[str, Any], field: str, limit: int) -> str:
    """Return the text of a command's field without the space around it. Raises BadCommandError."""
    text = command.get(field)
    if not isinstance(text, str) or not text.strip():
        raise BadCommandError(f"{field} is empty")
    if len(text) > limit:
        raise BadCommandError(f"{field} of {len(text)} characters, limit {limit}")
    return text.strip()


def parse_since(command: dict[str, Any]) -> str | None:
    """Return the position that a client has seen last; None when it does not say. Raises BadCommandError."""
    since = command.get("since")
    if since is not None and (not isinstance(since, str) or len(since) > SINCE_LIMIT):
        raise BadCommandError(f"since is not a text of up to {SINCE_LIMIT} characters")
    return since


FILES: Final = resources.files("asgiws.demo")
PAGE: Final = FILES.joinpath("page.html").read_text(encoding="utf-8")
SCRIPT: Final = FILES.joinpath("reconnect.js").read_text(encoding="utf-8")


def inline_sources(element: str) -> str:
    """Return the hashes by which a Content-Security-Policy allows what the page holds in `element`."""
    contents = re.findall(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE_HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; script-src 'self' {inline_sources('script')}; "
    f"style-src {inline_sources('style')}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-cache",
}


PAGES: Final = {
    "/": (PAGE, PAGE_HEADERS),
    "/reconnect.js": (SCRIPT, {"content-type": "text/javascript; charset=utf-8", "cache-control": "no-cache"}),
}


async def serve_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request."""
    status, (body, headers) = 200, PAGES.get(route_path(scope), ("", {}))
    if not body:
        status, body, headers = 404, "not found\n", {}
    elif scope["method"] not in ("GET", "HEAD"):
        status, body, headers = 405, "method not allowed\n", {"allow": "GET, HEAD"}
    content = body.encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(content)), **headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


# ---- The application ------------------------------------------------------------------------------------------------


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Take part in the server's start and stop; a real application opens and closes its resources here."""
    for _ in ("startup", "shutdown"):
        event = await receive()
        await send({"type": f"{event['type']}.complete"})


def route_path(scope: Scope) -> str:
    """Return the path below the prefix under which the application is mounted."""
    path, prefix = str(scope["path"]), scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


class Demo:
    """The application: a routing table, and the chat room that its connections share."""

    def __init__(self) -> None:
        self.routes: dict[str, Handler] = {
            "/ws/chat": ChatRoom().chat,
            "/ws/clock": clock,
            "/ws/echo": echo,
            "/ws/info": info,
            "/ws/login": login,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket connection, one HTTP request or the server's lifespan."""
        match scope["type"]:
            case "websocket":
                await self.routes.get(route_path(scope), refuse)(scope, receive, send)
            case "http":
                await serve_page(scope, receive, send)
            case "lifespan":
                await lifespan(scope, receive, send)
            case other:
                raise ValueError(f"scope of type {other!r}, served are websocket, http and lifespan")


app: Final = Demo()
