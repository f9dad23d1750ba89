"""The commands beside serving: `asgiws top`, the live view in a terminal, and `asgiws health`, for health checks.

Both ask an admin address: the one that is given, or that of the options (`--admin`, `ASGIWS_ADMIN`). A reader that has
gone (`asgiws top --once | head -3`) has seen enough, and is no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from asgiws.admin.client import AdminClient, Unreachable
from asgiws.admin.view import view_lines
from asgiws.config.addresses import check_address
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.telemetry.scoreboard import Status

__all__ = ["COMMANDS", "run_command"]

COMMANDS: Final = ("top", "health")

_FAILED: Final = 1
_USAGE: Final = 2
_SIGNALLED: Final = 128
"""And the number of the signal, as a shell has it."""
_REFRESH_S: Final = 1.0
_WHOLE_VIEW: Final = 10_000
_LINE_MOST: Final = 4096

# ECMA-48 and xterm: the other screen and no cursor, and back; home, end of line, end of screen
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_SHOW_CURSOR, _HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
_HELP: Final = "q: quit   c: close a connection"


def run_command(name: str, words: Sequence[str], load: Callable[[Mapping[str, object]], Config]) -> int:
    """Run `top` or `health`; gives the exit code. `load` makes the options from flags and whatever else there is."""
    arguments = _parser(name).parse_args(words)
    given = {"admin": arguments.address or arguments.admin, "admin_token": arguments.admin_token}
    flags = {key: value for key, value in given.items() if value}
    try:
        config = load(flags)
    except OptionError as error:
        return _fail(_USAGE, str(error))
    if not config.admin:
        return _fail(_USAGE, f"no admin address was given: asgiws {name} ADDRESS, --admin or ASGIWS_ADMIN")
    client = AdminClient(config.admin, config.admin_token)
    try:
        if name == "health":
            ready, said = client.is_ready()
            _print(said)
            return 0 if ready else _FAILED
        return _show_once(client) if arguments.once or not sys.stdout.isatty() else _show(client)
    except Unreachable as error:
        return _fail(_FAILED, str(error))
    except KeyboardInterrupt:
        return 0
    except _ToldToEnd as told:
        return _SIGNALLED + told.number


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {message} ({self.prog} --help lists what it takes)\n")


def _parser(name: str) -> argparse.ArgumentParser:
    about = {
        "top": "Show connections, rates and workers of a running server, each second.",
        "health": "Exit with 0 when a running server is ready, else with 1.",
    }
    parser = _Parser(prog=f"asgiws {name}", description=about[name], allow_abbrev=False)
    parser.add_argument("address", metavar="ADDRESS", nargs="?", type=_address, help="HOST:PORT or unix:/path")
    parser.add_argument("--admin", metavar="ADDRESS", type=_address, help="the same")
    parser.add_argument("--admin-token", metavar="TOKEN", help="its token; better in ASGIWS_ADMIN_TOKEN")
    if name == "top":
        parser.add_argument("--once", action="store_true", help="print one view and end")
    return parser


def _address(text: str) -> str:
    allowed = check_address(text)
    if allowed is not None or text.startswith("fd:"):
        raise argparse.ArgumentTypeError(f"{text!r} was given, allowed: HOST:PORT, [::1]:PORT or unix:/path")
    return text


def _fail(code: int, message: str) -> int:
    print(f"asgiws: {message}", file=sys.stderr)  # noqa: T201
    return code


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201 - the command line's voice
    except BrokenPipeError:
        # What is left in the buffer is written at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# ---- top


def _show_once(client: AdminClient) -> int:
    """Print one view, with the rates of a second, without control sequences."""
    before, began_s = client.status(), time.monotonic()
    time.sleep(_REFRESH_S)
    status = client.status()
    lines = view_lines(
        status, before, time.monotonic() - began_s, width=_WHOLE_VIEW, height=_WHOLE_VIEW, rows=10
    )  # fmt: skip
    _print("\n".join(lines))
    return 0


def _show(client: AdminClient) -> int:
    """Refresh a terminal each second until the operator has seen enough."""
    status, at_s = client.status(), time.monotonic()
    terminal = _Terminal()
    note = ""
    before: Status | None = None
    before_s = at_s
    try:
        terminal.enter()
        while True:
            terminal.draw(status, before, at_s - before_s, note)
            key = terminal.wait_key(_REFRESH_S)
            if key == "q":
                return 0
            note = ""
            try:
                if key == "c":
                    words = terminal.ask("close which connection, and with which code (ID [CODE]): ").split()
                    if words:
                        note = client.close_connection(words[0], words[1] if len(words) > 1 else "1000")
                newer = client.status()
                before, before_s = status, at_s
                status, at_s = newer, time.monotonic()
            except Unreachable as error:
                note = str(error)
    finally:
        terminal.leave()


class _ToldToEnd(BaseException):
    """A signal came that ends a process; not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Terminal:
    """The operator's terminal, which is as it was when this is over, also when a signal ends it."""

    def __init__(self) -> None:
        self._has_keys = sys.stdin.isatty()
        self._modes = termios.tcgetattr(sys.stdin) if self._has_keys else []
        self._handlers: dict[int, Any] = {}

    def enter(self) -> None:
        """Take the other screen, and keys as they are pressed."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                self._handlers[number] = signal.signal(number, self._on_signal)
        if self._has_keys:
            tty.setcbreak(sys.stdin)
        self._write(_ENTER)

    def leave(self) -> None:
        """Give the screen back, if it is still there."""
        with contextlib.suppress(OSError, termios.error):
            self._write(_LEAVE)
            self._restore()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def draw(self, status: Status, before: Status | None, seconds: float, note: str) -> None:
        """Show a status, with a note below."""
        width, height = shutil.get_terminal_size()
        lines = view_lines(status, before, seconds, width=width, height=height - 2)
        lines += [""] * (height - 2 - len(lines))
        lines.append((note or _HELP)[:width])
        self._write(_HOME + "".join(f"{line}{_END_OF_LINE}\r\n" for line in lines) + _END_OF_SCREEN)

    def wait_key(self, seconds: float) -> str:
        """Wait for a key, but not longer; gives it, or nothing."""
        if not self._has_keys:
            time.sleep(seconds)
            return ""
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        # Past the buffer of `sys.stdin`, which would hold what `select` looks for
        return os.read(sys.stdin.fileno(), 1).decode("latin-1") if readable else ""

    def ask(self, question: str) -> str:
        """Ask for a line, in the last one of the screen."""
        self._restore()
        self._write(_SHOW_CURSOR + question)
        try:
            # Not `input`, in which a signal that comes as it begins to read waits for a line.
            while not select.select([sys.stdin], [], [], _REFRESH_S)[0]:
                pass
            return os.read(sys.stdin.fileno(), _LINE_MOST).decode("utf-8", "replace")
        finally:
            self._write(_HIDE_CURSOR)
            tty.setcbreak(sys.stdin)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for each in self._handlers:
            signal.signal(each, signal.SIG_IGN)  # a second one must not keep the first from being obeyed
        raise _ToldToEnd(number)

    def _restore(self) -> None:
        if self._has_keys:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
