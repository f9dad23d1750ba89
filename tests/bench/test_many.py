"""100,000 sockets in small: each figure is measured and said, and a limit that is too low is one line."""

from __future__ import annotations

import re
import resource

import pytest

from tests.bench import many
from tests.bench.extra import NotPossible

SOCKETS, PROCESSES = 120, 2


@pytest.mark.slow
def test_everybody_gets_the_message_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("uvloop", reason="uvloop is not installed: pip install -e '.[uvloop]'")
    monkeypatch.setattr(many, "_SPREAD_S", 1)
    monkeypatch.setattr(many, "_ECHO_S", 0.1)
    taken = many.measure_ours(SOCKETS, PROCESSES, 0.1)
    many.measure_floor(SOCKETS, PROCESSES)
    many.measure_peer("uvicorn websockets-sansio", 1, 1000, PROCESSES)
    said = capsys.readouterr().err
    assert taken > 0
    assert f"{SOCKETS} sockets open" in said
    assert re.search(r"the last has it after .* 2 encodings", said), said
    assert re.search(rf"{SOCKETS} closed with 1012 and back after .*, 0 lost, 0 refused", said), said
    assert "the same with bare loops" in said
    assert "uvicorn websockets-sansio, 2 workers: 1,000 sockets take" in said
    assert len(re.findall(r"p50 .* ms, p99 .* ms", said)) == 3


def test_limit_that_is_too_low_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        if limits[1] > 1000:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 1000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(NotPossible, match=r"the limit of open files is 1000 \(ulimit -Hn\)"):
        many.processes_for(100_000)


def test_memory_that_is_too_small_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": "MemAvailable: 1024 kB\n"}
    read = many.read
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    monkeypatch.setattr(many, "read", lambda path: files.get(path) or read(path))
    with pytest.raises(NotPossible, match="1 MiB of memory are free"):
        many.processes_for(1000)
