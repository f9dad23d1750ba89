"""The last fifteen minutes of a server, for the plots of the live view.

A sample is taken every five seconds, whether or not a page is open, so that a page opened after an incident still shows
it. The samples are differences of two statuses (`asgiws.telemetry.scoreboard`); the oldest are dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Final

from asgiws.admin.source import Source
from asgiws.telemetry.scoreboard import Status

__all__ = ["ENDED_BY", "History", "make_sample"]

ENDED_BY: Final = ("client", "app", "server", "admin")
_EVERY_S: Final = 5.0
_SAMPLES: Final = 180

Sample = dict[str, Any]


class History:
    """The samples of one server."""

    def __init__(self, source: Source, every_s: float = _EVERY_S) -> None:
        self._source = source
        self._every_s = every_s
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self.count = 0
        """Samples taken so far, including the dropped ones."""

    async def keep(self) -> None:
        """Take samples until cancelled."""
        before, before_s = self._source.status(), time.monotonic()
        while True:
            await asyncio.sleep(self._every_s)
            status, now_s = self._source.status(), time.monotonic()
            self._samples.append(make_sample(status, before, now_s - before_s) | {"at": round(time.time())})
            self.count += 1
            before, before_s = status, now_s

    def since(self, count: int) -> list[Sample]:
        """Return the samples after the first `count` ones, as far as they are kept."""
        new = self.count - count
        return list(self._samples)[-new:] if new > 0 else []


def make_sample(status: Status, before: Status, seconds: float) -> Sample:
    """Return what is plotted for the time between two statuses: rates are per second, the lag is the largest."""
    counts, earlier = status["counts"], before["counts"]

    def rate(key: str, label: str = "") -> float:
        now, then = (sum(n for name, n in each[key].items() if label in ("", name)) for each in (counts, earlier))
        return float(round((now - then) / seconds, 3))

    closes = dict.fromkeys(ENDED_BY, 0)
    for labels, count in counts["websocket_closes"].items():
        by = labels.partition(":")[0]
        closes[by] = closes.get(by, 0) + count - earlier["websocket_closes"].get(labels, 0)
    return {
        "websockets": status["levels"]["connections"]["websocket"],
        "messages_in": rate("websocket_messages", "in"),
        "messages_out": rate("websocket_messages", "out"),
        "handshakes": rate("websocket_handshakes"),
        "requests": rate("http_requests"),
        "published": rate("topic_published"),
        "delivered": rate("topic_delivered"),
        "closes": {by: round(count / seconds, 3) for by, count in closes.items()},
        "lag_s": round(_largest_lag(status, before), 6),
    }


def _largest_lag(status: Status, before: Status) -> float:
    """Return the largest lag that is known: that of the latest sweeps, or the lower bound of the highest new value."""
    histogram, earlier = status["histograms"]["event_loop_lag"], before["histograms"]["event_loop_lag"]
    new = [now > then for now, then in zip(histogram["counts"], earlier["counts"], strict=True)]
    least = max((bound for bound, is_new in zip((0.0, *histogram["bounds"]), new, strict=True) if is_new), default=0.0)
    return float(max(least, *(worker["lag_s"] for worker in status["workers"]), 0.0))
