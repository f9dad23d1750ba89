"""One worker process as its supervisor sees it, from the spawn to the exit.

States:

    STARTING    the interpreter starts, imports the application and runs its lifespan startup
    SERVING     it has reported that it is ready
    STOPPING    it drains, or it is being killed
    ENDED       the process has exited; `code` is its exit code
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
from asgiws.config.posix import POSIX
from asgiws.runner.watchdog import FORCED_MOST_S, stop_most_s
from asgiws.telemetry.logs import LOG
from asgiws.topics.relay import Relay
from asgiws.workers.channel import Channel, Message

__all__ = ["ENDED", "SERVING", "STARTING", "STOPPING", "WorkerProcess", "describe_exit"]

STARTING, SERVING, STOPPING, ENDED = range(4)

_ROOT: Final = str(Path(asgiws._version.__file__).parent.parent)
# For a worker that is aborted to print its stacks, and for one that is forced to exit
_LAST_WORDS_S: Final = 2.0
# For a worker to answer an order, which it does at once unless its application blocks the loop
_ANSWER_S: Final = 5.0
# For the rest of what a worker sent before it exited; a process that it forked may hold its end open.
_UNREAD_S: Final = 1.0
# Windows has none; any number ends the process there.
_SIGKILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)


class WorkerProcess:
    """A worker process. `on_change` is called when it is ready, wants a successor, or has exited."""

    def __init__(self, number: int, config: Config, on_change: Callable[[WorkerProcess], None]) -> None:
        self.number = number
        """Of the slot that it serves in, from 1."""
        self.config = config
        self.state = STARTING
        self.code = 0
        """The exit code once it has ended, negative for a signal, as in `subprocess`."""
        self.due = ""
        """Why it wants a successor; empty while it does not."""
        self.due_since_s = 0.0
        self.imported = False
        """Whether it has imported the application; before that it reads no orders and has nothing to shut down."""
        self.hung = False
        """Whether it was aborted because it sent no heartbeat."""
        self.deaf = False
        """Whether its broker is away, so that it should not get new clients."""
        self.accepting = True
        """Whether it may accept connections; False once it was ordered to leave them to its successor."""
        self.pid = 0
        self.on_report: Callable[[Message], None] = lambda report: None
        """Called with the report of each heartbeat, where there are reports (--admin)."""
        self.ended = asyncio.Event()
        self._on_change = on_change
        self._alive_at_s = time.monotonic()
        self._ready_at_s = 0.0
        self._ended_at_s = 0.0
        self._channel: Channel | None = None
        self._relay_link: asyncio.Transport | None = None
        self._channel_ended = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        """Orders that were not answered yet, by their number."""
        self._kill_timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[None]

    async def spawn(
        self, target: str, listeners: Sequence[socket.socket], *flags: str, relay: Relay | None = None
    ) -> None:
        """Start the process, which inherits the listening sockets; without any it binds the addresses of its options.

        Raises OSError when the system refuses a process. `flags` are for the interpreter. `relay` carries its topics;
        without one they stay within the process.
        """
        ours, theirs = socket.socketpair()
        relay_ours, relay_theirs = socket.socketpair() if relay is not None else (None, None)
        try:
            descriptors = [listener.fileno() for listener in listeners]
            pipes = [pipe for pipe in (theirs, relay_theirs) if pipe is not None]
            # Its supervisor serves the admin address; a worker need not know the token.
            config = dataclasses.replace(
                self.config, bind=tuple(f"fd:{fd}" for fd in descriptors) or self.config.bind, uds="", fd=-1,
                admin="", admin_token="",
            )  # fmt: skip
            # -P: a module of the application must not replace one of the standard library.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", *flags, "-m", "asgiws.workers", *(str(pipe.fileno()) for pipe in pipes),
                stdin=asyncio.subprocess.DEVNULL, env=_environment(), **_inheriting(pipes, descriptors),
            )  # fmt: skip
        except BaseException:
            ours.close()
            if relay_ours is not None:
                relay_ours.close()
            raise
        finally:
            theirs.close()
            if relay_theirs is not None:
                relay_theirs.close()
        self.pid = process.pid
        self._waiting = asyncio.create_task(self._wait_exit(process))
        self._channel = await Channel.connect(ours, self._on_message, self._channel_ended.set)
        if relay is not None and relay_ours is not None:
            self._relay_link = await relay.connect(relay_ours)
        # Not into the socket before there is a reader: large options would fill it and block this process forever.
        self.send({"target": target, "config": dataclasses.asdict(config), "reports": bool(self.config.admin)})
        if self.ended.is_set():
            self._close_ends()  # it exited meanwhile
        elif self.state == STOPPING:
            self._signal(_SIGKILL)  # it was ordered to stop before it had a channel

    @property
    def served_s(self) -> float:
        """How long it has served, until now or until its exit."""
        return (self._ended_at_s or time.monotonic()) - self._ready_at_s if self._ready_at_s else 0.0

    def silent_s(self) -> float:
        """Return the seconds since its last sign of life; 0 while none is expected."""
        return time.monotonic() - self._alive_at_s if self.state == SERVING else 0.0

    def excuse_silence(self) -> None:
        """Count its silence from now on: the supervisor itself was not running."""
        self._alive_at_s = time.monotonic()

    def drain(self, *, replaced: bool, most_s: float = 0) -> None:
        """Order it to drain and exit; kill it when that takes longer than its own deadline, or than `most_s` seconds.

        One that still imports the application exits at once.
        """
        if self.state < STOPPING:
            self.state = STOPPING
            self.send({"do": "stop", "replaced": replaced})
            if not self.imported:
                # Should its lifespan begin at this very moment, SIGTERM does no harm, and it reads the order.
                self._signal(signal.SIGTERM)
            if most_s:
                self._kill_after(most_s)
            else:
                self._abort_after(stop_most_s(self.config) + _LAST_WORDS_S / 2)

    def force(self) -> None:
        """Order it to exit at once."""
        if self.state < ENDED:
            self.state = STOPPING
            if not self.imported:
                self._signal(_SIGKILL)
            self.send({"do": "force"})
            self._abort_after(FORCED_MOST_S + _LAST_WORDS_S / 2)

    def abort(self) -> None:
        """Abort it because it hangs; it prints where."""
        if self.state < ENDED:
            self.state, self.hung = STOPPING, True
            self._signal(signal.SIGABRT)
            self._kill_after(_LAST_WORDS_S)

    def retire(self, why: str) -> None:
        """Ask for a successor to this worker, which drains when that serves."""
        self.due, self.due_since_s = why, time.monotonic()
        self._on_change(self)

    def send(self, order: Message) -> None:
        """Send an order."""
        if self._channel is not None:
            self._channel.send(order)

    async def ask(self, order: Message, most_s: float = _ANSWER_S) -> Any:
        """Send an order that the worker answers; return the answer. Raises TimeoutError when there is none."""
        number = max(self._asked, default=0) + 1
        self._asked[number] = asyncio.get_running_loop().create_future()
        self.send({**order, "ask": number})
        try:
            async with asyncio.timeout(most_s):
                return await self._asked[number]
        finally:
            del self._asked[number]

    def _abort_after(self, seconds: float) -> None:
        """Make it print its stacks before it is killed: it would have obeyed if its event loop were not blocked."""
        self._call_after(seconds, self._abort_late)

    def _kill_after(self, seconds: float) -> None:
        self._call_after(seconds, self._kill)

    def _call_after(self, seconds: float, function: Callable[[], None]) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = asyncio.get_running_loop().call_later(seconds, function)

    def _abort_late(self) -> None:
        LOG.error("worker %d (process %d) has not exited in time; aborting it", self.number, self.pid)
        self._signal(signal.SIGABRT)
        self._kill_after(_LAST_WORDS_S / 2)

    def _kill(self) -> None:
        LOG.error("worker %d (process %d) has not exited in time; killing it", self.number, self.pid)
        self._signal(_SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid and self.state < ENDED:
            with contextlib.suppress(OSError):  # it has exited, and `_wait_exit` returns next
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
        elif kind == "deaf":
            self.deaf = message["deaf"]
        elif kind == "ready" and self.state == STARTING:
            self.state, self._ready_at_s = SERVING, self._alive_at_s
            self._on_change(self)
        elif kind == "due" and self.state in (STARTING, SERVING):
            self.retire(message["why"])

    async def _wait_exit(self, process: asyncio.subprocess.Process) -> None:
        self.code = await process.wait()
        self.state, self._ended_at_s = ENDED, time.monotonic()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._channel is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNREAD_S):
                    await self._channel_ended.wait()
        self._close_ends()
        self.ended.set()
        self._on_change(self)

    def _close_ends(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._relay_link is not None:
            self._relay_link.abort()  # nobody reads what may still wait


def describe_exit(code: int) -> str:
    """Return how a process exited, as text."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _inheriting(pipes: Sequence[socket.socket], descriptors: Sequence[int]) -> dict[str, Any]:
    """Return the arguments with which a process inherits pipes and descriptors, and nothing else where possible."""
    if POSIX:
        return {"pass_fds": (*(pipe.fileno() for pipe in pipes), *descriptors)}
    for pipe in pipes:
        pipe.set_inheritable(True)
    return {"close_fds": False}


def _environment() -> dict[str, str]:
    """Return the environment of a worker: ours, and where this package was found if that was the current folder."""
    environ = dict(os.environ)
    if _ROOT not in sys.path[1:]:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (environ.get("PYTHONPATH"), _ROOT)))
    return environ
