"""The demonstration as an ASGI 3.0 application: one page, and WebSocket routes that any client can use.

Plain ASGI and the standard library: it runs on any ASGI server. Read it from the bottom up. `Demo` finds the handler
of a path in a table; a handler takes `scope` (what is known of the connection), `receive` (await the next event) and
`send` (await that an event is sent), accepts, and reads messages until the client has left. To a client that has left
`send` raises an `OSError`: let it pass, the server expects it. Only the chat, where each client has a task that sends
to it, catches it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

__all__ = ["Demo", "app"]

CREDENTIALS: Final = b"admin:123456"
CHAT_SUBPROTOCOLS: Final = ("chat", "superchat")
NAME_LIMIT: Final = 32  # characters
TEXT_LIMIT: Final = 1_000
WAITING_LIMIT: Final = 1_000  # events; all queues hold the same texts, so they cost little
TOO_SLOW: Final = 1013  # try again later (IANA's registry of close codes)
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
    """One connected chat client, and the events that wait for it; `name` is None while it has not joined."""

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self.name: str | None = None
        self._send = send
        self._waiting: asyncio.Queue[str] = asyncio.Queue(WAITING_LIMIT)
        self._too_slow = False

    def tell(self, text: str) -> None:
        """Add an event for this client. Nobody waits for a client that is slow: one with too many is closed."""
        try:
            self._waiting.put_nowait(text)
        except asyncio.QueueFull:
            self._too_slow = True

    async def write(self) -> None:
        """Send what waits, until the client has left or was too slow."""
        try:
            while not self._too_slow:
                await send_message(self._send, await self._waiting.get())
            await self._send({"type": "websocket.close", "code": TOO_SLOW, "reason": "reads too slowly"})
        except (OSError, RuntimeError):  # the second is what some servers raise in place of the first
            pass  # the client has left; `chat` reads the same and takes it out


class ChatRoom:
    """Who is in the chat. Commands come in and events go out as JSON objects, one a message; README.md lists them."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.numbers = itertools.count(1)

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client from its handshake until it has left."""
        await accept(scope, receive, send, CHAT_SUBPROTOCOLS)
        member = Member(next(self.numbers), send)
        writing = asyncio.create_task(member.write())
        try:
            async for message in messages(receive):
                try:
                    self.obey(member, parse_command(message))
                except BadCommandError as error:
                    member.tell(json.dumps({"type": "error", "reason": str(error)}))
                await asyncio.sleep(0)  # a turn for the writers, before a client that sends fast says more
        finally:
            self.leave(member)
            writing.cancel()

    def obey(self, member: Member, command: dict[str, Any]) -> None:
        """Carry out one command of a member."""
        match command.get("type"), member.name:
            case "join", None:
                self.join(member, parse_field(command, "name", NAME_LIMIT))
            case "message", str():
                self.broadcast("message", member, text=parse_field(command, "text", TEXT_LIMIT))
            case "leave", str():
                self.leave(member)
            case "join" | "message" | "leave", _:
                raise BadCommandError("join first, and join once")
            case _:
                raise BadCommandError("type is none of join, message, leave")

    def join(self, member: Member, name: str) -> None:
        """Send the member its number, then everybody, the member included, that it is here."""
        if not name.isprintable():  # also refuses the invisible characters that reverse the text around them
            raise BadCommandError("name with unprintable characters")
        member.tell(json.dumps({"type": "welcome", "id": member.number}))
        member.name = name
        self.members[member.number] = member
        self.broadcast("join", member)

    def leave(self, member: Member) -> None:
        """Take the member out and send that to those who stay; nothing happens when it was not in."""
        if self.members.pop(member.number, None):
            self.broadcast("leave", member)
            member.name = None

    def broadcast(self, kind: str, author: Member, **more: str) -> None:
        """Send one event to all members, serialised once."""
        event = {"type": kind, "id": author.number, "name": author.name, "online": len(self.members), **more}
        text = json.dumps(event)
        for member in self.members.values():
            member.tell(text)


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


PAGE: Final = resources.files("asgiws.demo").joinpath("page.html").read_text(encoding="utf-8")


def inline_sources(element: str) -> str:
    """Return the hashes by which a Content-Security-Policy allows what the page holds in `element`."""
    contents = re.findall(f"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE_HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; script-src {inline_sources('script')}; "
    f"style-src {inline_sources('style')}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-cache",
}


async def serve_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request."""
    status, body, headers = 200, PAGE, PAGE_HEADERS
    if route_path(scope) != "/":
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
    """The application: a routing table, and the one chat room that its connections share."""

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
