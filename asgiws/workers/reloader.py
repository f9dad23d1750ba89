"""`--reload`: one worker, which is restarted when the application's files change. For development.

The old worker ends before the new one starts, so that what it holds (a port, a lock, a file) is free: its WebSockets
get 1012, and what does not end within a moment is killed, so that neither an open connection nor an application that
blocks delays the new code. The listening socket stays open: clients that connect meanwhile wait for the new worker. No
bytecode is written: after two changes within a second it would be that of the first. An application that cannot start
prints why, and the reloader waits for the next change.

Without POSIX (Windows) a process cannot inherit listening sockets for its event loop. There each worker binds the
addresses again, so clients that connect while it starts are refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from pathlib import Path
from typing import Final

from asgiws.config.options import Config
from asgiws.config.posix import POSIX
from asgiws.protocol.printable import escape
from asgiws.runner.exit_codes import CANNOT_START, USAGE, fail
from asgiws.runner.loops import loop_name
from asgiws.runner.process import log_listening
from asgiws.runner.signals import STOPS, Terminal, existing
from asgiws.server.sockets.listeners import CannotListen, Listeners
from asgiws.telemetry.logging_setup import reopen
from asgiws.telemetry.logs import LOG
from asgiws.workers.file_watcher import Watched
from asgiws.workers.worker_process import ENDED, SERVING, STARTING, WorkerProcess, describe_exit

__all__ = ["check_folders", "reload_on_change"]

# For the old worker's connections to end, and for the whole worker: its lifespan has the same again. With 0.1 s until a
# change is noticed, and 0.1 s for a small application to start, the new code serves within a second in any case.
_GRACE_S: Final = 0.3
_KILL_S: Final = 2 * _GRACE_S


def reload_on_change(target: str, config: Config) -> int:
    """Serve the application that `target` names, and restart it on each change; return the exit code."""
    if code := check_folders(config):
        return code
    try:
        return asyncio.run(_Reloader(target, config).run())
    except CannotListen as error:
        return fail(CANNOT_START, str(error))


def check_folders(config: Config) -> int:
    """Check the folders to watch; return the exit code."""
    for folder in config.reload_dir:
        if not Path(folder).is_dir():
            return fail(USAGE, f"--reload-dir: {folder!r} was given, allowed: a folder that exists")
    return 0


class _Reloader:
    """One worker at a time, and the files that it runs."""

    def __init__(self, target: str, config: Config) -> None:
        self._target = target
        grace_s = min(config.graceful_timeout, _GRACE_S)
        self._config = dataclasses.replace(
            config, graceful_timeout=grace_s, drain_delay=0.0, drain_spread=0.0, drain_notice=0.0
        )
        self._listeners = Listeners.open(config)
        self._urls = self._listeners.urls()
        if not POSIX:
            self._listeners.close()
            bind = tuple(url.partition("://")[2] for url in self._urls)
            self._config = dataclasses.replace(self._config, bind=bind)
        self._watched = Watched(config)
        self._terminal = Terminal()
        self._moved = asyncio.Event()
        """Set when something below changes, or the state of the worker."""
        self._worker: WorkerProcess | None = None
        self._stopping = False
        self._changed: list[str] = []
        """Files that changed since the worker was started."""

    async def run(self) -> int:
        """Serve until ordered to stop."""
        loop = asyncio.get_running_loop()
        for number in existing(*STOPS, "SIGHUP", "SIGUSR1"):
            if POSIX:
                loop.add_signal_handler(number, self._on_signal, number)
            else:
                signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(self._on_signal, number))
        watching = asyncio.create_task(self._watched.watch(self._on_files))
        watching.add_done_callback(_log_end)
        LOG.info("watching %s", ", ".join(str(folder) for folder in self._watched.folders))
        try:
            while not self._stopping:
                self._changed.clear()
                await self._serve_until_changed()
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
            self._listeners.close()
            LOG.info("stopped")
        return 0

    async def _serve_until_changed(self) -> None:
        """Start a worker, and end it when files have changed or everything stops."""
        self._worker = worker = WorkerProcess(1, self._config, lambda worker: self._moved.set())
        await worker.spawn(self._target, self._listeners.sockets if POSIX else (), "-B")
        logged = STARTING
        while not (self._changed or self._stopping):
            if worker.state != logged:
                logged = worker.state
                if logged == SERVING:
                    loop = loop_name(self._config.loop)
                    log_listening(f"listening on {', '.join(self._urls)}", loop)
                elif logged == ENDED:
                    LOG.error("worker exited: %s; it is restarted on the next change", describe_exit(worker.code))
            await self._moved.wait()
            self._moved.clear()
        LOG.info("stopping" if self._stopping else f"changed: {_shown(self._changed)}")
        if worker.state != ENDED:
            worker.drain(replaced=True, most_s=_KILL_S)
            await worker.ended.wait()

    def _on_files(self, paths: list[str]) -> None:
        self._changed += paths
        self._moved.set()

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if name == "SIGUSR1":
            reopen()
            if self._worker is not None:
                self._worker.send({"do": "reopen"})
        elif name == "SIGHUP" and not self._terminal.has_gone():
            self._changed.append(name)
        else:
            self._stopping = True
        self._moved.set()


def _log_end(watching: asyncio.Task[None]) -> None:
    """Log why watching ended; the system may have reached its limit of watches (inotify(7))."""
    if not watching.cancelled():
        LOG.error("files are no longer watched: %s; restart the server", watching.exception())


def _shown(paths: list[str]) -> str:
    """Return the names of at most three files that changed, relative to the current folder where they are in it."""
    names = [os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path for path in paths]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return escape(", ".join(names[:3])) + more
