"""Log lines: where they go, what they look like, and that no peer can forge one.

Two standard loggers: `asgiws` for what the server does, `asgiws.access` for what clients do. Only the command line sets
handlers (`configure`); a program that embeds the server keeps its own logging. Whatever came from a peer or from the
application is escaped: a line is printable ASCII from the first character to the last. Only the traceback of an
application takes more lines; they are indented, so that none of them passes for a record.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Final

__all__ = ["ACCESS", "LOG", "RateLimitedLog", "configure", "escape"]

LOG: Final = logging.getLogger("asgiws")
ACCESS: Final = logging.getLogger("asgiws.access")

_PLAIN: Final = {code: None for code in range(0x20, 0x7F) if code not in (0x22, 0x5C)}
_MOST_CHARACTERS: Final = 2048


def escape(value: str | bytes) -> str:
    """Give text as printable ASCII without quotes: control, quote, backslash and 8-bit characters become escapes."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    cut = text[:_MOST_CHARACTERS]
    if cut.translate(_PLAIN):
        cut = cut.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return cut if len(text) <= _MOST_CHARACTERS else cut + "..."


def configure(level: str) -> None:
    """Send both loggers to standard error, one line a record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    for logger in (LOG, ACCESS):
        logger.setLevel(level.upper())
        logger.propagate = False
    LOG.handlers = [handler]
    ACCESS.handlers = [handler]


class _Formatter(logging.Formatter):
    """Writes a traceback below its record: what an exception says may be what a peer has sent."""

    def formatException(  # noqa: N802 - the name is logging's
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join("    " + _plain_line(line) for line in lines)


def _plain_line(line: str) -> str:
    """Give a line of a traceback as printable ASCII, with the quotes and backslashes that source code has."""
    cut = line[:_MOST_CHARACTERS]
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(
            character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
            for character in cut
        )
    return cut if len(line) <= _MOST_CHARACTERS else cut + "..."


class RateLimitedLog:
    """Passes so many lines a second and then one line that says how many were left out.

    A flood of rejections has to cost the peer more than the disk.
    """

    __slots__ = ("_left", "_left_out", "_per_second")

    def __init__(self, per_second: int = 20) -> None:
        self._per_second = per_second
        self._left = per_second
        self._left_out = 0

    def info(self, message: str, *values: object) -> None:
        """Log at level info, or count what is left out."""
        if self._left > 0:
            self._left -= 1
            LOG.info(message, *values)
        else:
            self._left_out += 1

    def second_passed(self) -> None:
        """Open the next second."""
        if self._left_out:
            LOG.info("left out %d lines of rejections in a second", self._left_out)
            self._left_out = 0
        self._left = self._per_second
