"""What a log line looks like: text for reading, or JSON with one object a line.

Both are printable ASCII whatever the record holds, including records of other loggers. In text, only a traceback takes
more lines; they are indented, so that none passes for a record. Both formatters can be named in a `dictConfig`:
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

__all__ = ["MOST_OF_MESSAGE", "JSONFormatter", "TextFormatter", "has_colors", "indented_traceback"]

MOST_OF_MESSAGE: Final = 16 * 1024
"""Characters of a message that is not about a client."""
# PIPE_BUF without the line's end: a pipe takes this much in one piece (pipe(7)), so that lines of several workers do
# not mix. Lines about clients are cut to it.
_MOST_OF_LINE: Final = 4095
_MOST_OF_CUT_VALUE: Final = 128
# Of a traceback, this many lines at its start, and at its end with the exception
_MOST_LINES: Final = 128
# The column of clients: the longest IPv4 address with its port
_CLIENT_WIDTH: Final = 21

_PLAIN, _GREEN, _YELLOW, _RED, _CYAN, _BOLD_RED = "", "32", "33", "31", "36", "1;31"
_LEVEL_COLORS: Final = {
    logging.DEBUG: _CYAN, logging.INFO: _GREEN, logging.WARNING: _YELLOW, logging.ERROR: _RED,
    logging.CRITICAL: _BOLD_RED,
}  # fmt: skip
_STATUS_COLORS: Final = (_PLAIN, _GREEN, _GREEN, _CYAN, _YELLOW, _RED)
# RFC 6455 section 7.4.1. Other codes below 3000 are a fault of one side, those above the application's own.
_CLOSE_COLORS: Final = {1000: _GREEN, 1001: _GREEN, 1005: _GREEN, 1006: _YELLOW, 1012: _YELLOW, 1013: _YELLOW}

_ENCODE: Final = json.JSONEncoder(default=str).encode


def has_colors(stream: TextIO | None, choice: str) -> bool:
    """Return whether lines are coloured. `choice` is yes, no, or auto: on a terminal, unless NO_COLOR is set.

    NO_COLOR is explained on https://no-color.org.
    """
    if choice != "auto":
        return choice == "yes"
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def indented_traceback(error: BaseException) -> list[str]:
    """Return the lines of a traceback for the text format."""
    return ["    " + line for line in _traceback_lines(traceback.TracebackException.from_exception(error))]


class TextFormatter(logging.Formatter):
    """Time, level and message in columns.

    With `process`, each line has the process id before its level. With `colors`, the level is coloured, and so is the
    status or close code of an access line.
    """

    def __init__(self, *, colors: bool = False, process: bool = False) -> None:
        super().__init__()
        self._colors = colors
        self._process = process
        self._second = 0
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, followed by those of its traceback."""
        level = f"{record.levelname:<8}"
        if self._colors:
            level = _painted(level, _LEVEL_COLORS.get(record.levelno, _PLAIN))
        process = f"[{record.process}] " if self._process else ""
        lines = [f"{self._time(record)} {process}{level} {self._message(record)}"]
        if record.exc_info and record.exc_info[1] is not None:
            lines += indented_traceback(record.exc_info[1])
        return "\n".join(lines)

    def _time(self, record: logging.LogRecord) -> str:
        """Return the local time; its text is made once a second."""
        second = int(record.created)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._second_text},{int(record.msecs):03d}"

    def _message(self, record: logging.LogRecord) -> str:
        args = record.args
        if not isinstance(args, Mapping) or "event" not in args:
            return printable(record.getMessage(), MOST_OF_MESSAGE)
        # A line of `asgiws.telemetry.access_log`, whose values are escaped.
        shown = {**args, "client": f"{args['client']:<{_CLIENT_WIDTH}}"}
        if self._colors:
            shown.update(
                (name, _painted(str(args[name]), color(args[name]))) for name, color in _COLORS if name in args
            )
        return str(_cut(str(record.msg) % shown, _MOST_OF_LINE - 80))  # less time, process and level


class JSONFormatter(logging.Formatter):
    """One object a line, with the keys of the table in this folder's README."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON. JSON's escapes stand for what is not printable ASCII, and for ends of lines."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": printable(record.getMessage().rstrip("\n"), MOST_OF_MESSAGE),
        }
        line.update(getattr(record, "fields", ()))
        if record.exc_info and record.exc_info[1] is not None:
            error = traceback.TracebackException.from_exception(record.exc_info[1])
            line["exception"] = {
                "type": _name_of(type(record.exc_info[1])),
                "message": printable(str(error)),
                "traceback": "\n".join(_traceback_lines(error)),
            }
        encoded = _ENCODE(line)
        if len(encoded) > _MOST_OF_LINE and hasattr(record, "fields"):
            encoded = _ENCODE({name: _cut(value, _MOST_OF_CUT_VALUE) for name, value in line.items()})
        return encoded


def _cut(value: object, most: int) -> object:
    return f"{value[:most]}..." if isinstance(value, str) and len(value) > most else value


def _status_color(status: object) -> str:
    return _STATUS_COLORS[min(status // 100, 5)] if isinstance(status, int) else _YELLOW


def _code_color(code: object) -> str:
    """Return the colour of a close code, or of the status of a rejected request."""
    assert isinstance(code, int)
    return _CLOSE_COLORS.get(code, _CYAN if code >= 3000 else _RED)


_COLORS: Final = (("status", _status_color), ("code", _code_color))


def _painted(text: str, color: str) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if color else text


def _traceback_lines(error: traceback.TracebackException) -> list[str]:
    """Return the lines of a traceback, each printable: the text of an exception may come from a peer.

    A record's `exc_text` is not used: another handler's formatter may have set it.
    """
    lines = "".join(error.format()).rstrip("\n").split("\n")
    if len(lines) > 2 * _MOST_LINES:
        left_out = len(lines) - 2 * _MOST_LINES
        lines[_MOST_LINES:-_MOST_LINES] = [f"... {left_out} lines left out"]
    return [printable(line) for line in lines]


def _name_of(kind: type[BaseException]) -> str:
    module = kind.__module__
    return printable(kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")
