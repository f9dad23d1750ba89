"""Where log lines go: to standard error, to a file that can be reopened, or where a `--log-config` sends them.

The command line and its workers call `configure`; `asgiws.run` and `asgiws.serve` call it when they are given one of
`LOGGING_OPTIONS`. Any other program that embeds the server keeps its own logging. `say` writes what keeps a server from
serving to standard error, wherever the log goes.

A reader of standard error that does not read (a full pipe) blocks the process at the next line, as with other servers.
When the reader has gone or a disk is full, lines are lost and the server continues.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, TextIO

from asgiws.config.option import OptionError
from asgiws.config.options import OPTIONS, Config
from asgiws.protocol.printable import printable
from asgiws.telemetry.formats import MOST_OF_MESSAGE, JSONFormatter, TextFormatter, has_colors, indented_traceback
from asgiws.telemetry.logs import LOG

__all__ = ["LOGGING_OPTIONS", "admit_application_records", "configure", "reopen", "say"]

LOGGING_OPTIONS: Final = frozenset(
    name for name, option in OPTIONS.items() if option.group == "Logs" and name != "access_log"
)
"""The options that `configure` reads. `access_log` selects lines, and holds with any configuration."""

_LOADERS: Final = {".toml": tomllib.loads, ".json": json.loads}
# What `dictConfig` documents that it raises; KeyError and RecursionError come from files that it does not expect.
_FAULTS: Final = (ValueError, TypeError, AttributeError, ImportError, KeyError, RecursionError)


class _ErrorStream(logging.StreamHandler[TextIO]):
    """Writes to standard error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Lose the line: nothing is left to report the failure to."""


class _File(logging.FileHandler):
    """Appends to a file, and reports the first failure."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Lose the line; report the first one on standard error."""
        if not self.failed:
            self.failed = True
            say(f"log file {self.baseFilename} cannot be written, lines are lost: {sys.exc_info()[1]}")


def configure(config: Config) -> None:
    """Set up the logging of this process. Raises OptionError for a file that cannot be used."""
    if config.log_config:
        _configure_from(config.log_config, config.log_level)
        return
    handler = _open_file(config.log_file) if config.log_file else _ErrorStream(sys.stderr)
    # asyncio logs tasks that raised and that nobody awaited.
    loggers = [LOG, logging.getLogger("asyncio")]
    if config.log_format == "json":
        handler.setFormatter(JSONFormatter())
        # Python would print warnings on standard error as plain lines.
        logging.captureWarnings(True)
        loggers.append(logging.getLogger("py.warnings"))
        # `logging` passes records here for which no handler is configured: those of the application, if it has none.
        logging.lastResort = handler
    else:
        colors = has_colors(handler.stream, config.use_colors)
        handler.setFormatter(TextFormatter(colors=colors, process=config.workers > 0))
    LOG.setLevel(config.log_level.upper())
    for logger in loggers:
        logger.handlers = [handler]
        logger.propagate = False


def admit_application_records() -> None:
    """Apply the log's level to the application's records, if they are logged here; call it after the import.

    They are where the log is JSON and the application has configured neither a handler nor a level of its own.
    """
    root = logging.root
    if logging.lastResort in LOG.handlers and not root.handlers and root.level == logging.WARNING:
        root.setLevel(LOG.level)


def say(message: str, error: BaseException | None = None, *, level: int = logging.ERROR) -> None:
    """Write a message to standard error for the operator, after the traceback of `error`.

    As text it is one line that begins with "asgiws:"; more lines of the message are indented below it. Where the log is
    JSON, all of it is one object, so that a collector of both meets nothing else.
    """
    formatter = _json_formatter()
    if formatter is not None:
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        text = formatter.format(LOG.makeRecord(LOG.name, level, "", 0, "%s", (message,), exc_info))
    else:
        above = [] if error is None else indented_traceback(error)
        first, *below = (printable(line, MOST_OF_MESSAGE) for line in message.rstrip("\n").split("\n"))
        see = ", see above" if above else ""
        text = "\n".join((*above, f"asgiws: {first}{see}", *(f"    {line}" for line in below)))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
        print(text, file=sys.stderr)  # noqa: T201 - it has to be seen wherever the log goes


def reopen() -> None:
    """Reopen the file of every FileHandler, including those made by a `dictConfig`, after it was moved away.

    A file that cannot be opened is kept open as it is. Not for a signal handler: a line may be half written.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers}
    # What `logging.shutdown` closes: includes handlers inside of handlers, but none from before a `dictConfig`.
    handlers |= {reference() for reference in logging._handlerList}  # type: ignore[attr-defined] # not in the stubs
    for handler in handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            _reopen(handler)


def _reopen(handler: logging.FileHandler) -> None:
    handler.mode = "a"  # with "w", a file that was not moved would be emptied
    try:
        before = handler.setStream(handler._open())
    except OSError as error:
        LOG.error("log file %s cannot be reopened: %s", printable(handler.baseFilename), error.strerror)
        return
    if before is not None:
        before.close()
    if isinstance(handler, _File):
        handler.failed = False
    LOG.info("log file %s was reopened", printable(handler.baseFilename))


def _open_file(path: str) -> _File:
    try:
        return _File(path, encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"--log-file: {path!r} was given, {error.strerror}; allowed: a file that this user may append to"
        ) from None


def _configure_from(path: str, level: str) -> None:
    """Apply a file with a `dictConfig`. Loggers that it does not name stay enabled; `level` is the default of ours."""
    settings = _read(path)
    settings.setdefault("version", 1)
    settings.setdefault("disable_existing_loggers", False)
    LOG.setLevel(level.upper())
    try:
        logging.config.dictConfig(settings)
    except _FAULTS as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise _fault(path, f"{error}{cause}", "a dictConfig as in Python's logging.config") from None


def _read(path: str) -> dict[str, Any]:
    load = _LOADERS.get(Path(path).suffix.lower())
    if load is None:
        raise _fault(path, "unknown kind of file", "a .toml or .json file with a dictConfig")
    try:
        settings = load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise _fault(path, str(error.strerror), "a file that this user may read") from None
    except (ValueError, RecursionError) as error:
        raise _fault(path, str(error), f"{Path(path).suffix[1:].upper()} in UTF-8") from None
    if not isinstance(settings, dict):
        raise _fault(path, f"{type(settings).__name__} at its top", "an object with a dictConfig")
    return settings


def _fault(path: str, seen: str, allowed: str) -> OptionError:
    return OptionError(f"--log-config: {path!r} was given, {printable(seen)}; allowed: {allowed}")


def _json_formatter() -> JSONFormatter | None:
    """Return the formatter of our log if it writes JSON."""
    logger: logging.Logger | None = LOG
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler.formatter, JSONFormatter):
                return handler.formatter
        logger = logger.parent if logger.propagate else None
    return None
