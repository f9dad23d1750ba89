"""What this platform has. Without POSIX (Windows) one process serves on TCP, with `--reload` and TLS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

__all__ = ["POSIX", "TCP_ALONE", "beyond_platform"]

POSIX: Final = hasattr(os, "fork")
"""Whether descriptors can be passed to processes, and signals and Unix sockets exist."""
TCP_ALONE: Final = (
    "one process on TCP addresses; workers, Unix sockets and sockets by descriptor need POSIX (Linux, macOS)"
)


def beyond_platform(workers: int, uds: str, fd: int, admin: str, bind: Sequence[str]) -> tuple[str, object] | None:
    """Return the name and value of an option that this platform cannot serve; None if there is none."""
    given: dict[str, tuple[object, bool]] = {
        "workers": (workers, workers > 0),
        "uds": (uds, uds != ""),
        "fd": (fd, fd >= 0),
        "admin": (admin, admin.startswith("unix:")),
        "bind": (bind, any(address.startswith(("unix:", "fd:")) for address in bind)),
    }
    return next(((name, value) for name, (value, needs) in given.items() if needs and not POSIX), None)
