"""Applications for server processes: each prints what happens to it, one line an event, for the test to read."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from asgiws.server.asgi import ASGIApp, Scope
from tests.apps import Receive, Send

NOT_CALLABLE = 3


def tell(*words: object) -> None:
    # In one piece, whatever other processes print
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def lifespan(receive: Receive, send: Send) -> None:
    """Start and stop, and tell."""
    await receive()
    tell("lifespan.startup")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    tell("lifespan.shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def read_body(receive: Receive) -> bytes | None:
    """Read a request body, and tell of each part; None when the client left."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            tell("http.disconnect")
            return None
        tell("http part", event["body"].decode())
        body, more = body + event["body"], event["more_body"]
    return body


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def open_websocket(receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


class Echo:
    """Echoes. After its disconnect, a WebSocket's application goes on until an HTTP request was answered."""

    def __init__(self) -> None:
        self._answered = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            body = await read_body(receive)
            if body is not None:
                await answer(send, body)
                tell("http answered", body.decode())
                if body:
                    self._answered.set()
        else:
            await open_websocket(receive, send)
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
            tell("websocket.disconnect", event["code"], event["reason"])
            await self._answered.wait()
            tell("websocket cleaned up")


echo = Echo()


def make_echo() -> ASGIApp:
    """The factory of an application."""
    tell("factory called")
    return Echo()


def make_nothing() -> None:
    """A factory that forgot its return."""


def make_failing() -> ASGIApp:
    raise LookupError("the factory's own fault")


async def facts(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers what the scope says."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await answer(send, json.dumps([scope["root_path"], scope["path"], scope["client"], scope["server"]]).encode())


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()


async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts and never receives again; ends when it is cancelled."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await open_websocket(receive, send)
    tell("deaf to", scope["type"])
    try:
        await _wait_for_ever()
    except asyncio.CancelledError:
        tell("cancelled", scope["type"])
        raise


async def immortal(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts, and swallows its cancellation again and again."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await open_websocket(receive, send)
    while True:
        try:
            await _wait_for_ever()
        except asyncio.CancelledError:
            tell("swallowed")


async def blocking(scope: Scope, receive: Receive, send: Send) -> None:
    """Blocks the event loop."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    tell("blocking")
    while True:
        time.sleep(3600)  # noqa: ASYNC251 - that is what it is for


async def blocks_for_a_while(scope: Scope, receive: Receive, send: Send) -> None:
    """Blocks the event loop for so long that a sweep comes more than two seconds late."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    time.sleep(3.5)  # noqa: ASYNC251 - that is what it is for
    await answer(send, b"")


async def limits(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many files may be open."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await answer(send, json.dumps(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode())


async def spinning(scope: Scope, receive: Receive, send: Send) -> None:
    """Blocks the event loop and the processor."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    tell("spinning")
    while True:
        pass


async def threaded(scope: Scope, receive: Receive, send: Send) -> None:
    """Has a thread, no daemon, that never ends, and prints what nobody flushes."""
    if scope["type"] == "lifespan":
        threading.Thread(target=_sleep_for_ever, name="counter").start()
        await lifespan(receive, send)
        print("not flushed", end="")  # noqa: T201 - the test reads it


def _sleep_for_ever() -> None:
    threading.Event().wait()


async def exit_handler_hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Has an exit handler that never ends."""
    if scope["type"] == "lifespan":
        atexit.register(_sleep_for_ever)
        await lifespan(receive, send)


async def daemon_executor(scope: Scope, receive: Receive, send: Send) -> None:
    """Has an executor that a daemon started: its threads are daemons, and the interpreter joins them all the same."""

    def work() -> None:
        executor = ThreadPoolExecutor(thread_name_prefix="kernel")
        executor.submit(_sleep_for_ever).result()

    if scope["type"] == "lifespan":
        threading.Thread(target=work, daemon=True).start()
        await lifespan(receive, send)


async def busy_executor(scope: Scope, receive: Receive, send: Send) -> None:
    """Has a job in the loop's executor that never ends."""
    if scope["type"] == "lifespan":
        asyncio.get_running_loop().run_in_executor(None, _sleep_for_ever)
        await lifespan(receive, send)


async def _numbers() -> AsyncIterator[int]:
    try:
        while True:
            yield 1
    finally:
        tell("generator closed")
        await _wait_for_ever()


async def generator_hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Leaves an asynchronous generator open that never ends when it is closed."""
    if scope["type"] == "lifespan":
        generators.append(_numbers())
        await anext(generators[0])
        await lifespan(receive, send)


generators: list[AsyncIterator[int]] = []


async def startup_hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Never completes its startup."""
    assert scope["type"] == "lifespan"
    await receive()
    tell("lifespan.startup")
    try:
        await _wait_for_ever()
    finally:
        tell("startup ended")


async def startup_immortal(scope: Scope, receive: Receive, send: Send) -> None:
    """Never completes its startup, and swallows its cancellation."""
    assert scope["type"] == "lifespan"
    await receive()
    tell("lifespan.startup")
    while True:
        try:
            await _wait_for_ever()
        except asyncio.CancelledError:
            tell("swallowed")


async def startup_fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Says that it cannot start."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database\nat all"})


async def shutdown_hangs(scope: Scope, receive: Receive, send: Send) -> None:
    """Never completes its shutdown."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    tell("lifespan.shutdown")
    try:
        await _wait_for_ever()
    finally:
        tell("shutdown ended")


async def shutdown_immortal(scope: Scope, receive: Receive, send: Send) -> None:
    """Never completes its shutdown, and swallows its cancellation."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    while True:
        try:
            await _wait_for_ever()
        except asyncio.CancelledError:
            tell("swallowed")


async def undecided(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the handshake, and only waits."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await receive()
    tell("undecided")
    tell(*(await receive()).values())


async def gated(scope: Scope, receive: Receive, send: Send) -> None:
    """Completes its startup once somebody has opened the FIFO that the variable GATE names, and closed it."""
    if scope["type"] == "lifespan":
        await receive()
        tell("lifespan.startup")
        with open(os.environ["GATE"]) as gate:  # noqa: ASYNC230 - there is nothing else to do yet
            gate.read()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


_SHOW = """
import json, os, sys
try:
    os.fstat(3)
    is_open = True
except OSError:
    is_open = False
print(json.dumps([sorted(os.environ), is_open]))
"""


def _ask_child() -> object:
    """Give the names of the variables that a program started here has, and whether its descriptor 3 is open."""
    command = [sys.executable, "-c", _SHOW]
    return json.loads(subprocess.run(command, close_fds=False, check=True, stdout=subprocess.PIPE).stdout)


async def child(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what a program that it starts sees."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await answer(send, json.dumps(_ask_child()).encode())


def make_child() -> ASGIApp:
    """A factory that starts a program, and whose application answers with what that saw."""
    seen = json.dumps(_ask_child()).encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            await answer(send, seen)

    return app


async def stream_events(scope: Scope, receive: Receive, send: Send) -> None:
    """Begins an event stream, and waits until its client leaves; says so."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    tell((await receive())["type"])


hoard: list[bytes] = []


async def hoarder(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes memory with each request, and keeps it: as many MiB as its body says."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = await read_body(receive)
    assert body is not None
    hoard.append(os.urandom(1024) * (int(body) * 1024))
    await answer(send, b"taken")


async def listens_only(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts WebSockets, and receives until they end."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await open_websocket(receive, send)
    while (await receive())["type"] == "websocket.receive":
        pass
