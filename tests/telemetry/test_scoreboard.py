"""The sum of the workers: only growing, whoever comes and goes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.telemetry.counters import Counters, Histogram, Levels, code_label
from asgiws.telemetry.scoreboard import Scoreboard, Status, Worker


def report(messages: int = 0, *, pid: int = 1, open_websockets: int = 0, closes: int = 0) -> dict[str, Any]:
    """What a worker says that has taken so many messages."""
    counters, levels = Counters(), Levels()
    counters.messages_in = messages
    counters.closes["client", 1000] = closes
    for _ in range(messages):
        counters.lag.add(0.002)
    levels.websockets = open_websockets
    made = {
        "pid": pid, "ready": True, "overloaded": False, "draining": False, "up_s": 1.5, "lag_s": 0.25,
        "memory_bytes": 7, "certificate_days": 8.5, "tenants": {},
        "counts": counters.as_counts(levels), "histograms": counters.as_histograms(), "levels": levels.as_levels(),
        "connections": [{"number": number} for number in range(open_websockets)],
    }  # fmt: skip
    # As it comes from another process
    return dict(json.loads(json.dumps(made)))


def status(scoreboard: Scoreboard, *workers: Worker) -> Status:
    return scoreboard.status(workers, ready=True, draining=False)


def test_counts_of_workers_are_added() -> None:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(3, closes=1))
    scoreboard.update("b", report(4))

    seen = status(scoreboard)

    assert seen["counts"]["websocket_messages"] == {"in": 7, "out": 0}
    assert seen["counts"]["websocket_closes"] == {"client:1000": 1}


def test_message_that_the_supervisor_publishes_is_counted_beside_those_of_workers() -> None:
    scoreboard = Scoreboard()
    scoreboard.count_published()
    counters = Counters()
    counters.topics_published = 2
    scoreboard.update("a", report() | {"counts": counters.as_counts(Levels())})

    assert status(scoreboard)["counts"]["topic_published"] == {"": 3}


def test_newer_report_takes_the_place_of_the_older_one() -> None:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(3))
    scoreboard.update("a", report(5))

    assert status(scoreboard)["counts"]["websocket_messages"]["in"] == 5


def test_worker_that_ended_still_counts_and_holds_nothing() -> None:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(3, open_websockets=2))
    scoreboard.end("a")
    scoreboard.update("b", report(1, open_websockets=1))

    seen = status(scoreboard)

    assert seen["counts"]["websocket_messages"]["in"] == 4
    assert sum(seen["histograms"]["event_loop_lag"]["counts"]) == 4
    assert seen["levels"]["connections"] == {"arriving": 0, "http": 0, "waiting": 0, "websocket": 1}


def test_end_of_a_worker_that_never_reported_changes_nothing() -> None:
    scoreboard = Scoreboard()
    before = status(scoreboard)
    scoreboard.end("a")

    assert status(scoreboard) == before


def test_every_name_is_there_before_anybody_has_reported() -> None:
    """A series that appears only with its first increase hides that increase from `rate`."""
    first = status(Scoreboard())
    scoreboard = Scoreboard()
    scoreboard.update("a", report(1))
    later = status(scoreboard)

    for kind in ("counts", "levels", "histograms"):
        assert first[kind].keys() == later[kind].keys()


def test_rows_are_named_by_process_and_number() -> None:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(pid=17, open_websockets=1))
    scoreboard.update("b", report(pid=18, open_websockets=2))

    assert [row["id"] for row in status(scoreboard)["connections"]] == ["17-0", "18-0", "18-1"]


def test_workers_are_counted_by_state() -> None:
    scoreboard = Scoreboard()
    scoreboard.update("a", report(2))

    seen = status(scoreboard, Worker("a", 1, 17, "serving"), Worker("b", 2, 18, "starting"))

    assert seen["levels"]["workers"] == {"starting": 1, "serving": 1, "stopping": 0}
    assert [(row["number"], row["lag_s"]) for row in seen["workers"]] == [(1, 0.25), (2, 0.0)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=40))
def test_no_count_ever_goes_backwards(steps: list[tuple[str, int, bool]]) -> None:
    """Workers count on, end at any time, and others take their places from zero."""
    scoreboard = Scoreboard()
    counted = dict.fromkeys("abc", 0)
    total = before = 0
    for worker, more, ends in steps:
        counted[worker] += more
        total += more
        scoreboard.update(worker, report(counted[worker]))
        if ends:
            scoreboard.end(worker)
            counted[worker] = 0
        seen = status(scoreboard)
        counted_in = seen["counts"]["websocket_messages"]["in"]
        assert before <= counted_in == total == sum(seen["histograms"]["event_loop_lag"]["counts"])
        before = total


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sum_of_a_histogram_is_the_same_in_whatever_order_workers_end(values: list[float], order: Random) -> None:
    """A sum that falls by a rounding is a restart of the counter to who scrapes it."""
    scoreboard = Scoreboard()
    for worker, value in enumerate(values):
        counters = Counters()
        counters.lifetimes.add(value)
        scoreboard.update(worker, report() | {"histograms": counters.as_histograms()})
    total = status(scoreboard)["histograms"]["websocket_duration"]["total"]
    workers = list(range(len(values)))
    order.shuffle(workers)
    for worker in workers:
        scoreboard.end(worker)
        assert status(scoreboard)["histograms"]["websocket_duration"]["total"] == total
    assert total == pytest.approx(sum(values), abs=1e-8)


# ---- what a worker counts


def test_histogram_counts_a_value_in_the_range_that_ends_with_it() -> None:
    histogram = Histogram()
    bounds = histogram.bounds
    for value in (0.0, bounds[0], bounds[0] * 1.01, bounds[-1], bounds[-1] + 1):
        histogram.add(value)

    assert histogram.counts == [2, 1, *([0] * (len(bounds) - 3)), 1, 1]
    assert histogram.total == sum((0.0, bounds[0], bounds[0] * 1.01, bounds[-1], bounds[-1] + 1))


def test_codes_that_clients_choose_freely_share_a_label() -> None:
    assert {code_label("client", code) for code in range(3000, 5000)} == {"3000", "3003", "3008", "3xxx", "4xxx"}
    assert code_label("client", 1001) == "1001"


def test_codes_of_the_application_are_kept() -> None:
    assert code_label("app", 4401) == "4401"
