"""What is read from the operating system: cores, processes, CPU time and memory (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_CORES: Final = sorted(os.sched_getaffinity(0))
_CPUCLOCK_SCHED: Final = 2


def server_core() -> int:
    """The core that the measured server has for itself."""
    return _CORES[0]


def driver_core() -> int:
    """The core of the clients; the server's own where there is only one."""
    return _CORES[-1]


@contextlib.contextmanager
def pin(core: int) -> Iterator[None]:
    """Keep this thread, and what it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def session_pids(session: int) -> list[int]:
    """The processes of a session: a server that was started in one of its own, and all that it started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # proc(5): pid (name) state ppid pgrp session
            if int(text.rpartition(")")[2].split()[3]) == session:
                found.append(int(entry))
    return sorted(found)


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of all threads of the processes so far, the dead ones included.

    It is utime + stime of /proc/PID/stat, read from the CPU clock of the process (clock_getcpuclockid(3)) because that
    counts nanoseconds and not hundredths of a second.
    """
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
        except OSError:
            continue  # it has ended
    return total


def stat_cpu_s(pid: int) -> float:
    """The same from /proc/PID/stat, in steps of a hundredth of a second."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Time that all cores have been busy so far, with whatever it was."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes, with what is shared divided among those who share it."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def allow_files(count: int) -> bool:
    """Raise the limit of open files, for servers that are started from here too; whether that was possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        return False
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return True


def describe() -> dict[str, object]:
    """What the figures depend on beside the code."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": len(_CORES),
    }
