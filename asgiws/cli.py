"""The command line: from flags, environment and files to a running server.

Exit codes: 0 after a stop, 1 when the server could not start, 2 for a usage error, 3 when the application said that it
cannot start. Each error is one line on standard error; a traceback is always the application's own.
`--check-config` shows the options and finds what serving would refuse, with the same codes, as far as possible without
binding an address, starting the application's lifespan or changing a file.
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
from asgiws.config.help import PROGRAM_FLAGS, flags_of, make_help
from asgiws.config.option import OptionError
from asgiws.config.options import OPTIONS, Config
from asgiws.config.other_servers import instead_of
from asgiws.config.sources import Settings
from asgiws.protocol.printable import escape
from asgiws.runner.exit_codes import CANNOT_START, USAGE, fail
from asgiws.runner.loops import loop_factory
from asgiws.runner.process import take_process
from asgiws.runner.signals import Terminal, existing
from asgiws.runner.systemd import inherited_addresses
from asgiws.runner.versions import describe_installation
from asgiws.runner.watchdog import leave
from asgiws.telemetry.logging_setup import configure, say
from asgiws.telemetry.logs import LOG
from asgiws.topics.brokers.factory import check_broker
from asgiws.workers.start import check, start

__all__ = ["execute", "main", "make_parser"]

_HINT: Final = "(asgiws --help all lists the options)"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are raised as OptionError."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message} {_HINT}")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser, made from the table of options; help is written by `asgiws.config.help`."""
    parser = _Parser(prog="asgiws", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("app", nargs="?")
    parser.add_argument("-h", "--help", nargs="?", const="")
    parser.add_argument("--config")
    for flag in ("--version", "--verbose", "--check-config"):
        parser.add_argument(flag, action="store_true")
    for name, option in OPTIONS.items():
        if option.negatable:
            parser.add_argument(*flags_of(option), dest=name, action=argparse.BooleanOptionalAction)
        else:
            action = "append" if option.kind == "list" else "store"
            parser.add_argument(*flags_of(option), dest=name, action=action)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line as the program of this process; return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    _prepare_process()
    try:
        if words and words[0] in COMMANDS:
            return leave(run_command(words[0], words[1:], lambda flags: Settings.load(flags, os.environ).config))
        _hold_signals()
        return leave(execute(words))
    except KeyboardInterrupt:
        return leave(fail(CANNOT_START, "interrupted before the application was served"))


def _prepare_process() -> None:
    """Keep closed standard streams from harming the process."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        # Otherwise a socket would become standard error, of this process and of its workers.
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _hold_signals() -> None:
    """Handle signals that would end or suspend the process before it serves."""
    with contextlib.suppress(ValueError):  # not in the main thread
        # Programs that rotate logs or renew certificates may send these while the application is imported. Files are
        # read after that anyway.
        for number in existing("SIGUSR1"):
            signal.signal(number, lambda number, frame: None)
        terminal = Terminal()
        for number in existing("SIGHUP"):
            signal.signal(number, lambda number, frame: _end() if terminal.has_gone() else None)
        # With workers they add or remove one; their default action suspends the process until SIGCONT.
        for number in existing("SIGTTIN", "SIGTTOU"):
            signal.signal(number, signal.SIG_IGN)


def _end() -> NoReturn:
    raise KeyboardInterrupt


def execute(words: Sequence[str]) -> int:
    """Serve, check the options, or print help, as the arguments say; return the exit code."""
    try:
        parser = make_parser()
        known, unknown = parser.parse_known_args(words)
        if "help" in known:
            return _print(make_help(COMMANDS, everything=known.help == "all"))
        if "version" in known:
            return _print(describe_installation() if "verbose" in known else f"asgiws {__version__}")
        if unknown or "verbose" in known:
            parser.error(_not_taken(unknown or ["--verbose"]))
        options = _Options(vars(known), _typed(words))
        settings = options.load()
        loop_factory(settings.config.loop)
        check_broker(settings.config)
        check_only = "check_config" in known
        configure(_without_log_file(settings.config) if check_only else settings.config)
    except OptionError as error:
        return fail(USAGE, str(error))
    for warning in settings.warnings:
        say(warning, level=logging.WARNING)
    if check_only:
        _print(settings.listing())
    if not settings.app:
        return fail(USAGE, f"no application was given, allowed: module:attribute, such as app:app {_HINT}")
    if check_only:
        return check(settings.app, settings.config)
    # `--bind fd:3` or `--fd 3` may name one of them already.
    config = settings.config
    inherited = [text for text in inherited_addresses(os.environ) if text not in (*config.bind, f"fd:{config.fd}")]
    config = dataclasses.replace(config, bind=(*config.bind, *inherited))
    take_process()
    return start(settings.app, config, options.load_again)


def _print(text: str) -> int:
    """Print help, the version or a check; return the exit code."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        # `| head`, or a pager that was quit. The interpreter writes the rest when it ends, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _without_log_file(config: Config) -> Config:
    """Return the options with logs on standard error. Raises OptionError when the file could not be appended to."""
    path = Path(config.log_file)
    try:
        if config.log_file and not path.is_fifo():  # opening a FIFO waits for its reader
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
    """The options of this process: read at the start, and again for a rolling restart."""

    def __init__(self, flags: Mapping[str, object], typed: Mapping[str, str]) -> None:
        self._flags = flags
        self._typed = typed
        self._environ = dict(os.environ)
        self._added: frozenset[str] = frozenset()
        """Variables that were set from the env file."""

    def load(self) -> Settings:
        """Read all sources and set the variables of the env file. Raises OptionError."""
        settings = Settings.load(self._flags, self._environ, self._typed)
        for name in self._added - settings.environment.keys():
            os.environ.pop(name, None)
        os.environ.update(settings.environment)
        self._added = frozenset(settings.environment)
        return settings

    def load_again(self) -> Config:
        """Read all sources while the server runs. Raises OptionError, and then nothing has changed."""
        settings = self.load()
        for warning in settings.warnings:
            LOG.warning("%s", warning)
        return settings.config


def _not_taken(words: Sequence[str]) -> str:
    """Return the error for unknown arguments, with what to write instead."""
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if flag is None:
        return f"{words[0]!r} was given after the application, allowed: one module:attribute, and options"
    instead = instead_of(flag)
    if not instead and flag.startswith("--"):
        nearest = difflib.get_close_matches(flag, [*PROGRAM_FLAGS, *_spellings()], 1)
        instead = f"did you mean {nearest[0]}?" if nearest else ""
    return f"there is no option {escape(flag)}" + (f"; {instead}" if instead else "")


def _spellings() -> dict[str, str]:
    """Return the name of the option for each flag."""
    found: dict[str, str] = {}
    for name, option in OPTIONS.items():
        for flag in flags_of(option):
            found |= {flag: name, f"--no-{flag[2:]}": name} if option.negatable else {flag: name}
    return found


def _typed(words: Sequence[str]) -> dict[str, str]:
    """Return the spelling that each option was given with; the last one if there are several."""
    spellings = _spellings()
    flags = (word.partition("=")[0] for word in takewhile("--".__ne__, words))
    return {spellings[flag]: flag for flag in flags if flag in spellings}
