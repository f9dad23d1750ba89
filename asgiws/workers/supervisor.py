"""The supervisor: it owns the listening sockets, keeps a worker serving on each slot, and serves no client itself.

    SIGTERM, SIGINT     all workers drain and exit; a second one: at once
    SIGHUP              rolling restart (`asgiws.workers.rolling_restart`), which a further SIGHUP starts over; stop,
                        when the terminal was closed
    SIGTTIN, SIGTTOU    add a worker, remove one
    SIGUSR1             all processes reopen their log files

The first worker starts alone, so that what keeps an application from starting is printed once; its exit code is then
that of the server. Later no such failure ends the server: a worker that dies is replaced, with a growing pause, and
a rolling restart whose new workers do not start leaves the old ones serving.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from asgiws.admin.authorization import Authorization
from asgiws.admin.server import serve_admin
from asgiws.config.option import OptionError, spelled
from asgiws.config.options import Config
from asgiws.protocol.printable import counted
from asgiws.runner.exit_codes import CANNOT_START, STARTUP_FAILED, fail
from asgiws.runner.loops import loop_name
from asgiws.runner.process import log_listening
from asgiws.runner.signals import Terminal
from asgiws.runner.systemd import Notifier
from asgiws.server.bulk_close import BulkClose
from asgiws.server.sockets.listeners import CannotListen, Listeners
from asgiws.server.tls.certificates import Certificates
from asgiws.telemetry.logging_setup import reopen
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.scoreboard import WORKER_STATES, Scoreboard, Status, Worker
from asgiws.topics.brokers.publish import publish_once
from asgiws.topics.message import check_data
from asgiws.topics.relay import Relay
from asgiws.workers.channel import Message
from asgiws.workers.respawn import Slot
from asgiws.workers.rolling_restart import prepare_successors, switch_over
from asgiws.workers.worker import HEARTBEAT_S
from asgiws.workers.worker_process import SERVING, WorkerProcess

__all__ = ["Supervisor", "supervise"]

_TICK_S: Final = 1.0
# Between two workers that are recycled, in addition to the time over which their WebSockets are closed (--drain-spread)
_RECYCLE_APART_S: Final = 2.0
# Options of the supervisor itself, which are read once
_KEPT: Final = (
    "host", "port", "uds", "uds_mode", "uds_owner", "fd", "backlog", "workers", "admin", "log_level", "log_format",
    "use_colors", "log_file", "log_config", "topic_history", "topic_queue",
)  # fmt: skip


def supervise(target: str, config: Config, load: Callable[[], Config] | None = None) -> int:
    """Serve the application that `target` names with `config.workers` workers; return the exit code.

    `load` reads the options again, for a rolling restart. The sockets and the log of this process stay as they are.
    """
    try:
        if config.ssl_certfile:
            Certificates(config)  # so that an error in its files is printed once, and not by each worker
        return asyncio.run(Supervisor(target, config, load).run())
    except CannotListen as error:
        return fail(CANNOT_START, str(error))


class Supervisor:
    """The slots, and what happens to all of them."""

    def __init__(self, target: str, config: Config, load: Callable[[], Config] | None = None) -> None:
        self.slots: list[Slot] = []
        self.scoreboard = Scoreboard()
        self.relay = Relay(config.topic_queue, config.topic_history)
        """Carries what is published to topics."""
        self._removed: set[Slot] = set()
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
        self._recycling = False
        self._recycled: Slot | None = None
        """The slot whose worker was recycled last; others wait until `_recycle_from_s`."""
        self._recycle_from_s = 0.0
        self._tick_at_s = time.monotonic()

    async def run(self) -> int:
        """Serve until ordered to stop; return the exit code."""
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
        starting = asyncio.create_task(self._start_workers())
        stopping = asyncio.create_task(self._told_to_stop.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.result():
                self._started.set()
                self._say_ready()
                self._tick()
                await stopping
        finally:
            self._told_to_stop.set()
            await self._end_workers()
            starting.cancel()

    def workers(self) -> list[WorkerProcess]:
        """Return all workers, also those that drain."""
        return [worker for slot in (*self.slots, *self._removed) for worker in slot.workers()]

    # ---- what the admin address asks for

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as URLs."""
        return self._listeners.urls()

    @property
    def ready(self) -> bool:
        """Whether each slot has a worker that serves and receives what is published; not all refuse, none stops."""
        started = bool(self.slots) and all(slot.serves and not slot.deaf for slot in self.slots)
        return started and not self._told_to_stop.is_set() and not self.scoreboard.overloaded

    def status(self) -> Status:
        """Return the sum of what all workers have reported."""
        rows = [
            Worker(each, each.number, each.pid, WORKER_STATES[each.state], max(0.0, each.silent_s() - HEARTBEAT_S))
            for each in self.workers()
        ]
        rows.sort(key=lambda row: (row.number, row.pid))
        status = self.scoreboard.status(rows, ready=self.ready, draining=self._told_to_stop.is_set())
        status["levels"]["topic_history_bytes"] = {"": self.relay.history.size_bytes}
        return status

    async def close_connection(self, pid: int, number: int, code: int, reason: str) -> bool:
        """Order a worker to close a WebSocket; return whether it was open. Raises TimeoutError without an answer."""
        for worker in self.workers():
            if worker.pid == pid:
                return bool(await worker.ask({"do": "close", "number": number, "code": code, "reason": reason}))
        return False

    async def close_many(
        self, *, path: str, client: str, percent: int, over_s: float, code: int, reason: str, pid: int | None
    ) -> int:
        """Order one worker or all of them to close many WebSockets; return how many.

        Raises ValueError for a value that is not allowed, TimeoutError when none of the workers answers.
        """
        which = dataclasses.asdict(BulkClose(path, client, percent, over_s, code, reason))
        return sum(await self._ask_serving({"do": "close_many", "which": which}, pid))

    async def find_connections(self, *, path: str, client: str) -> list[dict[str, Any]]:
        """Return rows of open WebSockets of a path and client. Raises ValueError, and TimeoutError as above."""
        which = dataclasses.asdict(BulkClose(path, client))
        return [row for rows in await self._ask_serving({"do": "find", "which": which}) for row in rows]

    async def _ask_serving(self, order: Message, pid: int | None = None) -> list[Any]:
        """Send an order to one worker or to all that serve; return the answers. Raises TimeoutError if none answers."""
        asked = [worker for worker in self.workers() if worker.state == SERVING and pid in (None, worker.pid)]
        answers = await asyncio.gather(*(worker.ask(order) for worker in asked), return_exceptions=True)
        for worker, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                LOG.warning("worker %d (process %d) does not answer the operator", worker.number, worker.pid)
        answered = [answer for answer in answers if not isinstance(answer, BaseException)]
        if asked and not answered:
            raise TimeoutError
        return answered

    async def drain_worker(self, pid: int) -> bool:
        """Replace a worker: its successor starts, then it drains. Return whether such a worker serves."""
        for slot in self.slots:
            if slot.serving is not None and slot.serving.pid == pid and slot.serves:
                slot.serving.retire("drained by the operator")
                return True
        return False

    async def publish(self, topic: str, data: str | bytes) -> None:
        """Publish to a topic, through the broker or the relay.

        Raises ValueError for more than --max-publish-size bytes, and TopicsUnavailable.
        """
        if self._config.broker:
            await publish_once(self._config, topic, data)
        else:
            check_data(data, self._config.max_publish_size)
            payload = data.encode() if isinstance(data, str) else data
            self.relay.publish(self._config.topic_prefix + topic, payload, is_text=isinstance(data, str))
        self.scoreboard.count_published()

    # ---- the first start and the end

    async def _start_workers(self) -> bool:
        """Start the first worker, and then the others; return whether they serve."""
        for number in range(1, self._config.workers + 1):
            self._add_slot(number, self._listeners if number == 1 else self._listeners.again())
        first = self.slots[0]
        for slots in (self.slots[:1], self.slots[1:]):
            await asyncio.gather(*(slot.prepare(self._config) for slot in slots))
            for slot in slots:
                said_why = CANNOT_START <= slot.last_code <= STARTUP_FAILED
                if slot.serving is None and (said_why or slot is first) and not self._told_to_stop.is_set():
                    self._exit_code = slot.last_code if said_why else CANNOT_START
                    return False
                self._run(slot.keep())
        return True

    def _add_slot(self, number: int, listeners: Listeners) -> Slot:
        slot = Slot(number, listeners, self._target, self._config, self.scoreboard, self.relay, self._recycle_next)
        self.slots.append(slot)
        return slot

    async def _end_workers(self) -> None:
        """Drain every worker, and wait until all have exited."""
        self._notifier.stopping()
        LOG.info("stopping %s", counted(len(self.workers()), "worker"))
        ended_well = await asyncio.gather(*(slot.close() for slot in (*self.slots, *self._removed)))
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
        status = f"listening on {', '.join(self.addresses)} with {counted(len(self.slots), 'worker')}"
        log_listening(status, loop_name(self._config.loop))
        self._notifier.ready(status)
        self._notifier.keep_alive()

    # ---- heartbeats and recycling

    def _tick(self) -> None:
        """Check the heartbeats, once a second."""
        asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        now = time.monotonic()
        if now - self._tick_at_s > 2 * _TICK_S:
            # This process was stopped itself, as by Ctrl-Z, and perhaps the workers with it.
            for worker in self.workers():
                worker.excuse_silence()
        self._tick_at_s = now
        self.relay.history.expire()
        if self._config.worker_timeout:
            for slot in self.slots:
                slot.check_heartbeat(self._config.worker_timeout)

    def _recycle_next(self) -> None:
        """Replace a worker that has served enough, one at a time and with a pause between two slots."""
        if self._recycling or self._restarts_wanted or self._told_to_stop.is_set():
            return  # called again later; or all workers are replaced, or end
        # The one that waits longest: else a short --worker-lifetime would be that of the first slot only.
        slot = min((slot for slot in self.slots if slot.due), key=lambda slot: slot.due_since_s, default=None)
        if slot is not None and (slot is self._recycled or time.monotonic() >= self._recycle_from_s):
            self._recycling, self._recycled = True, slot
            self._run(self._recycle(slot))

    async def _recycle(self, slot: Slot) -> None:
        await slot.recycle()
        self._recycling = False
        pause_s = _RECYCLE_APART_S + self._config.drain_spread + self._config.drain_notice
        self._recycle_from_s = time.monotonic() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self._recycle_next)
        self._recycle_next()

    # ---- signals

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
        """Ignore a signal once a stop was ordered: what it starts would outlive the stop."""

        def handle() -> None:
            if not self._told_to_stop.is_set():
                handler()

        return handle

    def _on_stop(self) -> None:
        if self._told_to_stop.is_set():
            LOG.info("stopping at once")
            for worker in self.workers():
                worker.force()
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
        for worker in self.workers():
            worker.send({"do": "reopen"})

    def _on_more(self) -> None:
        try:
            listeners = self._listeners.again()
        except CannotListen as error:
            LOG.error("%s", error)
            return
        slot = self._add_slot(max(slot.number for slot in self.slots) + 1, listeners)
        LOG.info("one worker more, %d now", len(self.slots))
        self._run(slot.keep())

    def _on_less(self) -> None:
        if len(self.slots) == 1:
            LOG.warning("the last worker is not removed; SIGTERM stops the server")
            return
        LOG.info("one worker less, %d now", len(self.slots) - 1)
        # A slot without a worker first, such as one whose worker cannot start; else the last.
        slot = next((slot for slot in reversed(self.slots) if not slot.serves), self.slots[-1])
        self.slots.remove(slot)
        self._removed.add(slot)
        self._run(self._remove(slot))

    async def _remove(self, slot: Slot) -> None:
        await slot.close(replaced=True)
        self._removed.discard(slot)

    # ---- rolling restart

    async def _restart(self) -> None:
        """Replace the workers, and start over when that is asked for meanwhile."""
        await self._started.wait()
        while self._restarts_wanted:
            self._restarts_wanted = 1
            self._notifier.reloading()
            await self._replace_all()
            if self._told_to_stop.is_set():
                return
            self._restarts_wanted -= 1
            self._notifier.ready(counted(len(self.slots), "worker"))
        self._recycle_next()

    async def _replace_all(self) -> None:
        """Replace all workers, or none when another order comes or a new one does not start."""
        # An object of its own: the workers that have it were started with it.
        before, self._config = self._config, dataclasses.replace(self._read_config())
        LOG.info("rolling restart of %s", counted(len(self.slots), "worker"))
        if await prepare_successors(self.slots, self._config, self._is_interrupted):
            draining = await switch_over(self.slots)
            serving = counted(len(self.slots), "new worker")
            LOG.info("rolling restart: %s serving, %d old draining", serving, len(draining))
            self._run(_say_done(draining))
            return
        self._config = before
        if self._restarts_wanted > 1 and not self._told_to_stop.is_set():
            LOG.info("rolling restart starts over")

    def _is_interrupted(self) -> bool:
        return self._restarts_wanted > 1 or self._told_to_stop.is_set()

    def _read_config(self) -> Config:
        """Read the options again; return the last ones when they cannot be read."""
        if self._load is None:
            return self._config
        try:
            config = self._load()
        except OptionError as error:
            LOG.error("options stay as they were: %s", error)
            return self._config
        self._adopt(config)
        return dataclasses.replace(config, admin=self._begun_with.admin)

    def _adopt(self, config: Config) -> None:
        """Adopt new options as far as this process can, and log those that it cannot."""
        if self._access is not None and self._access.token != config.admin_token:
            self._access.token = config.admin_token  # at once: the old one may have become known
            LOG.info("admin address has another token, or none any more")
        kept = [name for name in _KEPT if getattr(config, name) != getattr(self._begun_with, name)]
        if _named(config.bind) != _named(self._begun_with.bind):
            kept.append("bind")
        if kept:
            names = ", ".join(map(spelled, kept))
            LOG.warning("%s: the supervisor keeps the old value until the server is restarted", names)


async def _say_done(draining: list[WorkerProcess]) -> None:
    """Log the end of a rolling restart, when its old workers have exited."""
    for worker in draining:
        await worker.ended.wait()
    LOG.info("rolling restart done")


def _named(bind: tuple[str, ...]) -> list[str]:
    """Return the addresses without inherited sockets, which options that are read again do not contain."""
    return [address for address in bind if not address.startswith("fd:")]
