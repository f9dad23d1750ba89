"""The CPUs that `--workers auto` counts: the mask of the process, and the quotas of its control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asgiws.config.cpus import usable_cpus
from asgiws.config.options import Config


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SELF = "proc/self/cgroup"
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 2),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "10000 100000\n"}, 1),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "6400000 100000\n"}, 8),
        ({SELF: "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "300000 100000"}, 3),
        ({SELF: "0::/host/path\n", f"{V2}/cpu.max": "400000 100000\n"}, 4),
        ({SELF: "0::/\n", f"{V2}/cpu.max": "nonsense"}, 8),
        ({SELF: "nonsense"}, 8),
        (
            {
                SELF: "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
                f"{V2}/cpu/cpu.cfs_quota_us": "250000\n", f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                SELF: "3:cpu,cpuacct:/\n", f"{V2}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{V2}/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
    ids=["no-cgroup", "max", "two", "one-and-a-half", "a-tenth", "more-than-there-are", "parent", "namespace",
         "bad-limit", "bad-membership", "version-1", "version-1-max"],
)  # fmt: skip
def test_quota_of_the_control_group_bounds_the_cpus(files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    """cgroups(7); cpu.max is `quota period`."""
    assert usable_cpus(lay(tmp_path, files)) == cpus


def test_mask_of_the_process_bounds_the_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert usable_cpus(tmp_path) == 1


def test_workers_take_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert Config.from_options({"workers": "auto"}).workers == 1
