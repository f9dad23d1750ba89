"""A process that serves an application: from its name to an exit code, with one line for each thing that can fail.

Exit codes: 0 after a stop, 1 when the server could not start, 2 for a usage error, 3 when the application said that it
cannot start. A traceback is always the application's own.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Final

from asgiws.config.options import Config
from asgiws.runner.run import Control, Signals, run_app
from asgiws.server.asgi import ASGIApp
from asgiws.server.importer import ImportFailed, import_app
from asgiws.server.lifespan import StartupFailed
from asgiws.server.sockets.listeners import CannotListen, check_addresses
from asgiws.server.tls.certificates import Certificates
from asgiws.telemetry.logging_setup import say

__all__ = ["CANNOT_START", "STARTUP_FAILED", "USAGE", "fail", "leave", "run_target"]

CANNOT_START: Final = 1
"""Or did not end well: the application kept the loop, and the process was ended."""
USAGE: Final = 2
STARTUP_FAILED: Final = 3

# For threads of the application to end by themselves
_THREADS_S = 1.0
# Whose frames stand above the application's own in the traceback of its import
_IMPORTING = (__name__, "asgiws.server.importer", "importlib", "importlib._bootstrap", "importlib._bootstrap_external")


def run_target(target: str, config: Config, control: Control | None = None, *, check_only: bool = False) -> int:
    """Import the application that `target` names and serve it, or only check what it would be served with.

    Gives the exit code.
    """
    control = control or Signals()  # so early that nothing the application starts takes systemd's variables for its own
    try:
        app = import_app(target, config.app_dir, factory=config.factory)
    except ImportFailed as error:
        return fail(USAGE, str(error))
    except Exception as error:
        return fail(CANNOT_START, f"application {target} raised while it was imported", _trimmed(error))
    return _check(config) if check_only else _run(app, config, control)


def _check(config: Config) -> int:
    """Load the certificates and look addresses up, as serving does, in its order; no address is bound."""
    try:
        if config.admin:
            try:
                check_addresses(Config(bind=(config.admin,)))
            except CannotListen as error:
                raise error.of("--admin") from None
        if config.ssl_certfile:
            Certificates(config)
        check_addresses(config)
    except CannotListen as error:
        return fail(CANNOT_START, str(error))
    return 0


def _run(app: ASGIApp, config: Config, control: Control) -> int:
    try:
        run_app(app, config, control)
    except StartupFailed as error:
        return fail(STARTUP_FAILED, str(error))
    except CannotListen as error:
        return fail(CANNOT_START, str(error))
    return 0


def leave(code: int) -> int:
    """Give the exit code, or exit here when a thread of the application would keep the process from ending."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    patience_until_s = time.monotonic() + _THREADS_S
    for thread in others:
        thread.join(max(0.0, patience_until_s - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def fail(code: int, message: str, error: Exception | None = None) -> int:
    """Say why the process ends, with the traceback of `error`; gives the exit code."""
    say(message, error)
    return code


def _trimmed(error: Exception) -> Exception:
    """Let a traceback begin with the application's first frame, without those of our import of it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _IMPORTING:
        trace = trace.tb_next
    return error.with_traceback(trace)
