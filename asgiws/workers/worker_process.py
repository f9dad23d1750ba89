"""One worker process as its supervisor sees it, from the spawn to the end.

States:

    STARTING    the interpreter, the application's import and its lifespan startup
    SERVING     it said that it is ready
    STOPPING    it was told to stop, or is being ended
    ENDED       the process is gone; `code` is its exit code
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import asgiws._version
from asgiws.config.options import Config
from asgiws.runner.watchdog import FORCED_MOST_S, stop_most_s
from asgiws.telemetry.logs import LOG
from asgiws.workers.channel import Channel, Message

__all__ = ["ENDED", "SERVING", "STARTING", "STOPPING", "Child", "describe_exit"]

STARTING, SERVING, STOPPING, ENDED = range(4)

_ROOT: Final = str(Path(asgiws._version.__file__).parent.parent)
# For a worker that is aborted to write where it hung, and for one that was forced to end
_LAST_WORDS_S: Final = 2.0
# For a worker to answer an order, which it does at once unless its application blocks the loop
_ANSWER_S: Final = 5.0
# For the rest of what a worker said before it ended to be read; a process that it has forked may hold its end open.
_UNREAD_S: Final = 1.0


class Child:
    """A worker process. `on_change` is called when it is ready, due or ended."""

    def __init__(self, number: int, config: Config, on_change: Callable[[Child], None]) -> None:
        self.number = number
        """Of the slot that it serves in, from 1."""
        self.state = STARTING
        self.code = 0
        """The exit code once it has ended, negative for a signal, as `subprocess` has it."""
        self.due = ""
        """Why it asks for a successor; empty while it does not."""
        self.imported = False
        """Whether it has imported the application; before that it takes no orders and has nothing to end in order."""
        self.hung = False
        """Whether it was ended because it gave no heartbeat."""
        self.pid = 0
        self.on_report: Callable[[Message], None] = lambda report: None
        """Called with what each heartbeat says, where there are reports (--admin)."""
        self.ended = asyncio.Event()
        self._config = config
        self._on_change = on_change
        self._alive_at_s = time.monotonic()
        self._ready_at_s = 0.0
        self._ended_at_s = 0.0
        self._channel: Channel | None = None
        self._channel_ended = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        """Orders that were not answered yet, by their number."""
        self._kill_timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None]

    async def start(self, target: str, listeners: Sequence[socket.socket], *flags: str) -> None:
        """Start the process, on listening sockets that it inherits. Raises OSError when the system has no process.

        `flags` are for the interpreter.
        """
        ours, theirs = socket.socketpair()
        try:
            descriptors = [listener.fileno() for listener in listeners]
            # Its supervisor serves the admin address; a worker need not know the token.
            config = dataclasses.replace(
                self._config, bind=tuple(f"fd:{fd}" for fd in descriptors), uds="", fd=-1, admin="",
                admin_token="",
            )  # fmt: skip
            # -P: a module of the application must not stand in for one of the standard library.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", *flags, "-m", "asgiws.workers", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(), *descriptors), env=_environment(),
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = process.pid
        self._watching = asyncio.create_task(self._watch(process))
        self._channel = await Channel.connect(ours, self._on_message, self._channel_ended.set)
        # Not into the socket before there is a reader: large options would fill it, and block this process for ever.
        order = {"target": target, "config": dataclasses.asdict(config), "reports": bool(self._config.admin)}
        self.send(order)
        if self.state == STOPPING:
            self._signal(signal.SIGKILL)  # it was told to stop before it could be told

    @property
    def served_s(self) -> float:
        """How long it has served, until now or until its end."""
        return (self._ended_at_s or time.monotonic()) - self._ready_at_s if self._ready_at_s else 0.0

    def silent_s(self) -> float:
        """Give the seconds since its last sign of life; 0 while it is not expected to give any."""
        return time.monotonic() - self._alive_at_s if self.state == SERVING else 0.0

    def excuse_silence(self) -> None:
        """Count its silence from now on: the supervisor itself was not running."""
        self._alive_at_s = time.monotonic()

    def stop(self, *, replaced: bool, most_s: float = 0) -> None:
        """Tell it to drain and end; it is killed when it takes longer than it may, or than `most_s` seconds.

        One that still imports the application ends at once.
        """
        if self.state < STOPPING:
            self.state = STOPPING
            self.send({"do": "stop", "replaced": replaced})
            if not self.imported:
                # Should its lifespan begin in this very moment, SIGTERM does no harm, and it reads the order.
                self._signal(signal.SIGTERM)
            self._kill_after(most_s or stop_most_s(self._config) + _LAST_WORDS_S)

    def force(self) -> None:
        """Tell it to end at once."""
        if self.state < ENDED:
            self.state = STOPPING
            if not self.imported:
                self._signal(signal.SIGKILL)
            self.send({"do": "force"})
            self._kill_after(FORCED_MOST_S + _LAST_WORDS_S)

    def retire(self, why: str) -> None:
        """Ask for a successor to this worker, which drains when that serves."""
        self.due = why
        self._on_change(self)

    def abort(self) -> None:
        """End it because it hangs; it writes where."""
        if self.state < ENDED:
            self.state, self.hung = STOPPING, True
            self._signal(signal.SIGABRT)
            self._kill_after(_LAST_WORDS_S)

    def send(self, order: Message) -> None:
        """Send an order."""
        if self._channel is not None:
            self._channel.send(order)

    async def ask(self, order: Message) -> Any:
        """Send an order that the worker answers; return the answer. Raises TimeoutError when there is none."""
        number = max(self._asked, default=0) + 1
        self._asked[number] = asyncio.get_running_loop().create_future()
        self.send({**order, "ask": number})
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._asked[number]
        finally:
            del self._asked[number]

    def _kill_after(self, seconds: float) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = asyncio.get_running_loop().call_later(seconds, self._kill)

    def _kill(self) -> None:
        LOG.error("worker %d (process %d) did not end, it is killed", self.number, self.pid)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid and self.state < ENDED:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and we are told next
                os.kill(self.pid, number)

    def _on_message(self, message: Message) -> None:
        kind = message.pop("is")
        self._alive_at_s = time.monotonic()
        if kind == "alive":
            if message and not self.ended.is_set():
                self.on_report(message)
        elif kind == "answer":
            asked = self._asked.get(message["ask"])
            if asked is not None and not asked.done():
                asked.set_result(message["value"])
        elif kind == "imported":
            self.imported = True
        elif kind == "ready" and self.state == STARTING:
            self.state, self._ready_at_s = SERVING, self._alive_at_s
            self._on_change(self)
        elif kind == "due" and self.state in (STARTING, SERVING):
            self.retire(message["why"])

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        self.code = await process.wait()
        self.state, self._ended_at_s = ENDED, time.monotonic()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._channel is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNREAD_S):
                    await self._channel_ended.wait()
            self._channel.close()
        self.ended.set()
        self._on_change(self)


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _environment() -> dict[str, str]:
    """Give the environment of a worker: ours, and where this package was found if that was the current folder."""
    environ = dict(os.environ)
    if _ROOT not in sys.path[1:]:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (environ.get("PYTHONPATH"), _ROOT)))
    return environ
