"""Serving until told to stop: the event loop, who may tell, and an end that comes whatever the application does.

A `Run` is a server while it serves, and takes the orders. Who gives them is a `Control`: the signals of a process of
its own (`Signals`, here), or the supervisor of a worker (`asgiws.workers.worker`).

    SIGTERM, SIGINT     stop gracefully; a second one at once
    SIGHUP              read certificates anew; from a terminal that has gone: stop
    SIGUSR1             open log files anew
    SIGTTIN, SIGTTOU    nothing: there is one process, and their default action would freeze it

Handlers only set things: the loop does the work. Should the application block the loop itself, a daemon thread ends the
process after the time that a graceful stop may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from types import FrameType, TracebackType
from typing import Final, Protocol, Self

from asgiws.admin.server import serve_admin
from asgiws.admin.source import OneServer
from asgiws.config.options import Config
from asgiws.runner.systemd import Notifier
from asgiws.server.asgi import ASGIApp
from asgiws.server.server import Server
from asgiws.telemetry.logging_setup import reopen
from asgiws.telemetry.logs import LOG

__all__ = ["Control", "Run", "Signals", "Terminal", "loop_factory", "run_app", "serve_app", "stop_most_s"]

# Beside the timeouts of a stop: for cancelled applications and the lifespan shutdown to end, and for turns of the loop.
_EXTRA_S: Final = 4.0
_FORCED_S: Final = 2.0
_SAYING_S: Final = 0.5

# mallopt(3), <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_MOST_BYTES = 16 * 1024 * 1024
_KEPT_BLOCK_BYTES = 4 * 1024 * 1024


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Give what makes the event loop `name`. Raises ModuleNotFoundError when that is uvloop and it is absent."""
    if name != "asyncio":
        try:
            import uvloop  # optional: not everybody has it
        except ModuleNotFoundError:
            if name == "uvloop":
                raise
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def stop_most_s(config: Config) -> float:
    """Give the seconds after which a stop must have ended."""
    return config.drain_delay + config.graceful_timeout + _EXTRA_S


class Run:
    """A server while it serves, and what it can be told, from the loop's thread or from a signal handler."""

    def __init__(self, server: Server, last_resort: LastResort) -> None:
        self.server = server
        self.replaced = False
        """Whether another process goes on in this one's place."""
        self.told_to_stop = asyncio.Event()
        self._last_resort = last_resort
        self._loop = asyncio.get_running_loop()

    def stop(self, *, replaced: bool = False) -> None:
        """Stop gracefully."""
        self.replaced = replaced
        self._last_resort.end_process_after(stop_most_s(self.server.config))
        self.call_soon(self.told_to_stop.set)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call something in a turn of the loop."""
        self._loop.call_soon_threadsafe(function)

    def force(self) -> None:
        """Stop, and wait for nobody."""
        self._last_resort.end_process_after(_FORCED_S)
        self.call_soon(self.told_to_stop.set)
        self.call_soon(self.server.force_stop)


class Control(Protocol):
    """Who tells a server what to do."""

    def attach(self, run: Run) -> AbstractAsyncContextManager[None]:
        """Give orders to `run` from now on, until the context ends."""

    def on_ready(self, server: Server) -> None:
        """Take note that the server listens."""

    def on_due(self, why: str) -> None:
        """Take note that the process has served enough."""

    def on_stopping(self) -> None:
        """Take note that the server stops."""

    def on_stopped(self) -> None:
        """Take note that it has stopped, before it listened or afterwards."""


async def serve_app(app: ASGIApp, config: Config) -> None:
    """Serve on the running loop until SIGTERM or SIGINT, or until cancelled; then stop gracefully.

    Signals are only taken in the main thread.
    """
    with LastResort() as last_resort:
        await _serve(app, config, last_resort, Signals())


def run_app(app: ASGIApp, config: Config, control: Control | None = None) -> None:
    """Serve in an event loop of its own until told to stop; leaves no task of the server behind."""
    _keep_freed_memory()
    loop = loop_factory(config.loop)()
    threads = ThreadPoolExecutor(thread_name_prefix="asgiws")
    with LastResort() as last_resort:
        try:
            asyncio.set_event_loop(loop)
            loop.set_default_executor(threads)
            loop.run_until_complete(_serve(app, config, last_resort, control or Signals()))
        finally:
            # Not waited for: a thread that the application blocks must not keep the server from ending.
            threads.shutdown(wait=False, cancel_futures=True)
            _end_loop(loop)


async def _serve(app: ASGIApp, config: Config, last_resort: LastResort, control: Control) -> None:
    server = Server(app, config)
    server.on_due = control.on_due
    run = Run(server, last_resort)
    async with control.attach(run), serve_admin(config, OneServer(server)):
        if not await _start(server, run.told_to_stop):
            control.on_stopped()
            return
        try:
            control.on_ready(server)
            await run.told_to_stop.wait()
        finally:
            control.on_stopping()
            await server.stop(replaced=run.replaced)
            control.on_stopped()


def _keep_freed_memory() -> None:
    """Let the C library keep up to 16 MiB of freed memory for the next message, in blocks of up to 4 MiB.

    It would give most of it back to the system at once, and each page of a large message would be a page fault again:
    on a virtual machine of 2026 that is half of the time in which 64 KiB are posted or 1 MiB is echoed. Only glibc
    can be told; the others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_MOST_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)


