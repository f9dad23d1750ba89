"""Probes: messages of a worker to itself, which show that the way through the broker is whole.

Everything is counted in ticks of a second and not by the clock: a loop that was blocked has not read the answer yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["SILENT_TICKS", "Probes"]

_PERIOD_TICKS: Final = 10
SILENT_TICKS: Final = 5
"""After a probe, this long without any message means that the connection is lost."""
# While other messages come, as behind a large backlog
_UNANSWERED_TICKS: Final = 30


class Probes:
    """The probes of one session."""

    def __init__(self) -> None:
        self.number = 0
        self.sent_s = 0.0
        """When the last one was sent."""
        self.heard = False
        """Whether any message came since the last tick."""
        self._topics: set[str] = set()
        """Where it did not come back yet."""
        self._silent_ticks = 0
        self._ticks = 0
        """Since the last one was sent."""

    def begin(self, now_s: float, topics: Sequence[str]) -> bytes:
        """Begin the next one; return its payload."""
        self.number += 1
        self.sent_s, self._topics = now_s, set(topics)
        self._silent_ticks = self._ticks = 0
        return str(self.number).encode()

    def take(self, topic: str, payload: bytes) -> bool:
        """Note that it came back on a topic; return whether it has now come back on all."""
        if payload != str(self.number).encode() or topic not in self._topics:
            return False
        self._topics.discard(topic)
        return not self._topics

    def tick(self) -> None:
        """Let a second pass."""
        self._silent_ticks = 0 if self.heard else self._silent_ticks + 1
        self.heard = False
        self._ticks += 1

    @property
    def is_unanswered(self) -> bool:
        """Whether the last one did not come back in time."""
        return bool(self._topics) and (self._silent_ticks > SILENT_TICKS or self._ticks > _UNANSWERED_TICKS)

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return not self._topics and self._ticks >= _PERIOD_TICKS
