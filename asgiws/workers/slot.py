"""A slot: the listening sockets of one worker, and the process that serves on them now.

The slot outlives its workers. A successor begins on the same sockets, and only when it is ready does the worker before
it stop: no connection is refused, and what waits in a socket's backlog is taken by whoever comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from asgiws.config.options import Config
from asgiws.server.sockets.listeners import CannotListen, Listeners
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.scoreboard import Scoreboard
from asgiws.workers.worker_process import ENDED, SERVING, STARTING, Child, describe_exit

__all__ = ["Slot"]

_BACK_OFF_LEAST_S: Final = 0.5
_BACK_OFF_MOST_S: Final = 30.0
# A worker that has served for less than this when it ends by itself counts as one that cannot start.
_SHORT_LIFE_S: Final = 5.0


class Slot:
    """Keeps a worker serving."""

    def __init__(self, number: int, listeners: Listeners, target: str, config: Config, scoreboard: Scoreboard) -> None:
        self.number = number
        self.target = target
        self.config = config
        """What the next worker is started with."""
        self.serving: Child | None = None
        self.starting: Child | None = None
        self.leaving: set[Child] = set()
        """Workers that drain."""
        self.last_code = 0
        """The exit code of the last worker that was started, if it has ended."""
        self.abandoned = False
        """Whether the last start was ended because somebody wants another one."""
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._one_at_a_time = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        self._back_off_s = 0.0
        self._proven: Child | None = None
        """The last worker that has served for long enough for the pauses to begin anew."""

    @property
    def serves(self) -> bool:
        """Whether it has a worker that serves."""
        return self.serving is not None and self.serving.state == SERVING

    # ---- what the supervisor asks for

    async def replace(self, reason: str = "reload", only: Child | None = None) -> bool:
        """Start a successor and let it take over; gives whether it did. `reason` is what the restart is counted as.

        With `only`, nothing is done when that worker has a successor already.
        """
        async with self._one_at_a_time:
            if only is not None and self.serving is not only:
                return True
            return not self._closed and await self._start(reason)

    async def keep(self) -> None:
        """Keep a worker serving until the slot is closed: replace the one that has died, or that has served enough."""
        while not self._closed:
            self._changed.clear()
            child = self.serving
            if child is not None and child is not self._proven and child.served_s >= _BACK_OFF_MOST_S:
                self._proven, self._back_off_s = child, 0.0
            if child is None or child.state == ENDED:
                if not await self._refill():
                    await self._back_off()
            elif child.due:
                LOG.info("worker %d (process %d): %s", self.number, child.pid, child.due)
                why, child.due = child.due, ""
                if not await self.replace("recycled", child) and not self._closed:
                    child.due = why  # it does not ask twice
                    if not self.abandoned:
                        LOG.error("worker %d has no successor that starts, so it goes on", self.number)
                        await self._back_off(child)
            else:
                await self._changed.wait()

    def check_heartbeat(self, timeout_s: float) -> None:
        """End a worker that hangs; `keep` replaces it."""
        child = self.serving
        if child is not None and child.silent_s() > timeout_s:
            LOG.error(
                "worker %d (process %d) gave no heartbeat for %g s, it is ended", self.number, child.pid, timeout_s
            )
            child.abort()

    def abandon_start(self) -> None:
        """End a worker that has not started yet: a restart begins anew."""
        if self.starting is not None:
            self.abandoned = True
            self.starting.force()

    def children(self) -> list[Child]:
        """Give all processes that have not ended."""
        known = {self.serving, self.starting, *self.leaving}
        return [child for child in known if child is not None and child.state < ENDED]

    async def close(self, *, replaced: bool = False) -> bool:
        """Stop the workers, and wait for them; gives whether they ended well."""
        self._closed = True
        self._changed.set()
        children = self.children()
        # How one that has not served yet ends is no matter: it is killed while it imports the application.
        judged = [child for child in children if child is not self.starting]
        for child in children:
            child.stop(replaced=replaced)
        self._listeners.close_own()
        for child in children:
            await child.ended.wait()
        return all(child.code == 0 for child in judged)

    # ---- inside

    async def _refill(self) -> bool:
        """Start a worker where there is none; gives False when that has to wait."""
        async with self._one_at_a_time:
            child = self.serving
            if child is not None:
                if child.state < ENDED:
                    return True  # a successor has come meanwhile
                LOG.error("worker %d (process %d) has died: %s", self.number, child.pid, describe_exit(child.code))
                self.serving = None
                self._scoreboard.restarts["hung" if child.hung else "died"] += 1
                if child.served_s < _SHORT_LIFE_S:
                    return False
            if not self._closed and (await self._start("") or self.abandoned):
                return True
            # Who connects goes to the other slots meanwhile, and does not wait for a worker that may never come.
            self._listeners.close_own()
            return False

    async def _start(self, reason: str) -> bool:
        """Start a worker, and let it take over when it serves; gives whether it does."""
        self.starting = child = Child(self.number, self.config, self._on_change)
        self.abandoned = False
        child.on_report = lambda report: self._scoreboard.update(child, report)
        try:
            self._listeners.open_own()
            await child.start(self.target, self._listeners.sockets)
        except (OSError, CannotListen) as error:
            LOG.error("worker %d cannot be started: %s", self.number, error)
            child.state = ENDED
            child.ended.set()
        await self._wait_started(child)
        self.starting = None
        if self._closed:
            return False
        self.last_code = child.code
        if child.state == SERVING:
            before, self.serving = self.serving, child
            LOG.info("worker %d is process %d", self.number, child.pid)
            if before is not None and before.state < ENDED:
                self._scoreboard.restarts[reason] += 1
                self.leaving.add(before)
                before.stop(replaced=True)
            return True
        if not self.abandoned and not child.hung:
            LOG.error("worker %d (process %d) did not start: %s", self.number, child.pid, describe_exit(child.code))
        return False

    async def _wait_started(self, child: Child) -> None:
        """Wait until a worker serves or has ended, which it does when it takes too long."""
        limit_s = self.config.worker_start_timeout
        try:
            async with asyncio.timeout(limit_s or None):
                await self._wait_settled(child)
        except TimeoutError:
            if child.state == STARTING:
                LOG.error(
                    "worker %d (process %d) did not start within %g s (--worker-start-timeout), it is ended",
                    self.number, child.pid, limit_s,
                )  # fmt: skip
                child.abort()
            await self._wait_settled(child)

    async def _wait_settled(self, child: Child) -> None:
        while child.state not in (SERVING, ENDED):
            self._changed.clear()
            await self._changed.wait()

    async def _back_off(self, serving: Child | None = None) -> None:
        """Wait before another attempt, longer each time.

        But no longer than a worker lives that still serves, or until somebody else has started one: a rolling restart
        does not wait.
        """
        if self._closed:
            return
        self._back_off_s = min(_BACK_OFF_MOST_S, max(_BACK_OFF_LEAST_S, 2 * self._back_off_s))
        LOG.info("worker %d is started again in %g s", self.number, self._back_off_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._back_off_s):
                while self.serving is serving and (serving is None or serving.state < ENDED) and not self._closed:
                    self._changed.clear()
                    await self._changed.wait()

    def _on_change(self, child: Child) -> None:
        if child.state == ENDED:
            if child in self.leaving:
                self.leaving.discard(child)
                LOG.info("worker %d (process %d) has left: %s", self.number, child.pid, describe_exit(child.code))
            self._scoreboard.end(child)
        self._changed.set()
