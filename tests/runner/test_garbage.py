"""Full garbage collections are spaced, and not given up: counted by the interpreter, in a process of its own."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from tests import PATIENCE_S
from tests.apps import echo
from tests.conftest import Serve
from tests.server_process import ROOT

PROGRAM = """
import gc, sys, time
from asgiws.runner.garbage import space_full_collections

def full_count():
    return gc.get_stats()[2]["collections"]

def grow(kept):
    # half as many more; after a quarter the rule of the interpreter wants a full collection
    kept.extend([] for _ in range(max(100_000, len(kept) // 2)))

kept = []
for _ in range(5):
    grow(kept)
before = full_count()
if sys.argv[1] == "spaced":
    space_full_collections()
    gc.collect()
    before += 1
    grow(kept)
    print(full_count() - before)
    kept.clear()
    gc.collect()  # a short one, so that the next one may come soon
    before = full_count()
    until_s = time.monotonic() + float(sys.argv[2])
    while full_count() == before and time.monotonic() < until_s:
        grow(kept)
        del kept[300_000:]
    print(full_count() > before)
else:
    grow(kept)
    print(full_count() > before)
"""


def run(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_full_collection_does_not_follow_the_last_one_closely_but_comes() -> None:
    if run("plain") != ["True"]:
        pytest.skip("the collector of this interpreter has no full collections: incremental or free-threaded")
    assert run("spaced", str(2 * PATIENCE_S)) == ["0", "True"]


def test_server_in_a_program_leaves_its_collector_alone(serve: Serve) -> None:
    before = list(gc.callbacks), gc.get_threshold()
    serve(echo)
    assert (list(gc.callbacks), gc.get_threshold()) == before
