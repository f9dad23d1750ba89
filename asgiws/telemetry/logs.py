"""The two loggers, what makes a value harmless in a line, and a limit for floods of lines.

`asgiws` says what the server does, `asgiws.access` what clients do. Whatever came from a peer or from the application
is escaped before it is logged: a line is printable ASCII from the first character to the last. What lines look like is
in `asgiws.telemetry.formats`, where they go in `asgiws.telemetry.logging_setup`.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["ACCESS", "LOG", "LineLimit"]

LOG: Final = logging.getLogger("asgiws")
ACCESS: Final = logging.getLogger("asgiws.access")


class LineLimit:
    """Admits so many lines a second, and logs one that says how many were left out.

    A flood of rejections, or an application that raises for every client, has to cost less than the disk.
    """

    __slots__ = ("_left", "_left_out", "_per_second", "_what")

    def __init__(self, what: str, per_second: int = 20) -> None:
        self._what = what
        self._per_second = per_second
        self._left = per_second
        self._left_out = 0

    def admits(self, level: int) -> bool:
        """Tell whether a line of that level is to be logged now; counts what is left out."""
        if not LOG.isEnabledFor(level):
            return False
        if self._left > 0:
            self._left -= 1
            return True
        self._left_out += 1
        return False

    def second_passed(self) -> None:
        """Open the next second."""
        if self._left_out:
            LOG.warning("left out %d lines of %s in a second", self._left_out, self._what)
            self._left_out = 0
        self._left = self._per_second
