"""What topics keep: positions without a hole, and every bound of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.topics.history import START, UNKNOWN, History, Keep, Position, parse_position, wrap

KIB = 1024
MIB = 1024 * KIB


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def read_all(history: History, topic: str, since: Position = START) -> tuple[list[bytes], bool]:
    """Return what is kept after a position, however many pages it takes, and whether that is complete."""
    found: list[bytes] = []
    complete = read_on = True
    while read_on:
        past = history.read(topic, since)
        assert past.first == past.last.offset - len(past.payloads) + 1
        found += past.payloads
        complete = complete and past.complete
        since, read_on = past.last, past.last.offset < past.top
    return found, complete


STEPS = st.one_of(
    st.tuples(st.just("append"), st.sampled_from("ab"), st.integers(1, 5), st.integers(1, 9)),
    st.tuples(st.just("pass"), st.integers(0, 4), st.none(), st.none()),
    st.tuples(st.just("expire"), st.none(), st.none(), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_a_topic_keeps_the_newest_by_count_and_age_at_contiguous_positions(steps: list[tuple[str, ...]]) -> None:
    clock = Clock()
    history = History(clock=clock)
    model: dict[str, list[tuple[float, bytes]]] = {"a": [], "b": []}
    positions: dict[str, list[Position]] = {"a": [], "b": []}
    for number, (what, first, limit, ttl_s) in enumerate(steps):
        if what == "append":
            payload = str(number).encode()
            positions[first].append(history.append(first, Keep(int(limit), int(ttl_s)), payload))
            model[first] = [*model[first], (clock.now_s + int(ttl_s), payload)][-int(limit) :]
        elif what == "pass":
            clock.now_s += int(first)
        else:
            history.expire()
        for topic, kept in model.items():
            while kept and kept[0][0] <= clock.now_s:
                kept.pop(0)
            payloads = [payload for _, payload in kept]
            assert read_all(history, topic) == (payloads, True)
            given_out = positions[topic]
            assert [at.offset for at in given_out] == list(range(1, len(given_out) + 1))
            assert len({at.epoch for at in given_out}) <= 1
            for since in given_out:
                missing = len(given_out) - since.offset
                complete = missing <= len(payloads)
                assert read_all(history, topic, since) == (payloads[-missing:] if missing else [], True) or not complete
                if not complete:
                    assert read_all(history, topic, since) == (payloads, False)


def test_a_position_of_another_epoch_or_of_the_future_is_not_complete() -> None:
    history = History()
    at = history.append("a", Keep(10, 60), b"first")
    for since in (UNKNOWN, Position("0123abcd", 1), Position(at.epoch, 2)):
        assert read_all(history, "a", since) == ([b"first"], False)
    assert read_all(history, "unheard", at) == ([], False)
    assert read_all(history, "unheard") == ([], True)


@pytest.mark.parametrize(("payload_bytes", "count"), [(10, 1200), (100 * KIB, 9), (512 * KIB, 3)])
def test_what_is_read_at_once_is_bounded(payload_bytes: int, count: int) -> None:
    history = History()
    for number in range(count):
        history.append("a", Keep(count, 60), b"%d:" % number + b"x" * payload_bytes)
    past = history.read("a", START)
    assert len(past.payloads) <= 500
    assert len(past.payloads) == 1 or sum(map(len, past.payloads)) <= 256 * KIB
    found, complete = read_all(history, "a")
    assert [int(payload.partition(b":")[0]) for payload in found] == list(range(count))
    assert complete


def test_beyond_the_limit_the_topic_that_was_silent_for_longest_loses_its_oldest() -> None:
    history = History(100 * KIB)
    for topic in ("silent", "busy"):
        for number in range(3):
            history.append(topic, Keep(100, 60), str(number).encode() + b"x" * 10 * KIB)
    for _ in range(4):
        history.append("busy", Keep(100, 60), b"y" * 10 * KIB)
    found, _ = read_all(history, "silent")
    assert [payload[:1] for payload in found] == [b"1", b"2"]
    assert len(read_all(history, "busy")[0]) == 7
    for _ in range(20):
        history.append("busy", Keep(100, 60), b"z" * 10 * KIB)
    assert read_all(history, "silent") == ([], True)
    assert history.size_bytes <= 100 * KIB
    history.append("huge", Keep(100, 60), b"z" * MIB)
    assert history.size_bytes <= 100 * KIB


def test_many_topics_without_a_message_left_are_bounded_too() -> None:
    """A topic that is forgotten begins anew, with another epoch: an old position is not taken for a new one."""
    history = History(1 * MIB, clock := Clock())
    first = history.append("room:0", Keep(1, 1), b"x")
    for number in range(1, 5000):
        history.append(f"room:{number}", Keep(1, 1), b"x")
        clock.now_s += 0.01
    assert history.size_bytes <= MIB
    again = history.append("room:0", Keep(1, 1), b"y")
    assert again.offset == 1
    assert again.epoch != first.epoch


def test_memory_is_what_is_counted() -> None:
    """The limit is of memory and not of payloads: within a quarter for topics of one short message each."""
    import tracemalloc

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        history = History()
        for number in range(5000):
            history.append(f"room:{number}", Keep(10, 60), b"%d" % number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < history.size_bytes * 1.25


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":1", "a:-1", "a:1.5", "a:x", "a b:1", "ä:1", "a:²",
                                  "a:" + "9" * 19, "x" * 33 + ":1", "a:1:2"])  # fmt: skip
def test_what_is_no_position_is_unknown(text: str) -> None:
    assert parse_position(text) == UNKNOWN


@given(st.text("0123456789abcdef", min_size=1, max_size=8), st.integers(0, 10**18 - 1))
def test_a_position_is_read_as_it_is_written(epoch: str, offset: int) -> None:
    assert parse_position(str(Position(epoch, offset))) == Position(epoch, offset)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_kept_text_arrives_as_one_json_object(text: str) -> None:
    assert json.loads(wrap(Position("ab12", 7), text)) == {"at": "ab12:7", "data": text}
