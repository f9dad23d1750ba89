"""Each fuzz target, driven by hypothesis with few examples and, where it is installed, by atheris with few runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.run_atheris import MISSING
from tests.fuzz.targets import PREFIX_BYTES, SEEDS, TARGETS
from tests.protocol.frame_help import relaxed
from tests.protocol.http_help import mutated
from tests.server_process import ROOT, clean_environ

RUNS = 3000
each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_invariant_holds_for_the_seeds(name: str) -> None:
    """What the search begins with is no finding."""
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@each_target
@settings(relaxed, max_examples=150)
@given(data=st.data())
def test_invariant_holds_for_what_hypothesis_finds(name: str, data: st.DataObject) -> None:
    """A value or a rule, within the limits, and the same for each cut."""
    prefix = data.draw(st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES))
    sent = data.draw(mutated([seed[PREFIX_BYTES:] for seed in SEEDS[name]]) | st.binary(max_size=300))
    TARGETS[name](prefix + sent)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=MISSING)
@each_target
def test_invariant_holds_for_what_atheris_finds(name: str, tmp_path: Path) -> None:
    """The same, guided by coverage; the seed is fixed, so that a run can be repeated."""
    command = [sys.executable, "-m", "tests.fuzz.run_atheris", name, str(tmp_path / "corpus"), f"-runs={RUNS}",
               "-seed=1", "-max_len=600", f"-artifact_prefix={tmp_path}/"]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert f"Done {RUNS} runs" in ended.stderr


def test_unknown_target_is_told_with_those_there_are() -> None:
    """One clear line, and exit code 2; without atheris the line says what to install."""
    command = [sys.executable, "-m", "tests.fuzz.run_atheris", "nothing"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True, timeout=120)
    told = f"target 'nothing', allowed: {', '.join(TARGETS)}"
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (told if importlib.util.find_spec("atheris") else MISSING)
