"""The two loggers, and a limit for floods of lines.

`asgiws` logs what the server does, `asgiws.access` what clients do. Text from a peer or from the application is escaped
before it is logged: a line is printable ASCII. `asgiws.telemetry.formats` formats lines,
`asgiws.telemetry.logging_setup` sends them somewhere.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["ACCESS", "LOG", "LineLimit"]

LOG: Final = logging.getLogger("asgiws")
ACCESS: Final = logging.getLogger("asgiws.access")


class LineLimit:
    """Admits a number of lines a second, and logs one more with the number of lines left out.

    So a flood of rejections, or an application that raises for every client, does not fill the disk.
    """

    __slots__ = ("_left", "_left_out", "_per_second", "_what")

    def __init__(self, what: str, per_second: int = 20) -> None:
        self._what = what
        self._per_second = per_second
        self._left = per_second
        self._left_out = 0

    def admits(self, level: int) -> bool:
        """Return whether a line of that level may be logged now; count it if not."""
        if not LOG.isEnabledFor(level):
            return False
        if self._left > 0:
            self._left -= 1
            return True
        self._left_out += 1
        return False

    def second_passed(self) -> None:
        """Start the next second."""
        if self._left_out:
            LOG.warning("left out %d lines of %s in a second", self._left_out, self._what)
            self._left_out = 0
        self._left = self._per_second
