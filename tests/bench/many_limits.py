"""The limits of the system that so many sockets reach, checked before anything is opened."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

from tests.bench.extra import NotPossible

_SPARE_FILES: Final = 1000
_SOCKET_BYTES: Final = 30 * 1024
"""Of a socket with its client, in the kernel and in both processes: 22 KiB were seen, in a rolling restart."""


def processes_for(sockets: int) -> int:
    """Return how many processes so many sockets need. Raises NotPossible when a limit is too low."""
    for left, needed, what in (
        (_left_of_files(), 2 * sockets + _SPARE_FILES, "open files of the system are left (fs.file-max)"),
        (_free_bytes() >> 20, sockets * _SOCKET_BYTES >> 20, "MiB of memory are free"),
        (_tcp_pages(), 2 * sockets, "pages of memory are allowed for TCP (net.ipv4.tcp_mem)"),
        (_left_of_tracked(sockets), sockets, "more connections can be tracked (net.netfilter.nf_conntrack_max)"),
    ):
        if left < needed:
            raise NotPossible(f"{left:,} {what}, needed for {sockets:,} sockets: {needed:,}")
    files = _allow_files(sockets + _SPARE_FILES)
    if files < 4 * _SPARE_FILES:
        raise NotPossible(
            f"a process may have {files:,} open files (ulimit -Hn), needed: at least {4 * _SPARE_FILES:,}"
        )
    # Connections spread by chance over the workers, so each is to have room for some more than its part.
    return max(2, -(-sockets // (files - 2 * _SPARE_FILES)))


def read(path: str) -> str:
    """Return what a file of the kernel says."""
    with open(path) as file:
        return file.read()


def _allow_files(wanted: int) -> int:
    """Raise the limit of open files as far as it goes, for what is started from here too; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = int(read("/proc/sys/fs/nr_open")) if hard == resource.RLIM_INFINITY else hard
    # Root may raise the hard limit too, unless it lacks CAP_SYS_RESOURCE.
    for soft, limit in ((max(wanted, most), max(wanted, most)), (most, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limit))
            return soft
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _left_of_files() -> int:
    return int(read("/proc/sys/fs/file-max")) - int(read("/proc/sys/fs/file-nr").split()[0])


def _free_bytes() -> int:
    line = next(line for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def _tcp_pages() -> int:
    """Return the most pages that all sockets may have in their buffers: each end takes one for a message."""
    return int(read("/proc/sys/net/ipv4/tcp_mem").split()[2])


def _left_of_tracked(enough: int) -> int:
    """Return how many more connections the firewall can track; enough when it tracks none."""
    try:
        tracked = int(read("/proc/sys/net/netfilter/nf_conntrack_count"))
        return int(read("/proc/sys/net/netfilter/nf_conntrack_max")) - tracked if tracked else enough
    except FileNotFoundError:
        return enough
