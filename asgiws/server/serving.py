"""Serving until told to stop: signals, the event loop, and an end that comes whatever the application does.

The first SIGTERM or SIGINT stops the server gracefully, the second at once. Both handlers only set things: the loop
does the work. Should the application block the loop itself, a daemon thread ends the process after the time that a
graceful stop may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Self

from asgiws.config import Config
from asgiws.server.context import ASGIApp
from asgiws.server.server import Server
from asgiws.telemetry.logs import LOG

__all__ = ["loop_factory", "run_app", "serve_app"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Beside the graceful timeout: for cancelled applications and the lifespan shutdown to end.
_EXTRA_S = 5.0
_FORCED_S = 2.0


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


async def serve_app(app: ASGIApp, config: Config, *, started: Callable[[Server], None] | None = None) -> None:
    """Serve on the running loop until SIGTERM or SIGINT, or until cancelled; then stop gracefully.

    `started` is called once the server listens. Signals are only taken in the main thread.
    """
    with _LastResort() as last_resort:
        await _serve(app, config, last_resort, started)


async def _serve(
    app: ASGIApp, config: Config, last_resort: _LastResort, started: Callable[[Server], None] | None = None
) -> None:
    server = Server(app, config)
    with _stop_signals(server, last_resort) as told_to_stop:
        if not await _start(server, told_to_stop):
            LOG.info("stopped before it listened")
            return
        try:
            LOG.info("listening on %s (%s)", ", ".join(server.addresses), type(asyncio.get_running_loop()).__module__)
            if started is not None:
                started(server)
            await told_to_stop.wait()
        finally:
            LOG.info("stopping")
            await server.stop()
            LOG.info("stopped")


def run_app(app: ASGIApp, config: Config) -> None:
    """Serve in an event loop of its own until SIGTERM or SIGINT; leaves no task of the server behind."""
    loop = loop_factory(config.loop)()
    threads = ThreadPoolExecutor(thread_name_prefix="asgiws")
    with _LastResort() as last_resort:
        try:
            asyncio.set_event_loop(loop)
            loop.set_default_executor(threads)
            loop.run_until_complete(_serve(app, config, last_resort))
        finally:
            # Not waited for: a thread that the application blocks must not keep the server from ending.
            threads.shutdown(wait=False, cancel_futures=True)
            _end_loop(loop)


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


@contextlib.contextmanager
def _stop_signals(server: Server, last_resort: _LastResort) -> Iterator[asyncio.Event]:
    """Give an event that the first stop signal sets; the second one forces the stop that is under way."""
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        forced = len(received) > 1
        last_resort.end_process_after(_FORCED_S if forced else 2 * server.config.graceful_timeout + _EXTRA_S)
        loop.call_soon_threadsafe(server.force_stop if forced else told_to_stop.set)

    if threading.current_thread() is not threading.main_thread():
        yield told_to_stop
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield told_to_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _LastResort:
    """Threads, one for each signal, that end a process whose loop is blocked; gone once the server has stopped."""

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
        LOG.critical("the application blocks the event loop, the process ends now")
        logging.shutdown()
        os._exit(1)
