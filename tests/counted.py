"""Counting what the server does in Python, as the budgets of the hot paths need it, where a clock would only add noise.

The server runs on a loop in the test's own thread, where a profile or trace function counts; the clients are blocking
sockets in another thread, which such a function does not see. The sweep, once a tick for all connections, is left out.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import asgiws
from asgiws import Config, Server
from asgiws.runner.loops import loop_factory
from asgiws.server.sweep import Sweep
from tests import PATIENCE_S
from tests.apps import echo
from tests.raw import text

PACKAGE = str(Path(asgiws.__file__).parent)
MESSAGE = "0123456789abcdefghijklmnopqrstuv"
FRAME = text(MESSAGE)
"""A short message as a client sends it."""
ECHO = bytes([0x81, len(MESSAGE)]) + MESSAGE.encode()
"""The same as it comes back."""

FORBIDDEN = {"pause_reading", "resume_reading", "call_later", "call_at", "add_reader", "remove_reader"}
"""Calls that cost a system call or a timer; none may be made for a message."""

InServer = Callable[[Callable[[], None]], None]
"""Calls a function in the server's thread and waits for it."""


def serve_while(loop_name: str, play: Callable[[int, InServer], None], **options: object) -> None:
    """Serve an echo in this thread while `play` runs in another, with the port and a way into this one.

    `play` may set a profile or trace function here; it is taken away in the end.
    """

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def in_server(function: Callable[[], None]) -> None:
            done = threading.Event()
            loop.call_soon_threadsafe(function)
            loop.call_soon_threadsafe(done.set)
            assert done.wait(PATIENCE_S)

        config = Config.from_options({"port": 0, "access_log": False, "graceful_timeout": 0.1, **options})
        async with Server(echo, config) as server:
            await loop.run_in_executor(None, play, server.port, in_server)

    before = sys.getprofile(), sys.gettrace()
    loop = loop_factory(loop_name)()
    try:
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        sys.setprofile(before[0])
        sys.settrace(before[1])
        loop.close()


class Count:
    """A profile and trace function that counts what happens in the thread it is set in, outside the sweep."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """Calls of Python functions of ours, and each turn in which a coroutine of ours goes on."""
        self.other_calls: Counter[str] = Counter()
        """The same of the event loop and the standard library, and of the application."""
        self.forbidden: Counter[str] = Counter()
        self.exceptions: Counter[str] = Counter()
        self._sweep: CodeType = Sweep.turn.__code__
        self._in_sweep = False

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code is self._sweep and event in ("call", "return"):
            self._in_sweep = event == "call"
        elif self._in_sweep:
            return
        elif event == "call":
            counts = self.calls if code.co_filename.startswith(PACKAGE) else self.other_calls
            counts[code.co_qualname] += 1
            if code.co_name in FORBIDDEN or Path(code.co_filename).parent.name == "logging":
                self.forbidden[code.co_qualname] += 1
        elif (
            event == "c_call"
            and code.co_filename.startswith(PACKAGE)
            and (argument.__name__ in FORBIDDEN or argument.__module__ == "time")
        ):
            self.forbidden[argument.__qualname__] += 1

    def trace(self, frame: FrameType, event: str, argument: Any) -> Callable[[FrameType, str, Any], Any] | None:
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code is self._sweep:
            return None
        frame.f_trace_lines = False
        # StopIteration is how a future tells an `await` that it is done; nobody raised it.
        if event == "exception" and not issubclass(argument[0], StopIteration):
            self.exceptions[f"{argument[0].__name__} in {frame.f_code.co_qualname}"] += 1
        return self.trace
