"""The receiver's bounds: each limit at N and at N+1, the inbox, and what is kept of a connection that ended."""

from __future__ import annotations

import pytest

from asgiws.protocol.errors import RULES, Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket import receiver
from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.frames import BINARY, CONTINUATION, PING, PONG
from asgiws.protocol.websocket.receiver import ENDED
from tests.protocol.frame_help import (
    LIMITS,
    NO_KEY,
    Connection,
    client_frame,
    close_frame,
    delivered,
    fragments,
    octets,
    refused,
    run,
)

# ---- limits


@pytest.mark.parametrize("most", [6, 125, 126, 1000, 65535, 70000])
def test_message_size_is_limited(most: int) -> None:
    """RFC 6455 §10.4: N is a message, and of N+1 the header is enough."""
    limits = Limits(message_bytes=most)
    delivered(client_frame(b"x" * most), ["x" * most], limits)
    header = client_frame(b"", length=most + 1)
    reason = f"message of {most + 1} bytes or more, limit {most}"
    refused(header, "message-too-big", 1009, reason, limits=limits)


def test_message_of_the_longest_length_is_refused_by_its_header() -> None:
    header = client_frame(b"", length=2**63 - 1)
    refused(header, "message-too-big", 1009, f"message of {2**63 - 1} bytes or more, limit {16 * 2**20}")


@pytest.mark.parametrize("compression", [receiver.NO_COMPRESSION, receiver.FRESH_WINDOW, receiver.KEPT_WINDOW])
def test_size_of_a_fragmented_message_is_limited(compression: int) -> None:
    """RFC 6455 §10.4: the header of the fragment that goes over it is enough."""
    limits = Limits(message_bytes=100)
    delivered(b"".join(fragments([b"x" * 40, b"x" * 60, b""])), ["x" * 100], limits, compression)
    stream = client_frame(b"x" * 40, fin=False) + client_frame(b"", CONTINUATION, length=61)
    reason = "message of 101 bytes or more, limit 100"
    refused(stream, "message-too-big", 1009, reason, limits=limits, compression=compression)


@pytest.mark.parametrize("most", [100, 300])
def test_frame_size_is_limited(most: int) -> None:
    """RFC 6455 §10.4: apart from the size of the message."""
    limits = Limits(frame_bytes=most)
    delivered(b"".join(fragments([b"x" * most] * 3)), ["x" * most * 3], limits)
    reason = f"frame of {most + 1} bytes, limit {most}"
    refused(client_frame(b"", length=most + 1), "frame-too-big", 1009, reason, limits=limits)
    inside = client_frame(b"x", fin=False) + client_frame(b"", CONTINUATION, length=most + 1)
    refused(inside, "frame-too-big", 1009, reason, limits=limits)


def test_fragments_are_limited() -> None:
    """RFC 6455 §10.4; unbounded in every peer but one."""
    limits = Limits(fragment_count=5)
    delivered(b"".join(fragments([b"x"] * 5)) * 2, ["xxxxx"] * 2, limits)
    reason = "6 fragments, limit 5"
    refused(b"".join(fragments([b"x"] * 6)), "too-many-fragments", 1009, reason, limits=limits)


def test_empty_fragments_are_limited() -> None:
    """They count against no size."""
    limits = Limits(empty_fragment_count=3)
    delivered(b"".join(fragments([b"", b"", b"x", b""])) * 2, ["x"] * 2, limits)
    reason = "4 empty fragments, limit 3"
    stream = b"".join(fragments([b"", b"", b"x", b"", b""]))
    refused(stream, "too-many-empty-fragments", 1008, reason, limits=limits)


def test_empty_messages_are_no_empty_fragments() -> None:
    delivered(client_frame() * 9, [""] * 9, Limits(empty_fragment_count=0))


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_controls_in_a_second_are_limited(opcode: int) -> None:
    limits = Limits(control_rate=3)
    stream = client_frame(b"", opcode) * 3
    delivered(stream + client_frame(b"ok"), ["ok"], limits)
    reason = "over 3 control frames in a second, the limit"
    refused(stream + client_frame(b"", opcode), "control-flood", 1008, reason, limits=limits)


