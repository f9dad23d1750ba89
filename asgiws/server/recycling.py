"""When a process is replaced: after a number of requests, after a time, or above a size.

For applications that leak memory, and to spread long-lived connections again. Checked once a second. Others
decide what happens then: a supervisor replaces its worker; a process without one stops, and its service manager starts
the next. A limit that a fresh process already exceeds would replace it again and again: so a memory limit below that is
raised, and the time counts from the moment when the process serves.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asgiws.config.options import Config
from asgiws.telemetry.counters import Counters
from asgiws.telemetry.logs import LOG

__all__ = ["Recycling", "resident_bytes"]

# So that workers that started together are not replaced together
_LIFETIME_SPREAD: Final = 0.1
# Times the size of a fresh process, when the limit is below that size
_MEMORY_GROWTH: Final = 2
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not show it."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Recycling:
    """The limits of one process, each with its random part. The time counts from here."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        jitter = random.randint(0, config.max_requests_jitter)  # noqa: S311 - not a secret
        self._requests = config.max_requests + jitter if config.max_requests else 0
        self._memory_bytes = config.worker_memory
        spread = 1 - _LIFETIME_SPREAD * random.random()  # noqa: S311
        self._until_s = clock() + config.worker_lifetime * spread if config.worker_lifetime else 0.0

    def spare_fresh(self) -> None:
        """Raise a memory limit that is below the present size of the process, which is fresh."""
        if self._memory_bytes and (resident := resident_bytes()) >= self._memory_bytes:
            limit, self._memory_bytes = self._memory_bytes, _MEMORY_GROWTH * resident
            LOG.warning(
                "a fresh process takes %d bytes, limit %d (--worker-memory): that is too low, using %d",
                resident, limit, self._memory_bytes,
            )  # fmt: skip

    def due(self, counters: Counters) -> str:
        """Return why the process is to be replaced; empty when it is not."""
        served = counters.http_requests + counters.websockets_accepted
        if self._requests and served >= self._requests:
            return f"served {served} requests and WebSockets, limit {self._requests} (--max-requests)"
        if self._until_s and self._clock() >= self._until_s:
            return "served for its time (--worker-lifetime)"
        if self._memory_bytes and (resident := resident_bytes()) >= self._memory_bytes:
            return f"takes {resident} bytes, limit {self._memory_bytes} (--worker-memory)"
        return ""
