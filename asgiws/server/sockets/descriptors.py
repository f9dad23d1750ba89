"""File descriptors of this process: how many may be open, and how many are. Each connection takes one."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["descriptor_limit", "open_descriptors"]

_FOLDER: Final = "/proc/self/fd"


def descriptor_limit() -> int:
    """Return the soft limit of open files; -1 for none."""
    try:
        import resource
    except ImportError:  # not POSIX
        return -1
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def open_descriptors() -> int:
    """Return the number of open descriptors; 0 where the system does not show them."""
    try:
        # Since Linux 6.2 the size of the folder is the number; before that, listing it is O(descriptors).
        return os.stat(_FOLDER).st_size or len(os.listdir(_FOLDER))
    except OSError:
        return 0
