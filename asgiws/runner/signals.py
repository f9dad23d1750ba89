"""Signals of a process that serves by itself, and notifications to the service manager that started it.

SIGTERM, SIGINT     stop gracefully; a second one stops without waiting (Windows: Ctrl-C, and SIGBREAK, Ctrl-Break)
SIGHUP              reload certificates; from a terminal that was closed: stop
SIGUSR1             reopen log files
SIGTTIN, SIGTTOU    ignored: they change the number of workers, and their default action suspends the process
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from types import FrameType

from asgiws.runner.control import Run
from asgiws.runner.process import log_listening
from asgiws.runner.systemd import Notifier
from asgiws.server.server import Server
from asgiws.telemetry.logging_setup import reopen
from asgiws.telemetry.logs import LOG

__all__ = ["STOPS", "Signals", "Terminal", "existing"]

STOPS = ("SIGTERM", "SIGINT", "SIGBREAK")
"""Names of the signals that order a stop."""


def existing(*names: str) -> list[signal.Signals]:
    """Return those of the named signals that this platform has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class Signals:
    """The control of a process that serves by itself."""

    def __init__(self) -> None:
        self._run: Run
        self._notifier = Notifier(os.environ)
        self._terminal = Terminal()
        self._stops = 0

    @contextlib.asynccontextmanager
    async def attach(self, run: Run) -> AsyncIterator[None]:
        """Handle signals, if this is the main thread; restore the previous handlers at the end."""
        self._run = run
        handlers: dict[str, Callable[[int, FrameType | None], None] | signal.Handlers] = {
            **dict.fromkeys(STOPS, self._on_stop),
            "SIGHUP": self._on_hangup,
            "SIGUSR1": self._on_reopen,
            # With a handler, a background process that writes to its terminal (stty tostop) would try again forever.
            "SIGTTIN": signal.SIG_IGN,
            "SIGTTOU": signal.SIG_IGN,
        }
        if threading.current_thread() is not threading.main_thread():
            handlers.clear()
        before = {number: signal.signal(number, handlers[number.name]) for number in existing(*handlers)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._notifier.end()

    def on_ready(self, server: Server) -> None:
        """Log where the server listens, and notify the service manager."""
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        log_listening(_listening(server), loop)
        self._notify_ready(server)
        self._notifier.keep_alive()

    def on_due(self, why: str) -> None:
        """Stop. The service manager starts the next process."""
        LOG.info("%s, so it stops", why)
        self._run.stop()

    def on_stopping(self) -> None:
        """Log that the stop begins, and notify the service manager."""
        LOG.info("stopping")
        self._notifier.stopping()

    def on_stopped(self) -> None:
        """Log that the stop has ended."""
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
        # Both the kernel and a shell send it when a terminal closes: the second one does not mean to hurry.
        if not self._terminal.has_gone():
            self._run.call_soon(self._reload)
        elif not self._stops:
            self._on_stop(number, frame)

    def _reload(self) -> None:
        server = self._run.server
        notifies = server.serving  # to the service manager, it is part of the start or of the stop otherwise
        if notifies:
            self._notifier.reloading()
        if not server.reload_certificates():
            LOG.info("nothing to reload; rolling restarts take --workers 1 or more")
        if notifies:
            self._notify_ready(server)

    def _notify_ready(self, server: Server) -> None:
        self._notifier.ready(_listening(server))


def _listening(server: Server) -> str:
    return f"listening on {', '.join(server.addresses)}"


class Terminal:
    """The terminal that a process was started from, if there was one."""

    def __init__(self) -> None:
        self._was_there = os.isatty(0)

    def has_gone(self) -> bool:
        """Return whether it has been closed. Then SIGHUP reports that, and does not ask for a reload."""
        return self._was_there and not os.isatty(0)
