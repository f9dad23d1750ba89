"""One process that serves an application: from its name to an exit code, or from an object inside a program.

It makes the event loop, the server and the admin address, and stops them when a `Control` says so. The README of this
folder lists signals, exit codes and the steps of a stop. A traceback is always the application's own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from asgiws.admin.server import serve_admin
from asgiws.admin.source import OneServer
from asgiws.config.options import Config
from asgiws.runner.control import Control, Run
from asgiws.runner.exit_codes import CANNOT_START, STARTUP_FAILED, USAGE, fail
from asgiws.runner.loops import close_loop, loop_factory
from asgiws.runner.signals import Signals
from asgiws.runner.watchdog import Watchdog
from asgiws.server.asgi import ASGIApp
from asgiws.server.importer import ImportFailed, import_app
from asgiws.server.lifespan import StartupFailed
from asgiws.server.server import Server
from asgiws.server.sockets.listeners import CannotListen, check_addresses
from asgiws.server.tls.certificates import Certificates
from asgiws.telemetry.logging_setup import admit_application_records
from asgiws.telemetry.logs import LOG
from asgiws.topics.brokers.session import CannotConnect

__all__ = ["run_app", "run_target", "serve_app"]

_QUICK_STOP_S: Final = 1.0
"""A stop that takes longer says what it waits for."""
# Their frames precede the application's own in the traceback of its import or its lifespan.
_CALLERS: Final = (
    __name__, "asgiws.server.importer", "asgiws.server.lifespan", "importlib", "importlib._bootstrap",
    "importlib._bootstrap_external",
)  # fmt: skip


def run_target(target: str, config: Config, control: Control | None = None, *, check_only: bool = False) -> int:
    """Import the application `target` and serve it, or only check that it could be served; return the exit code."""
    # Made before the import, so that nothing the application starts takes systemd's variables for its own
    control = control or Signals()
    try:
        app = import_app(target, config.app_dir, factory=config.factory)
    except ImportFailed as error:
        return fail(USAGE, str(error))
    except Exception as error:
        return fail(CANNOT_START, f"application {target} raised while it was imported", _trimmed(error))
    try:
        if check_only:
            _check(config)
        else:
            run_app(app, config, control)
    except StartupFailed as error:
        return fail(STARTUP_FAILED, str(error), error.__cause__ and _trimmed(error.__cause__))
    except (CannotListen, CannotConnect) as error:
        return fail(CANNOT_START, str(error))
    return 0


def run_app(app: ASGIApp, config: Config, control: Control | None = None) -> None:
    """Serve on a new event loop until ordered to stop; no task of the server is left then."""
    loop = loop_factory(config.loop)()
    threads = ThreadPoolExecutor(thread_name_prefix="asgiws")
    with Watchdog(loop) as watchdog:
        try:
            asyncio.set_event_loop(loop)
            loop.set_default_executor(threads)
            loop.run_until_complete(_serve(app, config, watchdog, control or Signals()))
        finally:
            # Not waited for: the end of the server does not depend on a thread that the application blocks.
            threads.shutdown(wait=False, cancel_futures=True)
            close_loop(loop)


async def serve_app(app: ASGIApp, config: Config) -> None:
    """Serve on the running loop until SIGTERM or SIGINT, or until cancelled; then stop gracefully.

    Signals are only handled in the main thread.
    """
    with Watchdog(asyncio.get_running_loop()) as watchdog:
        await _serve(app, config, watchdog, Signals())


async def _serve(app: ASGIApp, config: Config, watchdog: Watchdog, control: Control) -> None:
    admit_application_records()
    server = Server(app, config)
    server.on_due = control.on_due
    run = Run(server, watchdog)
    async with control.attach(run), serve_admin(config, OneServer(server)):
        if not await _start(server, run.told_to_stop):
            control.on_stopped()
            return
        try:
            control.on_ready(server)
            await run.told_to_stop.wait()
        finally:
            control.on_stopping()
            await _stop(server, replaced=run.replaced)
            control.on_stopped()


async def _stop(server: Server, *, replaced: bool) -> None:
    """Stop the server, and log what it waits for if that takes longer than a second."""
    delay_s = _QUICK_STOP_S + (0.0 if replaced else server.config.drain_delay)
    timer = asyncio.get_running_loop().call_later(delay_s, _log_waiting, server, replaced)
    try:
        await server.stop(replaced=replaced)
    finally:
        timer.cancel()


def _log_waiting(server: Server, replaced: bool) -> None:
    if work := server.describe_open():
        hint = "" if replaced else "; signal again to stop now"
        LOG.info("waiting for %s, up to %g s%s", work, server.config.graceful_timeout, hint)


async def _start(server: Server, told_to_stop: asyncio.Event) -> bool:
    """Start the server. Return False when the order to stop came first, as while a startup waits for its database."""
    start = asyncio.create_task(server.start())
    stop = asyncio.create_task(told_to_stop.wait())
    try:
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        start.cancel()
        await asyncio.wait((start, stop))
    if start.cancelled():
        return False
    start.result()
    return True


def _check(config: Config) -> None:
    """Load certificates and look up addresses in the order of serving; nothing is bound. Raises CannotListen."""
    if config.admin:
        try:
            check_addresses(Config(bind=(config.admin,)))
        except CannotListen as error:
            raise error.of("--admin") from None
    if config.ssl_certfile:
        Certificates(config)
    check_addresses(config)


def _trimmed(error: BaseException) -> BaseException:
    """Remove our own frames from the beginning of a traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _CALLERS:
        trace = trace.tb_next
    return error.with_traceback(trace)
