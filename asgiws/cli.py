"""The command line: flags, environment and files to `Settings`, and from there to a running server.

Exit codes: 0 after a stop, 1 when the server could not start, 2 for a usage error, 3 when the application said that it
cannot start. Each error is one line on standard error; a traceback is always the application's own.
`--check-config` prints the options and finds what serving would refuse, with the same codes, as far as that can be told
without an address, the lifespan of the application, or a change to any file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final, NoReturn

from asgiws._version import __version__
from asgiws.admin.commands import COMMANDS, run_command
from asgiws.config.option import Option, OptionError, spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.config.sources import Settings
from asgiws.protocol.printable import escape
from asgiws.runner.exit_codes import CANNOT_START, USAGE, fail
from asgiws.runner.loops import loop_factory
from asgiws.runner.process import take_process
from asgiws.runner.signals import Terminal
from asgiws.runner.systemd import inherited_addresses
from asgiws.runner.watchdog import leave
from asgiws.telemetry.logging_setup import configure, say
from asgiws.telemetry.logs import LOG
from asgiws.workers.start import check, start

__all__ = ["main", "make_parser"]

_HINT: Final = "(asgiws --help lists the options)"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"asgiws: {message} {_HINT}\n")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser from the table of options."""
    parser = _Parser(
        prog="asgiws",
        usage="asgiws [options] module:attribute\n       asgiws top|health [address]",
        description="The ASGI server for WebSocket applications.",
        epilog="Every option can also be given in the environment, --max-queue as ASGIWS_MAX_QUEUE, and in a TOML "
        "file, as max_queue. A flag goes before the environment, the environment before the file. Sizes take 64k or "
        "16MiB, durations 500ms, 30s, 5m or 1h.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("app", metavar="module:attribute", nargs="?", help="the ASGI application, such as app:app")
    parser.add_argument("--version", action="version", version=f"asgiws {__version__}")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of options (default: pyproject.toml, [tool.asgiws])"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print the options, each with its origin, import the app, and end"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    defaults = Config()
    for name, option in OPTIONS.items():
        group = groups.setdefault(option.group, parser.add_argument_group(option.group))
        text = f"{option.help} (default: {_shown(getattr(defaults, name))})".replace("%", "%%")
        flags = _flags(name, option)
        if option.negatable:
            group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=text)
        elif option.kind == "list":
            group.add_argument(*flags, dest=name, action="append", metavar="TEXT", help=text)
        else:
            metavar = "|".join(option.choices) if option.choices else option.kind.upper()
            group.add_argument(*flags, dest=name, metavar=metavar, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    _prepare_process()
    try:
        return leave(_run(argv))
    except KeyboardInterrupt:
        return leave(fail(CANNOT_START, "interrupted before the application was served"))


def _prepare_process() -> None:
    """Keep closed standard streams from harming the process."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        # Else a socket would become standard error, of this process and of those that it starts.
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _hold_signals() -> None:
    """Take the signals that a process is sent before it serves, so that they do no harm."""
    with contextlib.suppress(ValueError):  # not in the main thread
        # A program that rotates logs, or renews certificates, may send them while the application is imported, and they
        # would end the process: what they ask for is read afterwards.
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        terminal = Terminal()
        signal.signal(signal.SIGHUP, lambda number, frame: _end() if terminal.has_gone() else None)
        # They ask for a worker more or less, and their default action is that the process is stopped until SIGCONT.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def _end() -> NoReturn:
    raise KeyboardInterrupt


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:], lambda flags: Settings.load(flags, os.environ).config)
    _hold_signals()
    parser = make_parser()
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_not_taken(unknown))
    options = _Options(vars(known), _typed(words))
    check_only = "check_config" in known
    try:
        settings = options.load()
        loop_factory(settings.config.loop)
        configure(_without_log_file(settings.config) if check_only else settings.config)
    except OptionError as error:
        return fail(USAGE, str(error))
    except ModuleNotFoundError:
        return fail(CANNOT_START, "--loop uvloop: uvloop is not installed; install asgiws[uvloop], or use --loop auto")
    for warning in settings.warnings:
        say(warning, level=logging.WARNING)
    if check_only:
        print(settings.as_toml())  # noqa: T201 - what it was called for
    if not settings.app:
        return fail(USAGE, f"no application was given, name it as module:attribute, such as app:app {_HINT}")
    if check_only:
        return check(settings.app, settings.config)
    # `--bind fd:3` or `--fd 3` may name one of them already.
    config = settings.config
    inherited = [text for text in inherited_addresses(os.environ) if text not in (*config.bind, f"fd:{config.fd}")]
    config = dataclasses.replace(config, bind=(*config.bind, *inherited))
    take_process()
    return start(settings.app, config, options.load_again)


def _without_log_file(config: Config) -> Config:
    """Give the options with lines on standard error. Raises OptionError when the file could not be appended to."""
    path = Path(config.log_file)
    try:
        if config.log_file and not path.is_fifo():  # one that nobody reads cannot be opened, and is waited for
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        fault = 0
    except FileNotFoundError:
        folder = path.resolve().parent
        fault = 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES if folder.is_dir() else errno.ENOENT
    except OSError as error:
        fault = error.errno or errno.EIO
    if fault:
        raise OptionError(
            f"--log-file: {config.log_file!r} was given, {os.strerror(fault)}; "
            "allowed: a file that this user may append to"
        )
    return dataclasses.replace(config, log_file="")


class _Options:
    """The options of this process: read when it starts, and again for a rolling restart."""

    def __init__(self, flags: Mapping[str, object], typed: Mapping[str, str]) -> None:
        self._flags = flags
        self._typed = typed
        self._environ = dict(os.environ)
        self._added: frozenset[str] = frozenset()
        """Variables of the env file that are in the environment now."""

    def load(self) -> Settings:
        """Read them, and set what the env file adds to the environment. Raises OptionError."""
        settings = Settings.load(self._flags, self._environ, self._typed)
        for name in self._added - settings.environment.keys():
            os.environ.pop(name, None)
        os.environ.update(settings.environment)
        self._added = frozenset(settings.environment)
        return settings

    def load_again(self) -> Config:
        """Read them while the server runs. Raises OptionError, and then nothing has changed."""
        settings = self.load()
        for warning in settings.warnings:
            LOG.warning("%s", warning)
        return settings.config


def _not_taken(words: Sequence[str]) -> str:
    """Say what is wrong with arguments that no option takes, with the nearest flag that is one."""
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if flag is None:
        return f"{words[0]!r} was given behind the application, allowed: one module:attribute, and options"
    known = ["--help", "--version", "--config", "--check-config", *_spellings()]
    nearest = difflib.get_close_matches(flag, known, 1)
    return f"there is no option {escape(flag)}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _spellings() -> dict[str, str]:
    """Give the option of each flag."""
    found: dict[str, str] = {}
    for name, option in OPTIONS.items():
        for flag in _flags(name, option):
            found |= {flag: name, f"--no-{flag[2:]}": name} if option.negatable else {flag: name}
    return found


def _typed(words: Sequence[str]) -> dict[str, str]:
    """Give the flag that each option was given with; of several the last, which counts."""
    spellings = _spellings()
    flags = (word.partition("=")[0] for word in takewhile("--".__ne__, words))
    return {spellings[flag]: flag for flag in flags if flag in spellings}


def _flags(name: str, option: Option) -> list[str]:
    return [spelled(name), *(f"--{alias}" for alias in option.aliases)]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if value in ("", -1):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