def test_messages_in_a_second_are_limited() -> None:
    limits = Limits(message_rate=3)
    stream = client_frame(b"1") + b"".join(fragments([b"2", b"2"]))
    delivered(stream + client_frame(b"3"), ["1", "22", "3"], limits)
    reason = "over 3 messages in a second, the limit"
    for over in (client_frame(b"4"), b"".join(fragments([b"4", b""]))):
        refused(over, "message-flood", 1008, reason, limits=limits, before=["1", "2", "3"])


def test_bytes_in_a_second_are_limited_and_what_came_before_is_delivered() -> None:
    """A violation keeps its place in line, inside a packet too."""
    one = client_frame(b"before")
    limits = Limits(byte_rate=len(one) + 20)
    delivered(one + client_frame(b"x" * 14), ["before", "x" * 14], limits)
    reason = f"over {limits.byte_rate} bytes in a second, the limit"
    refused(client_frame(b"x" * 15), "byte-flood", 1008, reason, limits=limits)


@pytest.mark.parametrize(
    ("limits", "frame"),
    [
        (Limits(control_rate=2), client_frame(b"", PING)),
        (Limits(message_rate=2), client_frame(b"x")),
        (Limits(byte_rate=14), client_frame(b"x")),
    ],
    ids=["controls", "messages", "bytes"],
)
def test_another_second_allows_as_much_again(limits: Limits, frame: bytes) -> None:
    connection = Connection(limits)
    for _ in range(3):
        connection.feed(frame * 2)
        connection.receiver.allow_another_second()
    assert connection.receiver.state != ENDED
    connection.feed(frame * 3)
    assert [item.rule.code for item in connection.items if isinstance(item, Violation)] == [1008]


@pytest.mark.parametrize("limits", [Limits(control_rate=0), Limits(message_rate=0), Limits(byte_rate=0)])
def test_zero_is_no_limit(limits: Limits) -> None:
    outcome = run([(client_frame(b"", PING) + client_frame(b"x")) * 900], limits)
    assert (len(outcome.pings), outcome.items) == (900, ["x"] * 900)


# ---- the inbox


def test_parsing_stops_behind_a_full_inbox() -> None:
    """RFC 6455 says nothing of it; the bytes wait unparsed, and the pings in them too."""
    connection = Connection(Limits(inbox_messages=3))
    connection.arrive(client_frame(b"x") * 3)
    assert not connection.receiver.blocked
    rest = client_frame(b"y") + client_frame(b"", PING) + client_frame(b"z")
    connection.arrive(rest)
    assert connection.receiver.blocked
    assert list(connection.inbox) == ["x"] * 3
    assert (connection.receiver.pings, connection.receiver.held_bytes) == (None, len(rest))


def test_parsing_goes_on_as_far_as_there_is_room() -> None:
    connection = Connection(Limits(inbox_messages=3))
    connection.arrive(b"".join(client_frame(b"%d" % at) for at in range(6)))
    connection.take_one()
    connection.receiver.resume()
    assert list(connection.inbox) == ["1", "2", "3"]
    assert connection.receiver.blocked
    connection.take()
    assert connection.items == ["0", "1", "2", "3", "4", "5"]
    assert (connection.receiver.blocked, connection.receiver.queued, connection.receiver.held_bytes) == (False, 0, 0)


@pytest.mark.parametrize("size", [9, 10])
def test_bytes_in_the_inbox_are_limited(size: int) -> None:
    """At the limit nothing more is parsed; below it one message more, whatever its size."""
    connection = Connection(Limits(inbox_bytes=10))
    connection.arrive(client_frame(b"x" * 4) + client_frame(b"y" * (size - 4), BINARY) + client_frame(b"z" * 99))
    assert connection.receiver.blocked == (size == 10)
    assert len(connection.inbox) == (2 if size == 10 else 3)
    connection.take()
    assert connection.items[2:] == ["z" * 99]


def test_what_comes_while_the_inbox_is_full_keeps_its_order() -> None:
    connection = Connection(Limits(inbox_messages=1))
    stream = b"".join(client_frame(b"%d" % at) for at in range(9)) + close_frame(b"")
    for octet in octets(stream):
        connection.arrive(octet)
    connection.take()
    assert connection.items == [*map(str, range(9)), Close(1005, "")]
    assert connection.receiver.bytes_in == len(stream)


