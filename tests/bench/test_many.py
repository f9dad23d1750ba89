"""100,000 sockets in small: each figure is measured and in the table, and a limit that is too low is one line."""

from __future__ import annotations

import json
import resource

import pytest

from tests.bench import many, many_limits
from tests.bench.extra import NotPossible
from tests.bench.many_table import table

SOCKETS = 120
BIG_FILES = {
    "/proc/meminfo": "MemAvailable: 99999999 kB\n",
    "/proc/sys/fs/file-max": "1000000\n",
    "/proc/sys/fs/file-nr": "1000 0 1000000\n",
    "/proc/sys/net/ipv4/tcp_mem": "1 2 1000000\n",
    "/proc/sys/net/netfilter/nf_conntrack_count": "0\n",
    "/proc/sys/net/netfilter/nf_conntrack_max": "1\n",
}


@pytest.mark.slow
def test_everybody_gets_the_message_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")
    monkeypatch.setattr(many, "_SPREAD_S", 1)
    monkeypatch.setattr(many, "_ECHO_S", 0.1)
    monkeypatch.setattr(many, "_STEP", 20)
    results = json.loads(json.dumps(many.run(SOCKETS, 0.1, ["hypercorn"])))
    ours, floor, peer = results["asgiws"], results["floor"], results["peers"]["hypercorn"]
    assert (ours["sockets"], ours["lost"], ours["got"], floor["got"]) == (SOCKETS, 0, SOCKETS, SOCKETS)
    assert ours["encodings"] == results["settings"]["workers"]
    restart = ours["restart"]
    assert (restart["returned"], restart["open"], restart["lost"], restart["refused"]) == (SOCKETS, SOCKETS, 0, 0)
    assert 0 < peer["sockets"] <= SOCKETS
    assert all(one["taken_bytes"] > one["empty_bytes"] > 0 for one in (ours, peer))
    text = table(results)
    assert f"{SOCKETS} closed with 1012, {SOCKETS} open after" in text
    assert f"| hypercorn          | {peer['sockets']} " in text


def test_peer_that_is_not_there_is_named() -> None:
    ours = {
        "sockets": 100_000, "empty_bytes": 2**28, "taken_bytes": 2**30, "opened_s": 30.0, "idle_s": 60.0, "lost": 0,
        "idle_cpu_s": 12.0, "others_cpu_s": 30.0, "pings": 300_000, "echo": {"p50_s": 0.001, "p99_s": 0.002},
        "all_have_it_s": 1.0, "delivery_s": 1e-5, "encodings": 6.0,
        "restart": {"returned": 1, "open": 1, "back_s": 40.0, "lost": 0, "refused": 0,
                    "echo": {"p50_s": 0.001, "p99_s": 0.002}},
    }  # fmt: skip
    text = table({
        "machine": {"python": "3.11", "system": "Linux", "processor": "x", "cores": 2},
        "versions": {}, "settings": {"sockets": 100_000, "workers": 6, "spread_s": 30, "message_bytes": 100},
        "asgiws": ours, "floor": ours, "peers": {"granian": {"failure": "not installed"}},
    })  # fmt: skip
    assert "2 cores, of which other programs took up to 0.5 meanwhile" in text
    assert "1,024 MiB, 7.86 KiB for each socket" in text
    assert "20.0% of a core, 5,000 pings and pongs a second, 0 lost" in text
    assert any(line.startswith("| granian ") and "not installed" in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("path", "says", "line"),
    [
        ("/proc/meminfo", "MemAvailable: 1024 kB\n", "1 MiB of memory are free, needed for 100,000 sockets: 2,929"),
        ("/proc/sys/fs/file-max", "9000", r"8,000 open files of the system are left \(fs.file-max\)"),
        ("/proc/sys/net/ipv4/tcp_mem", "1 2 3", "3 pages of memory are allowed for TCP"),
        ("/proc/sys/net/netfilter/nf_conntrack_count", "1", "0 more connections can be tracked"),
    ],
)
def test_limit_of_the_system_that_is_too_low_is_said(
    monkeypatch: pytest.MonkeyPatch, path: str, says: str, line: str
) -> None:
    monkeypatch.setattr(many_limits, "read", (BIG_FILES | {path: says}).__getitem__)
    with pytest.raises(NotPossible, match=line):
        many_limits.processes_for(100_000)


@pytest.mark.parametrize(("hard", "processes"), [(20_000, 6), (200_000, 2)])
def test_limit_of_a_process_decides_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, hard: int, processes: int
) -> None:
    refuse_more_than(monkeypatch, hard)
    assert many_limits.processes_for(100_000) == processes


def test_limit_of_a_process_that_is_too_low_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_more_than(monkeypatch, 1000)
    with pytest.raises(NotPossible, match=r"a process may have 1,000 open files \(ulimit -Hn\)"):
        many_limits.processes_for(100_000)


def refuse_more_than(monkeypatch: pytest.MonkeyPatch, hard: int) -> None:
    """Let a process have `hard` open files, and the system as many as are wanted."""

    def set_limit(kind: int, limits: tuple[int, int]) -> None:
        if limits[1] > hard:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, hard))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    monkeypatch.setattr(many_limits, "read", BIG_FILES.__getitem__)
