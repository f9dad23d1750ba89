"""Text from a peer or an application as printable ASCII, safe in log lines and messages."""

from __future__ import annotations

from typing import Final

__all__ = ["MOST_CHARACTERS", "counted", "escape", "printable"]

MOST_CHARACTERS: Final = 2048
"""Of one value in a line."""


def escape(value: str | bytes) -> str:
    """Return text as printable ASCII without quotes: control, quote, backslash and 8-bit characters are escaped."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    cut = text[:MOST_CHARACTERS]
    if not cut.isascii() or not cut.isprintable() or '"' in cut or "\\" in cut:
        cut = cut.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return cut if len(text) <= MOST_CHARACTERS else cut + "..."


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return text as one line of printable ASCII that keeps its quotes and backslashes, as source code has them."""
    cut = text[:most]
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(
            character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
            for character in cut
        )
    return cut if len(text) <= most else cut + "..."


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: "1 request", "2 requests"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
