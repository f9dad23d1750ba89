"""When clients should return that are refused, or that a stop disconnects: each at a random time of its own.

Clients that were refused together and return together would be refused together again. HTTP has a field for the time,
`Retry-After` (RFC 9110 §10.2.3). A browser's page cannot read it, only the code and reason of a Close; so it is in the
reason, as `retry-after=7`.
"""

from __future__ import annotations

import random

__all__ = ["choose_retry_after", "with_retry_after"]


def choose_retry_after(window_s: float) -> int:
    """Return a random number of whole seconds, from 1 to the window (`--retry-after`)."""
    return random.randint(1, max(1, int(window_s)))  # noqa: S311 - not a secret


def with_retry_after(reason: str, seconds: int) -> str:
    """Return the reason of a Close with the hint that the client should return after so many seconds."""
    return f"{reason} retry-after={seconds}"
