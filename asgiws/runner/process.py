"""Limits of the process. Only the command and its workers change them; `asgiws.run` in another program must not."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

from asgiws.runner.garbage import space_full_collections
from asgiws.runner.versions import report_missing_c_module
from asgiws.server.sockets.descriptors import descriptor_limit
from asgiws.telemetry.logs import LOG

__all__ = ["log_listening", "take_process"]

# Programs that the application starts inherit the limit, and some of them close every possible descriptor one by one.
_DESCRIPTORS_MOST: Final = 1024 * 1024

# mallopt(3), <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_MOST_BYTES: Final = 16 * 1024 * 1024
_KEPT_BLOCK_BYTES: Final = 4 * 1024 * 1024


def take_process() -> None:
    """Prepare this process, and those that it starts, for many connections and large messages."""
    _raise_descriptor_limit()
    _keep_freed_memory()
    space_full_collections()


def log_listening(status: str, loop: str) -> None:
    """Log that a server listens, with its event loop, how many files it may open, and what it lacks."""
    limit = descriptor_limit()
    LOG.info("%s (%s, %s open files)", status, loop, f"up to {limit}" if limit >= 0 else "unlimited")
    report_missing_c_module()


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit: each connection takes a descriptor."""
    try:
        import resource
    except ImportError:  # not POSIX, and no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_MOST if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keep_freed_memory() -> None:
    """Let the C library keep up to 16 MiB of freed memory for the next message, in blocks of up to 4 MiB.

    It would return most of it to the system at once, and each page of a large message would be a page fault again: on
    a virtual machine of 2026 that is half of the time in which 64 KiB are posted or 1 MiB is echoed. Only glibc has
    this call; other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_MOST_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