async def _start(server: Server, told_to_stop: asyncio.Event) -> bool:
    """Start the server; gives False when it was told to stop meanwhile, as while a startup waits for its database."""
    starting = asyncio.create_task(server.start())
    telling = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait((starting, telling), return_when=asyncio.FIRST_COMPLETED)
    finally:
        telling.cancel()
        starting.cancel()
        await asyncio.wait((starting, telling))
    if starting.cancelled():
        return False
    starting.result()
    return True


def _end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop like `asyncio.run` does, but wait a bounded time for what will not end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(RuntimeError):
        _, left = loop.run_until_complete(asyncio.wait(tasks, timeout=1)) if tasks else ((), set())
        ending = loop.create_task(loop.shutdown_asyncgens())
        left |= loop.run_until_complete(asyncio.wait((ending,), timeout=1))[1]
        if left:
            # They ignore their cancellation; that they are destroyed with the loop is not worth a line each.
            loop.set_exception_handler(lambda loop, details: None)
    asyncio.set_event_loop(None)
    loop.close()


class Signals:
    """The control of a process of its own: signals, and the service manager that started it."""

    def __init__(self) -> None:
        self._run: Run
        self._notifier = Notifier(os.environ)
        self._terminal = Terminal()
        self._stops = 0

    @contextlib.asynccontextmanager
    async def attach(self, run: Run) -> AsyncIterator[None]:
        """Take signals, if this is the main thread; what handled them before does so again afterwards."""
        self._run = run
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None] | signal.Handlers] = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGHUP: self._on_hangup,
            signal.SIGUSR1: self._on_reopen,
            # With a handler, a background process that writes to its terminal (stty tostop) would try again for ever.
            signal.SIGTTIN: signal.SIG_IGN,
            signal.SIGTTOU: signal.SIG_IGN,
        }
        if threading.current_thread() is not threading.main_thread():
            handlers.clear()
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._notifier.end()

    def on_ready(self, server: Server) -> None:
        """Say where it listens."""
        loop = asyncio.get_running_loop()
        LOG.info("listening on %s (%s)", ", ".join(server.addresses), type(loop).__module__)
        self._say_ready(server)
        self._notifier.keep_alive()

    def on_due(self, why: str) -> None:
        """Stop: whoever started this process starts the next."""
        LOG.info("%s, so it stops", why)
        self._run.stop()

    def on_stopping(self) -> None:
        """Say so."""
        LOG.info("stopping")
        self._notifier.stopping()

    def on_stopped(self) -> None:
        """Say so."""
        LOG.info("stopped")

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        if self._stops > 1:
            self._run.force()
        else:
            self._run.stop()

    def _on_reopen(self, number: int, frame: FrameType | None) -> None:
        self._run.call_soon(reopen)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        # Both the kernel and a shell say so when a terminal closes: the second time is no order to hurry.
        if not self._terminal.has_gone():
            self._run.call_soon(self._reload)
        elif not self._stops:
            self._on_stop(number, frame)

    def _reload(self) -> None:
        server = self._run.server
        told = server.ready  # else it is not a reload to the service manager, but a part of the start or of the stop
        if told:
            self._notifier.reloading()
        if not server.reload_certificates():
            LOG.info("nothing to reload; rolling restarts take --workers 1 or more")
        if told:
            self._say_ready(server)

    def _say_ready(self, server: Server) -> None:
        self._notifier.ready("listening on " + ", ".join(server.addresses))


class Terminal:
    """The terminal that a process was started from, if it was."""

    def __init__(self) -> None:
        self._was_there = os.isatty(0)

    def has_gone(self) -> bool:
        """Tell whether it was closed: then SIGHUP says just that, and not that somebody asks for a reload."""
        return self._was_there and not os.isatty(0)


class LastResort:
    """Threads, one for each order, that end a process whose loop is blocked; gone once the server has stopped."""

    def __init__(self) -> None:
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers:
            timer.cancel()

    def end_process_after(self, seconds: float) -> None:
        """Start a thread that ends the process with exit code 1."""
        timer = threading.Timer(seconds, self._end_process)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _end_process(self) -> None:
        # In a thread of its own: it is also a reader of the log that takes nothing that can block the loop.
        saying = threading.Thread(target=self._say, daemon=True)
        saying.start()
        saying.join(_SAYING_S)
        os._exit(1)

    def _say(self) -> None:
        LOG.critical("the application blocks the event loop, the process ends now")
        logging.shutdown()
