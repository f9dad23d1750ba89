"""Applications for servers with workers: who answers, and what a worker can do wrong."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import asgiws
from asgiws.server.asgi import ASGIApp, Scope
from tests.apps import Receive, Send
from tests.runner.apps import answer, open_websocket, read_body, tell

kept: list[bytearray] = []


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of its process; echoes on a WebSocket, after a message that says the number."""
    if scope["type"] == "lifespan":
        await lifespan_of(receive, send)
        return
    pid = str(os.getpid())
    if scope["type"] == "http":
        if scope["path"] == "/leak":
            kept.append(bytearray(32 * 1024 * 1024))
        if await read_body(receive) is not None:
            await answer(send, pid.encode())
        return
    await open_websocket(receive, send)
    await send({"type": "websocket.send", "text": pid})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def lifespan_of(receive: Receive, send: Send) -> None:
    """Start and stop, and tell which process did."""
    await receive()
    tell("startup", os.getpid())
    await send({"type": "lifespan.startup.complete"})
    await receive()
    tell("shutdown", os.getpid())
    await send({"type": "lifespan.shutdown.complete"})


async def fragile(scope: Scope, receive: Receive, send: Send) -> None:
    """`whoami` that starts as the file that FRAGILE names tells it: it fails, or its process dies, or soon."""
    if scope["type"] == "lifespan":
        order = read_order()
        if order == "fail but for one" and not was_there(Path(os.environ["FRAGILE"] + ".one")):
            order = ""
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "die soon":
            asyncio.get_running_loop().call_later(0.2, os._exit, 1)
        elif order:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
    await whoami(scope, receive, send)


def was_there(folder: Path) -> bool:
    """Make a folder; whether it was there already, as for all processes but the first."""
    try:
        folder.mkdir()
    except FileExistsError:
        return True
    return False


def read_order() -> str:
    path = Path(os.environ["FRAGILE"])
    return path.read_text() if path.exists() else ""


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    """`whoami` whose process hangs, or dies, when it is asked to."""
    if scope["type"] == "http" and scope["path"] == "/hang":
        tell("hanging")
        hang_here()
    if scope["type"] == "http" and scope["path"] == "/crash":
        ctypes.string_at(0)
    await whoami(scope, receive, send)


def hang_here() -> None:
    """Block the event loop."""
    threading.Event().wait()


_SOCKETS = """
import json, os
names = []
for number in os.listdir("/proc/self/fd"):
    try:
        names.append(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
print(json.dumps([name for name in names if name.startswith("socket")]))
"""
_IGNORED = """
import json, signal
numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
print(json.dumps([number.name for number in numbers if signal.getsignal(number) == signal.SIG_IGN]))
"""


def make_sockets_of_a_program() -> ASGIApp:
    """A factory that starts a program, and whose application answers with the sockets that the program has."""
    return _answers_with(_SOCKETS)


def make_signals_of_a_program() -> ASGIApp:
    """A factory that starts a program, and whose application answers with the signals that the program ignores."""
    return _answers_with(_IGNORED)


def _answers_with(code: str) -> ASGIApp:
    seen = subprocess.run([sys.executable, "-c", code], close_fds=False, check=True, stdout=subprocess.PIPE).stdout

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan_of(receive, send)
        else:
            await answer(send, seen)

    return app


async def says_goodbye(scope: Scope, receive: Receive, send: Send) -> None:
    """`whoami` that closes a WebSocket itself when its drain begins."""
    if scope["type"] != "websocket":
        await whoami(scope, receive, send)
        return
    await open_websocket(receive, send)
    await send({"type": "websocket.send", "text": str(os.getpid())})
    if await asgiws.draining(scope):
        await send({"type": "websocket.close", "code": 4000, "reason": "moved"})
