"""Close frames and close codes (RFC 6455 §5.5.1, §7), and the states of a connection's life."""

from __future__ import annotations

from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close as IndependentClose

from asgiws.protocol.errors import RULES, Violation
from asgiws.protocol.websocket.closing import (
    NEXT,
    STATE_NAMES,
    Close,
    Moved,
    State,
    check_close,
    encode_close,
    is_close_code,
    parse_close,
)
from tests.protocol.frame_help import IndependentClient, client_frame, close_frame, closed, refused, relaxed, run

CODES = "allowed: 1000-1003, 1007-1014, 3000-4999"
SENT_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}

# ---- what a peer may send


def test_close_without_a_code_is_1005() -> None:
    """RFC 6455 §7.1.5: if this Close control frame contains no status code, the code is considered to be 1005."""
    closed(
        bytes((
            0x88,  # FIN, Close
            0x80,  # masked, 0 bytes
            0x37, 0xFA, 0x21, 0x3D,  # key
        )),
        Close(1005, ""),
    )  # fmt: skip


def test_close_with_a_code_alone_has_an_empty_reason() -> None:
    """RFC 6455 §7.1.6: if there is no such data, the reason is the empty string."""
    closed(close_frame(b"\x03\xe8"), Close(1000, ""))


def test_close_of_125_bytes_has_a_reason_of_123() -> None:
    """RFC 6455 §5.5: all control frames MUST have a payload length of 125 bytes or less."""
    closed(close_frame(b"\x03\xe8" + b"r" * 123), Close(1000, "r" * 123))


def test_close_reason_is_utf8() -> None:
    closed(close_frame(b"\x0f\xa0" + "bis später".encode()), Close(4000, "bis später"))


def test_close_inside_a_fragmented_message_ends_it() -> None:
    """RFC 6455 §5.4: control frames MAY be injected in the middle of a fragmented message."""
    closed(client_frame(b"half", fin=False) + close_frame(b"\x03\xe9"), Close(1001, ""))


def test_nothing_behind_a_close_is_read() -> None:
    """RFC 6455 §5.5.1: data received after a Close frame is not processed; not even a violation."""
    outcome = run([close_frame(b"\x03\xe8") + client_frame(b"text", key=None) + client_frame(b"ping", 9)])
    assert (outcome.items, outcome.pings) == ([Close(1000, "")], [])


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1014, 3000, 3999, 4000, 4999])
def test_close_code_at_the_edge_of_its_range_is_allowed(code: int) -> None:
    """RFC 6455 §7.4.1, §7.4.2, and the registry of close codes for 1012 to 1014."""
    closed(close_frame(code.to_bytes(2, "big")), Close(code, ""))


# ---- what a peer may not send


def test_close_of_one_byte_closes_1002() -> None:
    """RFC 6455 §5.5.1: if there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer."""
    broken = bytes((
        0x88,  # FIN, Close
        0x81,  # masked, 1 byte
        0x37, 0xFA, 0x21, 0x3D,  # key
        0x03 ^ 0x37,  # half a code
    ))  # fmt: skip
    refused(broken, "bad-close-length", 1002, "Close frame of 1 byte, allowed: none, or 2 and more")


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_close_code_that_may_not_be_sent_closes_1002(code: int) -> None:
    """RFC 6455 §7.4.1: 1005, 1006 and 1015 MUST NOT be set; §7.4.2: 0-999 are not used, 1016-2999 are reserved."""
    broken = bytes((
        0x88,  # FIN, Close
        0x82,  # masked, 2 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
        code >> 8 ^ 0x37, code & 0xFF ^ 0xFA,  # code
    ))  # fmt: skip
    refused(broken, "bad-close-code", 1002, f"close code {code}, {CODES}")


def test_close_reason_that_is_not_utf8_closes_1007() -> None:
    """RFC 6455 §5.5.1: following the 2-byte integer, the body MAY contain UTF-8-encoded data; §8.1."""
    broken = bytes((
        0x88,  # FIN, Close
        0x83,  # masked, 3 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
        0x03 ^ 0x37, 0xE8 ^ 0xFA,  # 1000
        0xFF ^ 0x21,  # a byte that UTF-8 never has
    ))  # fmt: skip
    refused(broken, "bad-close-reason", 1007, "close reason that is not UTF-8, allowed: UTF-8")


def test_close_reason_that_is_cut_inside_a_character_closes_1007() -> None:
    """RFC 6455 §8.1."""
    refused(
        close_frame(b"\x03\xe8" + "ä".encode()[:1]),
        "bad-close-reason", 1007, "close reason that is not UTF-8, allowed: UTF-8",
    )  # fmt: skip


def test_close_frame_that_breaks_two_rules_is_named_by_its_code() -> None:
    assert parse_close(b"\x03\xe7\xff") == Violation(RULES["bad-close-code"], f"close code 999, {CODES}")


def test_every_code_is_allowed_or_not_as_the_rfc_and_the_registry_say() -> None:
    assert {code for code in range(-10, 70000) if is_close_code(code)} == SENT_CODES


@relaxed
@given(st.binary(max_size=125))
def test_any_payload_is_a_close_or_a_violation(payload: bytes) -> None:
    result = parse_close(payload)
    if isinstance(result, Close):
        assert encode_close(result) == bytes((0x88, len(payload))) + payload
    else:
        assert result.rule.code in (1002, 1007)


# ---- what the application may close with


@pytest.mark.parametrize("code", [1000, 1014, 3000, 4999])
def test_application_may_close_with_any_code_that_may_be_sent(code: int) -> None:
    assert check_close(code, "") == Close(code, "")


