"""What a log line looks like: text for reading, or JSON, one object a line.

Both are printable ASCII whatever the record holds, also one of a logger that is not ours. In text, only a traceback
takes more lines; they are indented, so that none of them passes for a record. Both can be named in a `dictConfig`:
`"()": "asgiws.telemetry.formats.JSONFormatter"`.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from asgiws.protocol.printable import printable

__all__ = ["MOST_OF_MESSAGE", "JSONFormatter", "TextFormatter", "indented_traceback", "takes_colors"]

MOST_OF_MESSAGE: Final = 16 * 1024
"""Characters of a message that is not about a client."""
# PIPE_BUF, with the line's end: so much does a pipe take in one piece (pipe(7)), whatever other workers write to it.
# What clients can make long is kept to it; only what the application says may be longer.
_MOST_OF_LINE: Final = 4095
# Of a traceback: as many at its begin and as many at its end, where the exception is.
_MOST_LINES: Final = 128
# The column of clients: as wide as an IPv4 address with its port can be.
_CLIENT_WIDTH: Final = 21

_PLAIN, _GREEN, _YELLOW, _RED, _CYAN, _BOLD_RED = "", "32", "33", "31", "36", "1;31"
_LEVEL_COLORS: Final = {
    logging.DEBUG: _CYAN, logging.INFO: _GREEN, logging.WARNING: _YELLOW, logging.ERROR: _RED,
    logging.CRITICAL: _BOLD_RED,
}  # fmt: skip
_STATUS_COLORS: Final = (_PLAIN, _GREEN, _GREEN, _CYAN, _YELLOW, _RED)
# RFC 6455 §7.4.1; what is not listed is a fault of one side below 3000, and the application's own from there on
_CLOSE_COLORS: Final = {1000: _GREEN, 1001: _GREEN, 1005: _GREEN, 1006: _YELLOW, 1012: _YELLOW, 1013: _YELLOW}

_ENCODE: Final = json.JSONEncoder(default=str).encode


def takes_colors(stream: TextIO | None, choice: str) -> bool:
    """Tell whether lines are coloured: as told, or where a terminal shows them that was not asked for none.

    `choice` is yes, no or auto. NO_COLOR is what https://no-color.org says.
    """
    if choice != "auto":
        return choice == "yes"
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def indented_traceback(error: BaseException) -> list[str]:
    """Give the lines of a traceback as text has them."""
    return ["    " + line for line in _traceback_lines(error)]


class TextFormatter(logging.Formatter):
    """Time, level and message in columns; with `colors`, the level and an access line's status or code stand out."""

    def __init__(self, *, colors: bool = False) -> None:
        super().__init__()
        self._colors = colors
        self._second = 0
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line of a record, and below it those of its traceback."""
        level = f"{record.levelname:<8}"
        if self._colors:
            level = _painted(level, _LEVEL_COLORS.get(record.levelno, _PLAIN))
        lines = [f"{self._time(record)} {level} {self._message(record)}"]
        if record.exc_info and record.exc_info[1] is not None:
            lines += indented_traceback(record.exc_info[1])
        return "\n".join(lines)

    def _time(self, record: logging.LogRecord) -> str:
        """Give the local time; its text is made once a second."""
        second = int(record.created)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._second_text},{int(record.msecs):03d}"

    def _message(self, record: logging.LogRecord) -> str:
        args = record.args
        if not isinstance(args, Mapping) or "event" not in args:
            return printable(record.getMessage(), MOST_OF_MESSAGE)
        # A line of `asgiws.telemetry.access_log`: each of its values was made harmless.
        shown = {**args, "client": f"{args['client']:<{_CLIENT_WIDTH}}"}
        if self._colors:
            shown.update(
                (name, _painted(str(args[name]), color(args[name]))) for name, color in _COLORS if name in args
            )
        return str(_cut(str(record.msg) % shown, _MOST_OF_LINE - 64))  # beside time and level


class JSONFormatter(logging.Formatter):
    """One object a line, with the keys of the table in this folder's README."""

    def format(self, record: logging.LogRecord) -> str:
        """Give a record as JSON: other than printable ASCII, and the line ends of a traceback, are JSON's escapes."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": printable(record.getMessage().rstrip("\n"), MOST_OF_MESSAGE),
        }
        line.update(getattr(record, "fields", ()))
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = {
                "type": _name_of(type(error)),
                "message": printable(_said(error)),
                "traceback": "\n".join(_traceback_lines(error)),
            }
        encoded = _ENCODE(line)
        if len(encoded) > _MOST_OF_LINE and hasattr(record, "fields"):
            for most in (1024, 256, 32):
                encoded = _ENCODE({name: _cut(value, most) for name, value in line.items()})
                if len(encoded) <= _MOST_OF_LINE:
                    break
        return encoded


def _cut(value: object, most: int) -> object:
    return f"{value[:most]}..." if isinstance(value, str) and len(value) > most else value


def _status_color(status: object) -> str:
    return _STATUS_COLORS[min(status // 100, 5)] if isinstance(status, int) else _YELLOW


def _code_color(code: object) -> str:
    """Give the colour of a close code, or of the status with which a broken rule was answered."""
    assert isinstance(code, int)
    return _CLOSE_COLORS.get(code, _CYAN if code >= 3000 else _RED)


_COLORS: Final = (("status", _status_color), ("code", _code_color))


def _painted(text: str, color: str) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if color else text


def _traceback_lines(error: BaseException) -> list[str]:
    """Give the lines of a traceback, made harmless: what an exception says may be what a peer has sent.

    Not a record's `exc_text`: another handler's formatter may have left it there as it was.
    """
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    if len(lines) > 2 * _MOST_LINES:
        left_out = len(lines) - 2 * _MOST_LINES
        lines[_MOST_LINES:-_MOST_LINES] = [f"... {left_out} lines left out"]
    return [printable(line) for line in lines]


def _name_of(kind: type[BaseException]) -> str:
    module = kind.__module__
    return printable(kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception of the application's whose text cannot be had
        return "<str() failed>"
