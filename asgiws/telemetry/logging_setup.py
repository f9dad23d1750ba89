"""Where log lines go: standard error, a file that can be opened again, or what the operator's own file says.

The command line and the workers that it starts call `configure`, `asgiws.run` and `asgiws.serve` when they are given
one of `LOGGING_OPTIONS`; any other program that embeds the server keeps its own logging. What keeps a server from
serving is said on standard error, wherever the log goes, in the log's form: `say`.

Standard error blocks like any file: a reader that takes nothing (a full pipe) stops the process at the next line, until
it reads. One that has gone, or a full disk, costs the lines and nothing else.
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
from asgiws.telemetry.formats import MOST_OF_MESSAGE, JSONFormatter, TextFormatter, indented_traceback, takes_colors
from asgiws.telemetry.logs import LOG

__all__ = ["LOGGING_OPTIONS", "configure", "reopen", "say"]

LOGGING_OPTIONS: Final = frozenset(
    name for name, option in OPTIONS.items() if option.group == "Logs" and name != "access_log"
)
"""The options that `configure` reads; `access_log` says which lines there are, whoever takes them."""

_LOADERS: Final = {".toml": tomllib.loads, ".json": json.loads}
# What `dictConfig` says that it raises; KeyError and RecursionError come out of files that are odder than it expects.
_FAULTS: Final = (ValueError, TypeError, AttributeError, ImportError, KeyError, RecursionError)


class _ErrorStream(logging.StreamHandler[TextIO]):
    """Writes to standard error; that it cannot be written to could be told nowhere else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Lose the line."""


class _File(logging.FileHandler):
    """Appends to a file, and tells once when that fails."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Lose the line; of the first one, tell standard error."""
        if not self.failed:
            self.failed = True
            say(f"log file {self.baseFilename} cannot be written, lines are lost: {sys.exc_info()[1]}")


def configure(config: Config) -> None:
    """Set up the logging of this process. Raises OptionError for a file that cannot be used."""
    if config.log_config:
        _configure_from(config.log_config, config.log_level)
        return
    handler = _open_file(config.log_file) if config.log_file else _ErrorStream(sys.stderr)
    # asyncio's own logger tells of tasks that raised and that nobody awaited.
    loggers = [LOG, logging.getLogger("asyncio")]
    if config.log_format == "json":
        handler.setFormatter(JSONFormatter())
        # Python prints them on standard error, as lines that are no objects.
        logging.captureWarnings(True)
        loggers.append(logging.getLogger("py.warnings"))
    else:
        handler.setFormatter(TextFormatter(colors=takes_colors(handler.stream, config.use_colors)))
    LOG.setLevel(config.log_level.upper())
    for logger in loggers:
        logger.handlers = [handler]
        logger.propagate = False


def say(message: str, error: BaseException | None = None, *, level: int = logging.ERROR) -> None:
    """Say something to the operator on standard error: one line, below the traceback of `error`.

    Where the log has JSON, all of it is one object, so that who reads both never meets anything else.
    """
    formatter = _json_formatter()
    if formatter is not None:
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        said = formatter.format(LOG.makeRecord(LOG.name, level, "", 0, "%s", (message,), exc_info))
    else:
        lines = [] if error is None else indented_traceback(error)
        see = ", see above" if lines else ""
        said = "\n".join((*lines, f"asgiws: {printable(message, MOST_OF_MESSAGE)}{see}"))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
        print(said, file=sys.stderr)  # noqa: T201 - where else


def reopen() -> None:
    """Open the file of every FileHandler again, also of those that a `dictConfig` made: it was moved away.

    A file that cannot be opened stays as it was. Not for a signal handler: a line may be half written.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers}
    # What `logging.shutdown` closes: those too that only another handler knows, but none from before a `dictConfig`.
    handlers |= {reference() for reference in logging._handlerList}  # type: ignore[attr-defined] # not in the stubs
    for handler in handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            _reopen(handler)


def _reopen(handler: logging.FileHandler) -> None:
    handler.mode = "a"  # with "w", a file that was not moved would lose what it has
    try:
        before = handler.setStream(handler._open())
    except OSError as error:
        LOG.error("log file %s cannot be opened again: %s", printable(handler.baseFilename), error.strerror)
        return
    if before is not None:
        before.close()
    if isinstance(handler, _File):
        handler.failed = False
    LOG.info("log file %s was opened again", printable(handler.baseFilename))


def _open_file(path: str) -> _File:
    try:
        return _File(path, encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"--log-file: {path!r} was given, {error.strerror}; allowed: a file that this user may append to"
        ) from None


def _configure_from(path: str, level: str) -> None:
    """Apply a file with a `dictConfig`; loggers that it does not name stay enabled, and ours get `level`."""
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
    """Give the formatter of our log, if it is one of objects."""
    logger: logging.Logger | None = LOG
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler.formatter, JSONFormatter):
                return handler.formatter
        logger = logger.parent if logger.propagate else None
    return None