def test_application_may_close_with_an_enumerated_code() -> None:
    class Code(IntEnum):
        KICKED = 4001

    close = check_close(Code.KICKED, "")
    assert (close, type(close.code)) == (Close(4001, ""), int)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 2**16, True])
def test_application_closing_with_a_code_that_may_not_be_sent_raises(code: int) -> None:
    with pytest.raises(ValueError, match=f"^close code {code}, allowed: "):
        check_close(code, "")


@pytest.mark.parametrize("code", [None, "1000", 1000.0, b"\x03\xe8"])
def test_application_closing_with_a_code_that_is_no_number_raises(code: object) -> None:
    with pytest.raises(TypeError, match=r"^close code .*, allowed: an int"):
        check_close(code, "")


@pytest.mark.parametrize("reason", [None, b"bye", 1])
def test_application_closing_with_a_reason_that_is_no_text_raises(reason: object) -> None:
    with pytest.raises(TypeError, match=r"^close reason .*, allowed: a str"):
        check_close(1000, reason)


@pytest.mark.parametrize("reason", ["r" * 123, "ä" * 61 + "r", "\U0001f600" * 30 + "rrr"])
def test_reason_of_123_bytes_is_allowed(reason: str) -> None:
    assert check_close(1000, reason) == Close(1000, reason)


@pytest.mark.parametrize("reason", ["r" * 124, "ä" * 62, "\U0001f600" * 31])
def test_reason_of_124_bytes_raises(reason: str) -> None:
    with pytest.raises(ValueError, match=r"^close reason of 124 bytes, limit 123"):
        check_close(1000, reason)


def test_reason_with_a_lone_surrogate_raises() -> None:
    with pytest.raises(UnicodeEncodeError):
        check_close(1000, "\ud800")


# ---- what is sent


def test_close_is_encoded_with_its_code_and_reason() -> None:
    assert encode_close(Close(1001, "bye")) == b"\x88\x05\x03\xe9bye"


def test_1005_is_never_sent() -> None:
    """RFC 6455 §7.4.1: 1005 MUST NOT be set as a status code in a Close control frame by an endpoint."""
    assert encode_close(Close(1005, "ignored")) == b"\x88\x00"


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("r" * 123, "r" * 123),
        ("r" * 124, "r" * 123),
        ("ä" * 62, "ä" * 61),  # the 123rd byte is half a character
        ("\U0001f600" * 31, "\U0001f600" * 30),
    ],
    ids=["fits", "cut", "cut-before-a-character-of-2", "cut-before-a-character-of-4"],
)
def test_reason_of_our_own_that_is_too_long_is_cut_at_a_character(reason: str, sent: str) -> None:
    """RFC 6455 §5.5: at most 125 bytes, two of which are the code."""
    payload = b"\x03\xe8" + sent.encode()
    assert encode_close(Close(1000, reason)) == bytes((0x88, len(payload))) + payload


@relaxed
@given(code=st.sampled_from(sorted(SENT_CODES)), reason=st.text(max_size=130))
def test_any_close_is_legal_to_an_independent_client(code: int, reason: str) -> None:
    """RFC 6455 §5.5: at most 125 bytes; a longer reason of our own is cut, and between characters."""
    (frame,) = IndependentClient().receive(encode_close(Close(code, reason)))
    close = IndependentClose.parse(bytes(frame.data))
    assert close.code == code
    assert reason.startswith(close.reason)
    size = len(close.reason.encode())
    assert close.reason == reason or size + len(reason[len(close.reason)].encode()) > 123 >= size


# ---- states

PATHS = [
    [Moved.ACCEPTED, Moved.CLOSE_SENT, Moved.CLOSE_DONE, Moved.TCP_LOST],  # the application closes
    [Moved.ACCEPTED, Moved.CLOSE_DONE, Moved.TCP_LOST],  # the peer closes, or breaks a rule
    [Moved.ACCEPTED, Moved.TCP_LOST],
    [Moved.ACCEPTED, Moved.CLOSE_SENT, Moved.TCP_LOST],  # accepted without asking; the Close is never answered
    [Moved.REFUSED, Moved.TCP_LOST],
    [Moved.DENY_BEGAN, Moved.REFUSED, Moved.TCP_LOST],
    [Moved.REFUSED, Moved.TCP_LOST],
    [Moved.DENY_BEGAN, Moved.TCP_LOST],
    [Moved.TCP_LOST],
]


@pytest.mark.parametrize("events", PATHS)
def test_every_life_ends_closed(events: list[int]) -> None:
    state = State.CONNECTING
    for event in events:
        state = NEXT[state, event]
    assert state == State.CLOSED


def test_every_entry_of_the_table_is_on_the_path_of_some_life() -> None:
    walked = set()
    for events in PATHS:
        state = State.CONNECTING
        for event in events:
            walked.add((state, event))
            state = NEXT[state, event]
    losses = {(state, Moved.TCP_LOST) for state in range(State.CLOSED + 1)}
    assert set(NEXT) - losses == walked - losses


def test_tcp_may_be_lost_in_every_state() -> None:
    assert {NEXT[state, Moved.TCP_LOST] for state in range(State.CLOSED + 1)} == {State.CLOSED}


def test_states_only_go_forward() -> None:
    assert all(after > before for (before, _), after in NEXT.items() if before != State.CLOSED)


def test_names_of_states_are_in_their_order() -> None:
    assert [getattr(State, name.upper()) for name in STATE_NAMES] == [
        State.CONNECTING, State.DENYING, State.OPEN, State.CLOSING, State.LINGERING, State.CLOSED,
    ]  # fmt: skip
