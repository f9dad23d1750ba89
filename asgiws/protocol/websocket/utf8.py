"""Text that arrives in pieces: checked as it arrives, and decoded at the same time if it is not too large."""

from __future__ import annotations

import codecs
import io
from typing import Final

__all__ = ["DECODED_MOST_BYTES", "TextReader"]

DECODED_MOST_BYTES: Final = 1024 * 1024
"""A text of at most so many bytes may be decoded as it arrives, which takes up to 5 bytes for each. The bytes of a
larger one are kept: it is decoded once for the check and once for the application."""


class TextReader:
    """One text message. RFC 6455 §8.1: it fails at the first byte that is not UTF-8, wherever it was cut."""

    __slots__ = ("_partial", "_text")

    def __init__(self, keep: bool) -> None:
        """With `keep`, keep the decoded text for `text`; else only check it."""
        self._partial = b""
        """The first bytes of an incomplete character."""
        self._text = io.StringIO() if keep else None

    @property
    def keeps(self) -> bool:
        """Whether the decoded text is kept."""
        return self._text is not None

    @property
    def size(self) -> int:
        """How many characters are kept."""
        return self._text.tell() if self._text is not None else 0

    def feed(self, chunk: bytes, final: bool = False) -> bool:
        """Add the next piece, `final` when no other follows; return whether it is UTF-8."""
        if self._partial:
            chunk = self._partial + chunk
        try:
            text, used = codecs.utf_8_decode(chunk, "strict", final)
        except UnicodeDecodeError:
            return False
        self._partial = rest = chunk[used:]
        if self._text is not None:
            self._text.write(text)
        # CPython waits for the third byte of a surrogate, which no byte makes UTF-8 (RFC 3629 §4)
        return not b"\xed\xa0" <= rest < b"\xee"

    def finish(self) -> bool:
        """End the message; return whether its last character is complete."""
        return not self._partial or self.feed(b"", final=True)

    def text(self) -> str:
        """Return the decoded text."""
        assert self._text is not None
        return self._text.getvalue()
