"""The number of CPUs that this process may use: the value of `--workers auto`.

The CPU mask (taskset, cpusets) does not contain the limit of a container, so the quota of the control group is read
too (Docker's `--cpus`, Kubernetes' `limits.cpu`, systemd's `CPUQuota`).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cpus"]


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs that this process may use, at least 1; a quota of 1.5 CPUs counts as 2."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, math.ceil(min(_quotas(root), default=cpus))))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of each control group that this process is in (cgroups(7), versions 2 and 1)."""
    cgroups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        memberships = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        for _, controllers, path in memberships:
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = cgroups / "cpu" if controllers else cgroups
            group = top / path.lstrip("/")
            # A container sees its own group at the top, whatever path the host has for it.
            for folder in (group, *group.parents):
                if folder.is_relative_to(top):
                    yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):
        if (limit := folder / "cpu.max").exists():  # "50000 100000", or "max 100000" for no quota
            quota, period = limit.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
