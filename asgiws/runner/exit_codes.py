"""The exit codes of the command, and the line that says why a process cannot serve.

`asgiws.runner.run` decides which failure has which code."""

from __future__ import annotations

from typing import Final

from asgiws.telemetry.logging_setup import say

__all__ = ["CANNOT_START", "STARTUP_FAILED", "USAGE", "fail"]

CANNOT_START: Final = 1
"""The server could not start, or a stop did not end in order: the application blocked the event loop."""
USAGE: Final = 2
"""An option or the name of the application is wrong."""
STARTUP_FAILED: Final = 3
"""The application reported that it cannot start."""


def fail(code: int, message: str, error: BaseException | None = None) -> int:
    """Print why the process ends, with the traceback of `error`, and return the exit code."""
    say(message, error)
    return code
