"""The last resort: threads that end a process that does not end by itself, and name what keeps it.

A stop has steps that are all bounded (`asgiws.server.server`), so only two things can keep a process: an application
that blocks the event loop (`Watchdog`), and, once the loop is closed, threads or exit handlers of the application, for
which the interpreter waits without a limit (`leave`).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import math
import os
import sys
import sysconfig
import threading
import time
from types import FrameType, TracebackType
from typing import Final, Self

from asgiws.config.options import Config
from asgiws.protocol.printable import printable
from asgiws.runner.exit_codes import CANNOT_START
from asgiws.telemetry.logs import LOG

__all__ = ["FORCED_MOST_S", "Watchdog", "leave", "stop_most_s"]

# What the last steps of a stop take at most: 1 s for cancelled applications, 1.5 s for the lifespan shutdown and its
# cancellation, 1 s to close the loop
_LAST_STEPS_S: Final = 4.0
FORCED_MOST_S: Final = _LAST_STEPS_S
"""Seconds within which a stop that waits for nothing ends."""
# For the interpreter to end after a stop, with threads of the application, and without them: exit handlers are meant to
# run then, such as those of telemetry libraries, which send what they still have
_THREADS_S: Final = 1.0
_EXIT_HANDLERS_S: Final = 5.0
_LEAST_S: Final = 0.25

# To write to the log, which blocks while its reader takes nothing
_SAYING_S: Final = 0.5
_TURN_S: Final = 0.5
_NAMED_MOST: Final = 5
_LIBRARY: Final = sysconfig.get_path("stdlib") + os.sep
_PACKAGES: Final = sysconfig.get_path("purelib") + os.sep


def stop_most_s(config: Config) -> float:
    """Return the seconds within which a graceful stop ends."""
    return config.drain_delay + config.graceful_timeout + _LAST_STEPS_S


class Watchdog:
    """Ends the process when a stop takes too long. Made in the thread of the loop, harmless once its context ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers:
            timer.cancel()

    def end_process_after(self, seconds: float, *, if_blocked: bool = False) -> None:
        """End the process with exit code 1 after that time; with `if_blocked`, only if the loop is blocked then."""
        timer = threading.Timer(seconds, self._expire, (if_blocked,))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _expire(self, if_blocked: bool) -> None:
        if self._loop_turns():
            if not if_blocked:
                _end_process(CANNOT_START, "the stop did not end in time, the process ends now", dump=True)
            return
        where = _place(sys._current_frames().get(self._loop_thread))
        _end_process(CANNOT_START, f"the application blocks the event loop {where}, the process ends now", dump=True)

    def _loop_turns(self) -> bool:
        turned = threading.Event()
        try:
            self._loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # it was closed a moment ago
            return True
        return turned.wait(_TURN_S)


def leave(code: int, graceful_timeout_s: float = math.inf) -> int:
    """Return the exit code, and end the process with it if the interpreter does not end in time.

    At its end the interpreter waits for threads that are not daemons and for jobs of executors, which have a second
    here, and for exit handlers, which have 5; both at most the graceful timeout.
    """
    most_s = max(_LEAST_S, graceful_timeout_s)
    threading.Thread(target=_guard_end, args=(code, threading.get_ident(), most_s), daemon=True).start()
    return code


def _guard_end(code: int, main: int, most_s: float) -> None:
    threads_s = min(_THREADS_S, most_s)
    time.sleep(threads_s)
    if not _waited_for(main):
        time.sleep(min(_EXIT_HANDLERS_S, most_s) - threads_s)
    _end_process(code, _what_remains(main))


def _what_remains(main: int) -> str:
    """Name the threads that the interpreter waits for, or what its exit handlers do."""
    frames, waited_for = sys._current_frames(), _waited_for(main)
    if not waited_for:
        return f"not waiting for the exit handlers of the application, which are {_place(frames.get(main))}"
    named = [f"{thread.name} {_place(frames.get(thread.ident or 0))}" for thread in waited_for[:_NAMED_MOST]]
    if len(waited_for) > _NAMED_MOST:
        named.append(f"and {len(waited_for) - _NAMED_MOST} more")
    many = f"{len(waited_for)} threads" if len(waited_for) > 1 else "1 thread"
    return f"not waiting for {many} of the application: {', '.join(named)}"


def _waited_for(main: int) -> list[threading.Thread]:
    """Return the threads that the interpreter waits for, or will wait for."""
    joined = _joined(sys._current_frames().get(main))
    return [
        thread for thread in threading.enumerate() if (not thread.daemon and thread.ident != main) or thread is joined
    ]


def _joined(frame: FrameType | None) -> threading.Thread | None:
    """Return the thread that this frame or one of its callers waits for, as executors do for daemons too."""
    # Without a GIL, only the variables of a thread that waits may be read.
    while frame is not None:
        if frame.f_code is threading.Thread.join.__code__:
            waited_for = frame.f_locals.get("self")
            return waited_for if isinstance(waited_for, threading.Thread) else None
        frame = frame.f_back
    return None


def _place(frame: FrameType | None) -> str:
    """Return where a thread is: the innermost function outside the standard library, else outside `threading`."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    if not frames:
        return "at its end"
    outside = [frame for frame in frames if not _is_library(frame.f_code.co_filename)]
    found = (outside or [frame for frame in frames if frame.f_code.co_filename != threading.__file__] or frames)[0]
    return f"in {found.f_code.co_qualname} ({found.f_code.co_filename}:{found.f_lineno})"


def _is_library(path: str) -> bool:
    return path.startswith(("<", _LIBRARY)) and not path.startswith(_PACKAGES)


def _end_process(code: int, why: str, *, dump: bool = False) -> None:
    """End the process, whatever its other threads do."""

    def say() -> None:
        LOG.log(logging.CRITICAL if dump else logging.WARNING, "%s", printable(why))
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # closed streams, or none at all
            if dump:
                faulthandler.dump_traceback()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()

    # In a thread of its own: a log whose reader takes nothing may be what keeps the process.
    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    saying.join(_SAYING_S)
    os._exit(code)
