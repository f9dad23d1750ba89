"""Keeping a worker serving: a worker that dies or hangs is replaced, and so is one that has served enough.

A slot has the listening sockets of one worker, and outlives its workers. A successor starts on the same sockets. Once
it serves, the worker before it stops accepting and drains: no connection is refused, and connections that wait in a
socket's backlog go to the successor.

Each worker of a slot is one of these:

    starting    has not reported that it is ready
    successor   serves beside `serving`, until it takes over
    serving     the slot's worker
    leaving     drains

`keep` replaces a worker that dies. `recycle` replaces one that has served enough, when the supervisor says so. A
rolling restart (`asgiws.workers.rolling_restart`) replaces all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from asgiws.config.options import Config
from asgiws.server.sockets.listeners import CannotListen, Listeners
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.scoreboard import Scoreboard
from asgiws.topics.relay import Relay
from asgiws.workers.worker_process import ENDED, SERVING, STARTING, WorkerProcess, describe_exit

__all__ = ["Slot"]

_BACK_OFF_LEAST_S: Final = 0.5
_BACK_OFF_MOST_S: Final = 30.0
# A worker that dies after less than this counts as one that cannot start.
_SHORT_LIFE_S: Final = 5.0
# For a worker to stop accepting; one that takes longer is blocked by its application.
_STOP_ACCEPTING_S: Final = 1.0


class Slot:
    """Keeps a worker serving."""

    def __init__(
        self,
        number: int,
        listeners: Listeners,
        target: str,
        config: Config,
        scoreboard: Scoreboard,
        relay: Relay,
        on_due: Callable[[], None],
    ) -> None:
        """`on_due` is called when the worker has served enough, and when it is time to try again."""
        self.number = number
        self.config = config
        """The options of the next worker."""
        self.serving: WorkerProcess | None = None
        self.starting: WorkerProcess | None = None
        self.successor: WorkerProcess | None = None
        self.leaving: set[WorkerProcess] = set()
        self.last_code = 0
        """The exit code of the worker that was started last, if it has ended."""
        self._target = target
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._relay = relay
        self._on_due = on_due
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        self._abandoned = False
        """Whether the last start was ended because of a newer order."""
        self._back_off_s = 0.0
        self._recycle_from_s = 0.0
        self._proven: WorkerProcess | None = None
        """The last worker that served for long enough to reset the pauses between starts."""

    @property
    def serves(self) -> bool:
        """Whether it has a worker that serves."""
        return self.serving is not None and self.serving.state == SERVING

    @property
    def deaf(self) -> bool:
        """Whether the broker of its worker is away."""
        return self.serving is not None and self.serving.deaf

    @property
    def due(self) -> bool:
        """Whether its worker wants a successor, and it is time to start one."""
        worker = self.serving
        if self._closed or self.successor is not None or time.monotonic() < self._recycle_from_s:
            return False
        return worker is not None and worker.state == SERVING and bool(worker.due)

    @property
    def due_since_s(self) -> float:
        """When its worker asked for a successor, on the monotonic clock."""
        return 0.0 if self.serving is None else self.serving.due_since_s

    def workers(self) -> list[WorkerProcess]:
        """Return all processes that have not exited."""
        known = {self.serving, self.starting, self.successor, *self.leaving}
        return [worker for worker in known if worker is not None and worker.state < ENDED]

    # ---- a worker at any time

    async def keep(self) -> None:
        """Replace each worker that dies, until the slot is closed."""
        while not self._closed:
            self._changed.clear()
            worker = self.serving
            if worker is not None and worker is not self._proven and worker.served_s >= _BACK_OFF_MOST_S:
                self._proven, self._back_off_s = worker, 0.0
            if worker is not None and worker.state < ENDED:
                await self._changed.wait()
            elif not await self._refill():
                await self._back_off()

    def check_heartbeat(self, timeout_s: float) -> None:
        """Abort a worker that hangs; `keep` replaces it."""
        for worker in (self.serving, self.successor):
            if worker is not None and worker.silent_s() > timeout_s:
                LOG.error(
                    "worker %d (process %d) sent no heartbeat for %g s (--worker-timeout), it is aborted",
                    self.number, worker.pid, timeout_s,
                )  # fmt: skip
                worker.abort()

    async def close(self, *, replaced: bool = False) -> bool:
        """Drain all workers and wait until they have exited; return whether all exited with 0."""
        self._closed = True
        self._changed.set()
        workers = self.workers()
        # How one that has not served yet ends does not matter: it is killed while it imports the application.
        judged = [worker for worker in workers if worker is not self.starting]
        for worker in workers:
            worker.drain(replaced=replaced)
        self._listeners.close_own()
        for worker in workers:
            await worker.ended.wait()
        return all(worker.code == 0 for worker in judged)

    # ---- a successor

    async def recycle(self) -> None:
        """Replace the worker that has served enough. If no successor starts, it continues and asks again."""
        async with self._one_at_a_time:
            worker = self.serving
            if worker is None or not self.due:
                return
            LOG.info("worker %d (process %d): %s", self.number, worker.pid, worker.due)
            if await self._start():
                await self.stop_accepting()
                self.take_over("recycled")
            elif worker.state == SERVING and not self._closed and not self._abandoned:
                LOG.error("worker %d has no successor that starts, so it goes on", self.number)
                pause_s = self._next_pause()
                self._recycle_from_s = time.monotonic() + pause_s
                asyncio.get_running_loop().call_later(pause_s, self._on_due)

    async def prepare(self, config: Config) -> bool:
        """Start a successor with these options, which serves beside the worker; return whether there is one."""
        async with self._one_at_a_time:
            if self._closed or self.is_prepared(config):
                return not self._closed
            before, self.config = self.config, config
            if await self._start():
                return True
            self.config = before
            return False

    def is_prepared(self, config: Config) -> bool:
        """Return whether the newest worker was started with these very options, and serves."""
        newest = self.successor or self.serving
        return newest is not None and newest.state == SERVING and newest.config is config

    async def stop_accepting(self) -> None:
        """Order the worker to leave new connections to its successor, and wait until it does."""
        worker = self.serving
        if self.successor is not None and worker is not None and worker.state == SERVING:
            worker.accepting = False
            with contextlib.suppress(TimeoutError):
                await worker.ask({"do": "stop_accepting"}, _STOP_ACCEPTING_S)

    def take_over(self, reason: str) -> WorkerProcess | None:
        """Replace the worker by its successor; return the worker that drains. The restart is counted under `reason`."""
        before = self.serving
        if self.successor is None:
            if before is not None and not before.accepting:
                before.retire("its successor has died")
            return None
        self.serving, self.successor = self.successor, None
        self._changed.set()
        if before is None or before.state == ENDED:
            return None
        self._scoreboard.restarts[reason] += 1
        self._let_go(before)
        return before

    def discard_successor(self) -> None:
        """Drain the successor: the worker before it continues."""
        if self.successor is not None and self.serving is not None:
            self._let_go(self.successor)
            self.successor, self.config = None, self.serving.config

    def abandon_start(self) -> None:
        """Kill a worker that has not started yet, because a newer order starts another one."""
        if self.starting is not None:
            self._abandoned = True
            self.starting.force()

    # ---- inside

    def _let_go(self, worker: WorkerProcess) -> None:
        self.leaving.add(worker)
        worker.drain(replaced=True)

    async def _refill(self) -> bool:
        """Start a worker where there is none; return False when that has to wait."""
        async with self._one_at_a_time:
            worker = self.serving
            if worker is not None:
                if worker.state < ENDED:
                    return True  # another one has started meanwhile
                self.serving, self.successor = self.successor, None
                if self.serving is not None:
                    return True
                if worker.served_s < _SHORT_LIFE_S:
                    return False
            if not self._closed and (await self._start() or self._abandoned):
                return True
            # New connections go to the other slots meanwhile, and do not wait for a worker that may never come.
            self._listeners.close_own()
            return False

    async def _start(self) -> bool:
        """Start a worker; return whether it serves: as the successor, or alone where there is no other."""
        self.starting = worker = WorkerProcess(self.number, self.config, self._on_change)
        self._abandoned = False
        worker.on_report = lambda report: self._scoreboard.update(worker, report)
        try:
            self._listeners.open_own()
            await worker.spawn(self._target, self._listeners.sockets, relay=None if self.config.broker else self._relay)
        except (OSError, CannotListen) as error:
            LOG.error("worker %d cannot be started: %s", self.number, error)
            worker.state = ENDED
            worker.ended.set()
        await self._wait_started(worker)
        self.starting = None
        if self._closed:
            return False
        self.last_code = worker.code
        if worker.state == SERVING:
            if self.serving is not None and self.serving.state < ENDED:
                self.successor = worker
            else:
                self.serving = worker
            LOG.info("worker %d is process %d", self.number, worker.pid)
            return True
        if not self._abandoned and not worker.hung:
            LOG.error("worker %d (process %d) did not start: %s", self.number, worker.pid, describe_exit(worker.code))
        return False

    async def _wait_started(self, worker: WorkerProcess) -> None:
        """Wait until a worker serves or has exited; abort it when it takes too long."""
        limit_s = self.config.worker_start_timeout
        try:
            async with asyncio.timeout(limit_s or None):
                await self._wait_settled(worker)
        except TimeoutError:
            if worker.state == STARTING:
                LOG.error(
                    "worker %d (process %d) did not start within %g s (--worker-start-timeout), it is aborted",
                    self.number, worker.pid, limit_s,
                )  # fmt: skip
                worker.abort()
            await self._wait_settled(worker)

    async def _wait_settled(self, worker: WorkerProcess) -> None:
        while worker.state not in (SERVING, ENDED):
            self._changed.clear()
            await self._changed.wait()

    async def _back_off(self) -> None:
        """Wait before another attempt, longer each time, but only until a rolling restart has started a worker."""
        if self._closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._next_pause()):
                while self.serving is None and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()

    def _next_pause(self) -> float:
        """Return the seconds before the next attempt, and log them."""
        self._back_off_s = min(_BACK_OFF_MOST_S, max(_BACK_OFF_LEAST_S, 2 * self._back_off_s))
        LOG.info("worker %d is started again in %g s", self.number, self._back_off_s)
        return self._back_off_s

    def _on_change(self, worker: WorkerProcess) -> None:
        if worker.state == ENDED:
            if worker in self.leaving:
                self.leaving.discard(worker)
                LOG.info("worker %d (process %d) has exited: %s", self.number, worker.pid, describe_exit(worker.code))
            elif worker in (self.serving, self.successor) and not self._closed:
                LOG.error("worker %d (process %d) has died: %s", self.number, worker.pid, describe_exit(worker.code))
                if worker is self.successor:
                    self.successor = None
                else:
                    self._scoreboard.restarts["hung" if worker.hung else "died"] += 1
            self._scoreboard.end(worker)
        elif worker.due:
            self._on_due()
        self._changed.set()
