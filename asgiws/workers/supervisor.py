"""The supervisor: it owns the sockets, keeps a worker serving on each slot, and passes orders on. It serves nobody.

    SIGTERM, SIGINT     every worker drains and ends; a second one: at once
    SIGHUP              rolling restart: for one slot after the other, a new worker, and then the old one drains;
                        it begins anew when another SIGHUP comes; from a terminal that has gone: stop
    SIGTTIN, SIGTTOU    one worker more, one less
    SIGUSR1             every process opens its log files anew

The first worker starts alone, so that what keeps an application from starting is said once; its exit code is then that
of the server. Later on nothing of the kind ends the server: a worker that dies is started again, with a growing pause,
and a rolling restart whose new worker does not start leaves the others as they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Final

from asgiws.admin.authorization import Authorization
from asgiws.admin.server import serve_admin
from asgiws.config.option import OptionError, spelled
from asgiws.config.options import Config
from asgiws.runner.exit_codes import CANNOT_START, STARTUP_FAILED, fail
from asgiws.runner.loops import loop_factory, loop_name
from asgiws.runner.process import describe_process
from asgiws.runner.signals import Terminal
from asgiws.runner.systemd import Notifier
from asgiws.server.bulk_close import BulkClose
from asgiws.server.sockets.listeners import CannotListen, Listeners
from asgiws.server.tls.certificates import Certificates
from asgiws.telemetry.logging_setup import reopen
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.scoreboard import WORKER_STATES, Scoreboard, Status, Worker
from asgiws.workers.slot import Slot
from asgiws.workers.worker import HEARTBEAT_S
from asgiws.workers.worker_process import SERVING, Child

__all__ = ["Supervisor", "supervise"]

_TICK_S: Final = 1.0
# Options of the supervisor itself, which it takes once
_KEPT: Final = (
    "host", "port", "uds", "uds_mode", "uds_owner", "fd", "backlog", "workers", "admin", "log_level", "log_format",
    "use_colors", "log_file", "log_config",
)  # fmt: skip


def supervise(target: str, config: Config, load: Callable[[], Config] | None = None) -> int:
    """Serve the application that `target` names with `config.workers` workers; gives the exit code.

    `load` reads the options anew, for a rolling restart. What listens and how this process logs is not changed by it.
    """
    try:
        if config.ssl_certfile:
            Certificates(config)  # so that a fault in its files is told once, and not by each worker
        return asyncio.run(Supervisor(target, config, load).run())
    except CannotListen as error:
        return fail(CANNOT_START, str(error))


class Supervisor:
    """The slots, and what happens to all of them."""

    def __init__(self, target: str, config: Config, load: Callable[[], Config] | None = None) -> None:
        self.slots: list[Slot] = []
        self.scoreboard = Scoreboard()
        self._taken_away: set[Slot] = set()
        """Slots whose last worker drains."""
        self._target = target
        self._config = config
        self._begun_with = config
        self._access: Authorization | None = None
        """Of the admin address, while there is one."""
        self._load = load
        self._listeners = Listeners.open(config, reuse_port=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._notifier = Notifier(os.environ)
        self._terminal = Terminal()
        self._started = asyncio.Event()
        """Set when the workers have started for the first time."""
        self._told_to_stop = asyncio.Event()
        self._exit_code = 0
        self._restarts_wanted = 0
        self._tick_at_s = time.monotonic()

    async def run(self) -> int:
        """Serve until told to stop; gives the exit code."""
        loop = asyncio.get_running_loop()
        for number, handler in self._handlers().items():
            loop.add_signal_handler(number, handler)
        try:
            async with serve_admin(self._config, self) as self._access:
                await self._serve()
        finally:
            self._notifier.end()
            self._listeners.close()
        return self._exit_code

    async def _serve(self) -> None:
        starting = asyncio.create_task(self._start())
        telling = asyncio.create_task(self._told_to_stop.wait())
        try:
            await asyncio.wait((starting, telling), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.result():
                self._started.set()
                self._say_ready()
                self._tick()
                await telling
        finally:
            self._told_to_stop.set()
            await self._stop()
            starting.cancel()

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as URLs."""
        return self._listeners.urls()

    @property
    def ready(self) -> bool:
        """Whether every slot has a worker that serves, and nobody has told it to stop."""
        started = bool(self.slots) and all(slot.serves for slot in self.slots)
        return started and not self._told_to_stop.is_set()

    def status(self) -> Status:
        """Give the sum of what all workers have reported."""
        workers = [
            Worker(child, child.number, child.pid, WORKER_STATES[child.state], max(0.0, child.silent_s() - HEARTBEAT_S))
            for child in self._children()
        ]
        workers.sort(key=lambda worker: (worker.number, worker.pid))
        return self.scoreboard.status(workers, ready=self.ready, draining=self._told_to_stop.is_set())

    async def close_connection(self, pid: int, number: int, code: int, reason: str) -> bool:
        """Have a worker close a WebSocket; return whether it was open. Raises TimeoutError when it does not answer."""
        for child in self._children():
            if child.pid == pid:
                return bool(await child.ask({"do": "close", "number": number, "code": code, "reason": reason}))
        return False

    async def close_many(
        self, *, path: str, client: str, percent: int, over_s: float, code: int, reason: str, pid: int | None
    ) -> int:
        """Have one worker or all of them close many WebSockets; return how many.

        Raises ValueError for a value that is not allowed, TimeoutError when none of the workers answers.
        """
        which = dataclasses.asdict(BulkClose(path, client, percent, over_s, code, reason))
        asked = [child for child in self._children() if child.state == SERVING and pid in (None, child.pid)]
        orders = (child.ask({"do": "close_many", "which": which}) for child in asked)
        answers = await asyncio.gather(*orders, return_exceptions=True)
        counts = [answer for answer in answers if isinstance(answer, int)]
        for child, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                LOG.warning(
                    "worker %d (process %d) does not answer; its WebSockets may stay open", child.number, child.pid
                )
        if asked and not counts:
            raise TimeoutError
        return sum(counts)

    async def drain_worker(self, pid: int) -> bool:
        """Replace a worker: its successor starts, then it drains. Return whether such a worker serves."""
        for slot in self.slots:
            if slot.serving is not None and slot.serving.pid == pid and slot.serves:
                slot.serving.retire("drained by the operator")
                return True
        return False

    def _children(self) -> list[Child]:
        """Give all workers, also those that drain."""
        return [child for slot in (*self.slots, *self._taken_away) for child in slot.children()]

    # ---- start and stop

    async def _start(self) -> bool:
        """Start the first worker, and then the others; gives whether they serve."""
        for number in range(1, self._config.workers + 1):
            listeners = self._listeners if number == 1 else self._listeners.again()
            self.slots.append(Slot(number, listeners, self._target, self._config, self.scoreboard))
        first = self.slots[0]
        for slots in (self.slots[:1], self.slots[1:]):
            await asyncio.gather(*(slot.replace() for slot in slots))
            for slot in slots:
                said_why = CANNOT_START <= slot.last_code <= STARTUP_FAILED
                if slot.serving is None and (said_why or slot is first) and not self._told_to_stop.is_set():
                    self._exit_code = slot.last_code if said_why else CANNOT_START
                    return False
                self._run(slot.keep())
        return True

    async def _stop(self) -> None:
        """End every worker."""
        self._notifier.stopping()
        LOG.info("stopping %d workers", len(self._children()))
        ended_well = await asyncio.gather(*(slot.close() for slot in (*self.slots, *self._taken_away)))
        if not all(ended_well) and not self._exit_code:
            self._exit_code = CANNOT_START
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        LOG.info("stopped")

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say_ready(self) -> None:
        status = f"listening on {', '.join(self.addresses)} with {len(self.slots)} workers"
        LOG.info("%s (%s)", status, describe_process(loop_name(loop_factory(self._config.loop))))
        self._notifier.ready(status)
        self._notifier.keep_alive()

    # ---- time

    def _tick(self) -> None:
        """Look after the heartbeats, once a second."""
        asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        now = time.monotonic()
        if now - self._tick_at_s > 2 * _TICK_S:
            # This process was stopped itself, as by Ctrl-Z, and perhaps the workers with it.
            for child in self._children():
                child.excuse_silence()
        self._tick_at_s = now
        if self._config.worker_timeout:
            for slot in self.slots:
                slot.check_heartbeat(self._config.worker_timeout)

    # ---- orders

    def _handlers(self) -> dict[int, Callable[[], None]]:
        return {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGHUP: self._unless_stopping(self._on_hangup),
            signal.SIGUSR1: self._on_reopen,
            signal.SIGTTIN: self._unless_stopping(self._on_more),
            signal.SIGTTOU: self._unless_stopping(self._on_less),
        }

    def _unless_stopping(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Do nothing more of the kind once the server was told to stop: it would outlive the stop."""

        def handle() -> None:
            if not self._told_to_stop.is_set():
                handler()

        return handle

    def _on_stop(self) -> None:
        if self._told_to_stop.is_set():
            LOG.info("stopping at once")
            for child in self._children():
                child.force()
        self._told_to_stop.set()

    def _on_hangup(self) -> None:
        if self._terminal.has_gone():
            self._on_stop()
            return
        self._restarts_wanted += 1
        if self._restarts_wanted == 1:
            self._run(self._restart())
        if self._started.is_set():
            # What kept them from starting may have been repaired.
            for slot in self.slots:
                slot.abandon_start()

    def _on_reopen(self) -> None:
        reopen()
        for child in self._children():
            child.send({"do": "reopen"})

    def _on_more(self) -> None:
        try:
            listeners = self._listeners.again()
        except CannotListen as error:
            LOG.error("%s", error)
            return
        number = max(slot.number for slot in self.slots) + 1
        LOG.info("one worker more, %d now", len(self.slots) + 1)
        slot = Slot(number, listeners, self._target, self._config, self.scoreboard)
        self.slots.append(slot)
        self._run(slot.keep())

    def _on_less(self) -> None:
        if len(self.slots) == 1:
            LOG.warning("the last worker is not taken away; SIGTERM stops the server")
            return
        LOG.info("one worker less, %d now", len(self.slots) - 1)
        # One that serves nobody first, as one whose worker cannot start; else the last.
        slot = next((slot for slot in reversed(self.slots) if not slot.serves), self.slots[-1])
        self.slots.remove(slot)
        self._taken_away.add(slot)
        self._run(self._take_away(slot))

    async def _take_away(self, slot: Slot) -> None:
        await slot.close(replaced=True)
        self._taken_away.discard(slot)

    # ---- rolling restart

    async def _restart(self) -> None:
        """Replace the workers, and begin anew when that is asked for meanwhile."""
        await self._started.wait()
        while self._restarts_wanted:
            self._restarts_wanted = 1
            self._notifier.reloading()
            await self._replace_all()
            if self._told_to_stop.is_set():
                return
            self._restarts_wanted -= 1
            self._notifier.ready(f"{len(self.slots)} workers")

    async def _replace_all(self) -> None:
        """Replace the workers, one after the other, until one does not start, or another restart is wanted."""
        config = dataclasses.replace(self._read_config())  # an object of its own: who has it was started with it
        LOG.info("rolling restart of %d workers", len(self.slots))
        while slot := next((slot for slot in self.slots if slot.config is not config), None):
            if self._restarts_wanted > 1:
                LOG.info("rolling restart begins anew")
                return
            before, slot.config = slot.config, config
            if await slot.replace():
                continue
            if self._told_to_stop.is_set():
                return
            slot.config = before
            if slot in self.slots and not slot.abandoned:  # neither taken away meanwhile, nor to begin anew
                LOG.error("rolling restart given up; the workers that were not replaced go on")
                return
        self._config = config
        LOG.info("rolling restart done")

    def _read_config(self) -> Config:
        """Read the options anew; what they were when they cannot be read."""
        if self._load is None:
            return self._config
        try:
            config = self._load()
        except OptionError as error:
            LOG.error("options stay as they were: %s", error)
            return self._config
        self._take(config)
        return dataclasses.replace(config, admin=self._begun_with.admin)

    def _take(self, config: Config) -> None:
        """Take what this process itself can take of new options, and say what it cannot."""
        if self._access is not None and self._access.token != config.admin_token:
            self._access.token = config.admin_token  # at once: the one before may have become known
            LOG.info("admin address has another token, or none any more")
        kept = [name for name in _KEPT if getattr(config, name) != getattr(self._begun_with, name)]
        if _named(config.bind) != _named(self._begun_with.bind):
            kept.append("bind")
        if kept:
            names = ", ".join(map(spelled, kept))
            LOG.warning("%s: the supervisor stays as it was until the server is restarted", names)


def _named(bind: tuple[str, ...]) -> list[str]:
    """Leave out sockets that were inherited, of which options read anew do not know."""
    return [address for address in bind if not address.startswith("fd:")]
