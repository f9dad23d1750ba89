"""When a process has served enough: after so many requests, for so long, or at such a size.

For applications that leak, and for connections that have to spread anew. Looked at once a second by the sweep. What
happens then is not decided here: a worker is replaced by its supervisor, a process of its own stops, and whoever
started it starts the next. A limit that a fresh process exceeds already would have it replaced for ever: that of memory
is raised then, and the time is counted from the moment when the process serves.
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

# So that workers that began together do not end together
_LIFETIME_SPREAD: Final = 0.1
# Of what a fresh process takes, when the limit is below that
_MEMORY_GROWTH: Final = 2
_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Give the resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Recycling:
    """The limits of one process, with its own share of chance. It serves from now on."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        jitter = random.randint(0, config.max_requests_jitter)  # noqa: S311 - not a secret
        self._requests = config.max_requests + jitter if config.max_requests else 0
        self._memory_bytes = config.worker_memory
        spread = 1 - _LIFETIME_SPREAD * random.random()  # noqa: S311
        self._until_s = clock() + config.worker_lifetime * spread if config.worker_lifetime else 0.0

    def spare_fresh(self) -> None:
        """Raise a limit of memory that is below what the process takes now, when it is fresh."""
        if self._memory_bytes and (resident := resident_bytes()) >= self._memory_bytes:
            limit, self._memory_bytes = self._memory_bytes, _MEMORY_GROWTH * resident
            LOG.warning(
                "a fresh process takes %d bytes, limit %d (--worker-memory): that is too low, %d is taken instead",
                resident, limit, self._memory_bytes,
            )  # fmt: skip

    def due(self, counters: Counters) -> str:
        """Say why the process has served enough; empty when it has not."""
        served = counters.http_requests + counters.websockets_accepted
        if self._requests and served >= self._requests:
            return f"served {served} requests and WebSockets, limit {self._requests} (--max-requests)"
        if self._until_s and self._clock() >= self._until_s:
            return "served for its time (--worker-lifetime)"
        if self._memory_bytes and (resident := resident_bytes()) >= self._memory_bytes:
            return f"takes {resident} bytes, limit {self._memory_bytes} (--worker-memory)"
        return ""
