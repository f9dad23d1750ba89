"""The help of the command line, written from the table of options.

`--help` is one screen: the options that people set in their first year. `--help all` has every option, with every other
spelling of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from asgiws.config.option import Option, spelled
from asgiws.config.options import OPTIONS, Config

__all__ = ["PROGRAM_FLAGS", "flags_of", "make_help"]

PROGRAM_FLAGS: Final = {
    "--help": ("[all]", "Show these options, or all"),
    "--version": ("", "Show the version; --version --verbose shows more"),
    "--config": ("FILE", "TOML file of options [pyproject.toml, tool.asgiws]"),
    "--check-config": ("", "Show each option and its origin, import the app"),
}
"""Flags that are no options of the server: their placeholders and help."""

_WIDTH: Final = 80
_USAGE: Final = """\
usage: asgiws [options] module:attribute
       asgiws {commands} [address]

The ASGI server for WebSocket applications.
"""
_END: Final = """\
Defaults are in brackets. Precedence: flag, environment, file, default.
--max-queue is ASGIWS_MAX_QUEUE and max_queue there. Units: 64k, 16MiB, 30s, 5m."""


def flags_of(option: Option) -> tuple[str, ...]:
    """Return every spelling of the option's flag, without its `--no-` form; the first is its name."""
    return spelled(option.name), *(f"--{alias}" for alias in option.aliases)


def make_help(commands: Iterable[str], *, everything: bool) -> str:
    """Return the help: the common options on one screen, or every option, below the names of other commands."""
    column = 32 if everything else 29
    lines = [*_USAGE.format(commands="|".join(commands)).splitlines(), ""]
    for flag, (placeholder, text) in PROGRAM_FLAGS.items():
        lines += _row(f"{flag} {placeholder}", text, column)
    defaults, group = Config(), ""
    for name, option in OPTIONS.items():
        if not (everything or option.common):
            continue
        if option.group != group:
            group = option.group
            lines += ["", f"{group}:"] if everything else [f"{group}:"]
        repeatable = "; repeatable" if everything and option.kind == "list" else ""
        default = option.describe_default(getattr(defaults, name))
        if not everything:
            default = default.partition(";")[0]
        lines += _row(_left(option, everything=everything), f"{option.help}{repeatable} [{default}]", column)
    return "\n".join([*lines, "", _END])


def _left(option: Option, *, everything: bool) -> str:
    flags: Iterable[str] = flags_of(option) if everything else (spelled(option.name),)
    if option.negatable and (everything or option.kind != "flag" or getattr(Config(), option.name)):
        flags = (f"--[no-]{flag[2:]}" for flag in flags)
    return f"{', '.join(flags)} {option.placeholder}"


def _row(left: str, text: str, column: int) -> Iterator[str]:
    """Yield the lines of one option: what is typed on the left, what it does from `column` on."""
    indent = " " * column
    lines = textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    left = f"  {left.strip()}"
    if len(left) < column - 1:
        lines[0] = left.ljust(column) + lines[0].lstrip()
    else:
        yield left
    yield from lines
