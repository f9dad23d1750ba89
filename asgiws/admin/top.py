"""`asgiws top`: the live view in a terminal, drawn with curses, or printed once without it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from asgiws.admin.client import AdminClient, Unreachable
from asgiws.admin.view import Filter, view_lines
from asgiws.protocol.printable import escape
from asgiws.telemetry.scoreboard import Status

if TYPE_CHECKING:
    import curses

__all__ = ["Signalled", "print_once", "show"]

_REFRESH_S: Final = 1.0
_HELP: Final = "q: quit   c: close a connection   f: filter connections"


class Signalled(BaseException):
    """A signal that ends the process; like KeyboardInterrupt, not an Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def print_once(client: AdminClient, chosen: Filter) -> str:
    """Return one view, with the rates of a second, as lines without control sequences."""
    before, began_s = client.status(chosen), time.monotonic()
    time.sleep(_REFRESH_S)
    status = client.status(chosen)
    seconds = time.monotonic() - began_s
    return "\n".join(view_lines(status, before, seconds, width=None, height=None, chosen=chosen))


def show(client: AdminClient, chosen: Filter) -> None:
    """Refresh the terminal each second until the operator quits. Raises Unreachable, Signalled or KeyboardInterrupt."""
    status, at_s = client.status(chosen), time.monotonic()
    before: Status | None = None
    before_s, note = at_s, ""
    with _raising_signals(), _screen() as screen:
        while True:
            height, width = screen.getmaxyx()
            lines = view_lines(status, before, at_s - before_s, width=width, height=height - 1, chosen=chosen)
            _draw(screen, lines, note or _HELP)
            key, note = _checked(screen.getch()), ""
            try:
                if key == ord("q"):
                    return
                if key == ord("c"):
                    words = _ask(screen, "close which connection, and with which code (ID [CODE]): ").split()
                    note = client.close_connection(words[0], words[1] if len(words) > 1 else "1000") if words else ""
                elif key == ord("f"):
                    path = _ask(screen, "path, such as /chat or /chat/* (empty: all): ")
                    chosen = Filter(path, _ask(screen, "client, such as 192.0.2.7 or 10.0.0.0/8 (empty: all): "))
                newer = client.status(chosen)
                before, before_s = status, at_s
                status, at_s = newer, time.monotonic()
            except Unreachable as error:
                note = str(error)


@contextmanager
def _screen() -> Iterator[curses.window]:
    """Take the terminal, and restore it however this ends. Raises Unreachable when curses cannot use it."""
    try:
        import curses  # not in every build of Python
    except ImportError:
        raise Unreachable("this Python has no curses; asgiws top --once prints one view") from None
    term = os.environ.get("TERM", "")
    try:
        curses.setupterm()
        moves_cursor = bool(curses.tigetstr("cup"))
    except curses.error:
        moves_cursor = False
    if not moves_cursor:  # curses would end the process, or draw a view that scrolls
        raise Unreachable(
            f"cannot draw on a terminal with TERM={escape(term)!r}, allowed: one that terminfo has and that moves its "
            "cursor, such as xterm or vt100; asgiws top --once prints one view"
        )
    screen = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        _show_cursor(visible=False)
        screen.timeout(round(_REFRESH_S * 1000))
        yield screen
    finally:
        _show_cursor(visible=True)
        with suppress(curses.error):  # the terminal has gone
            curses.endwin()


def _show_cursor(*, visible: bool) -> None:
    import curses

    with suppress(curses.error):  # some terminals cannot hide it
        curses.curs_set(int(visible))


def _draw(screen: curses.window, lines: list[str], note: str) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for row, line in enumerate([*lines[: height - 1], *[""] * (height - 1 - len(lines)), note]):
        screen.insnstr(row, 0, line, width)  # unlike addstr, it can write the last cell
    screen.refresh()


def _ask(screen: curses.window, question: str) -> str:
    """Ask for a line in the last row of the screen."""
    import curses
    from curses import ascii as keys
    from curses.textpad import Textbox

    height, width = screen.getmaxyx()
    screen.move(height - 1, 0)
    screen.clrtoeol()
    screen.insnstr(height - 1, 0, question, width)
    screen.refresh()
    line = curses.newwin(1, max(1, width - len(question)), height - 1, min(len(question), width - 1))
    line.timeout(round(_REFRESH_S * 1000))  # so that a signal is handled meanwhile
    line.keypad(True)
    _show_cursor(visible=True)
    try:
        return Textbox(line).edit(lambda key: {-1: 0, keys.DEL: keys.BS}.get(_checked(key), key)).strip()
    finally:
        _show_cursor(visible=False)


def _checked(key: int) -> int:
    """Return a key, or -1 where a second brought none. Raises Signalled when the terminal has gone.

    It has no key then, at once and for ever, and SIGHUP does not come to every process: not under nohup, for example.
    """
    if key == -1 and not os.isatty(0):
        raise Signalled(getattr(signal, "SIGHUP", signal.SIGTERM))
    return key


@contextmanager
def _raising_signals() -> Iterator[None]:
    """Raise Signalled for SIGTERM and SIGHUP, unless they are ignored (nohup), so that the terminal is restored."""
    both = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    numbers = [number for number in both if signal.getsignal(number) != signal.SIG_IGN]

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt the end
        raise Signalled(number)

    before: dict[int, Any] = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