@pytest.mark.parametrize("end", [close_frame(b""), client_frame(b"", key=None)], ids=["close", "violation"])
def test_an_end_waits_behind_a_full_inbox(end: bytes) -> None:
    connection = Connection(Limits(inbox_messages=1))
    connection.arrive(client_frame(b"first") + end)
    assert list(connection.inbox) == ["first"]
    connection.take()
    assert len(connection.items) == 2
    assert connection.receiver.state == ENDED


def test_an_end_met_behind_messages_that_are_thrown_away_unblocks() -> None:
    """A connection that only waits for the peer's Close takes nothing else."""
    connection = Connection(Limits(inbox_messages=1))
    connection.arrive(client_frame(b"first") + client_frame(b"second", fin=False))
    connection.inbox.clear()
    connection.receiver.queued = 0
    connection.receiver.feed(close_frame(b""))
    assert list(connection.inbox) == [Close(1005, "")]
    assert not connection.receiver.blocked


def test_bytes_may_be_held_before_the_first_is_parsed() -> None:
    """RFC 6455 §4.1: a client may send as soon as it has the 101; what comes sooner waits for the accept."""
    connection = Connection()
    stream = client_frame(b"early") + client_frame(b"bird")
    connection.receiver.hold(stream[:5])
    connection.receiver.hold(stream[5:])
    assert (list(connection.inbox), connection.receiver.held_bytes) == ([], len(stream))
    connection.receiver.begin(receiver.FRESH_WINDOW)
    connection.receiver.resume()
    connection.feed(client_frame(b"late"))
    assert connection.items == ["early", "bird", "late"]
    assert connection.receiver.bytes_in == len(stream + client_frame(b"late"))


@pytest.mark.parametrize("end", [close_frame(b""), client_frame(b"", key=None)], ids=["close", "violation"])
def test_nothing_is_kept_behind_an_end(end: bytes) -> None:
    """RFC 6455 §7.1.7: after failing the connection, an endpoint MUST NOT continue to process data."""
    connection = Connection(Limits(byte_rate=10_000))
    connection.feed(client_frame(b"half a message", fin=False) + end + b"\x81")
    connection.feed(client_frame(b"x" * 9000))
    connection.feed(client_frame(b"x" * 9000))
    connection.receiver.hold(bytes(5000))
    assert (len(connection.items), connection.receiver.held_bytes, connection.receiver.blocked) == (1, 0, False)


def test_nothing_is_kept_behind_a_flood_that_begins_inside_a_header() -> None:
    connection = Connection(Limits(byte_rate=12))
    for piece in (client_frame(b"first"), b"\x81", b"\x85"):
        assert connection.receiver.state != ENDED
        connection.feed(piece)
    assert connection.items[1:] == [Violation(RULES["byte-flood"], "over 12 bytes in a second, the limit")]
    assert connection.receiver.held_bytes == 0


# ---- memory


def test_no_inflater_is_kept_between_messages_without_takeover() -> None:
    """An idle connection holds no compression state at all."""
    connection = Connection(compression=receiver.FRESH_WINDOW)
    connection.feed(b"".join(fragments([b"\xf2\x48\xcd", b"\xc9\xc9\x07\x00"], rsv=4)))
    assert connection.items == ["Hello"]
    assert (connection.receiver._inflater, connection.receiver._message) == (None, None)


def test_tiny_fragments_end_at_the_default_limit() -> None:
    """131,073 frames of one byte: 47 bytes each in uvicorn, without end."""
    connection = Connection()
    connection.feed(client_frame(b"x", fin=False, key=NO_KEY))
    connection.feed(client_frame(b"x", CONTINUATION, fin=False, key=NO_KEY) * (LIMITS.fragment_count - 1))
    assert (connection.items, connection.receiver.held_bytes) == ([], LIMITS.fragment_count)
    connection.feed(client_frame(b"x", CONTINUATION, fin=False, key=NO_KEY))
    assert connection.items == [Violation(RULES["too-many-fragments"], "131073 fragments, limit 131072")]
