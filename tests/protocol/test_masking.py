"""Unmasking: the Python way and the C module are RFC 6455 §5.3, and the C module takes no bad arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.websocket.masking import UNMASK_IN_C, unmask, unmask_python
from tests.protocol.frame_help import KEY, relaxed

KEYS = st.binary(min_size=4, max_size=4)
needs_c = pytest.mark.skipif(
    not UNMASK_IN_C,
    reason="asgiws.protocol.websocket._masking is not built: no compiler when it was installed",
)
both = pytest.mark.parametrize("way", [unmask_python, pytest.param(unmask, id="c", marks=needs_c)])

Unmask = Callable[[bytes, int, int, bytes], bytes]


def naive(data: bytes, start: int, stop: int, key: bytes) -> bytes:
    """RFC 6455 §5.3: transformed-octet-i = original-octet-i XOR masking-key-octet-j, j = i MOD 4."""
    return bytes(data[start + i] ^ key[i % 4] for i in range(stop - start))


@both
def test_example_of_the_rfc(way: Unmask) -> None:
    """RFC 6455 §5.7: a single-frame masked text message."""
    frame = bytes((
        0x81,  # FIN, text
        0x85,  # masked, 5 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
        0x7F, 0x9F, 0x4D, 0x51, 0x58,  # "Hello"
    ))  # fmt: skip
    assert way(frame, 6, 11, frame[2:6]) == b"Hello"


@both
@pytest.mark.parametrize("size", [*range(20), 1023, 1024, 1025, 1026, 1027, 1028, 65536, 65537])
def test_every_remainder_and_both_branches_equal_the_naive_loop(way: Unmask, size: int) -> None:
    data = bytes(at * 7 % 251 for at in range(size))
    assert way(data, 0, size, KEY) == naive(data, 0, size, KEY)


@both
@relaxed
@given(data=st.binary(max_size=3000), places=st.tuples(st.integers(0, 3000), st.integers(0, 3000)), key=KEYS)
def test_any_part_equals_the_naive_loop(way: Unmask, data: bytes, places: tuple[int, int], key: bytes) -> None:
    start, stop = sorted(min(place, len(data)) for place in places)
    assert way(data, start, stop, key) == naive(data, start, stop, key)


@both
@relaxed
@given(data=st.binary(max_size=3000), key=KEYS)
def test_masking_twice_is_the_identity(way: Unmask, data: bytes, key: bytes) -> None:
    size = len(data)
    assert way(way(data, 0, size, key), 0, size, key) == data


@both
def test_the_bytes_given_are_left_alone(way: Unmask) -> None:
    data = bytes(range(256)) * 8
    kept = bytes(bytearray(data))
    way(data, 0, len(data), KEY)
    assert data == kept


@needs_c
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param((), TypeError, id="none"),
        pytest.param((b"data", 0, 4), TypeError, id="three"),
        pytest.param((b"data", 0, 4, KEY, 0), TypeError, id="five"),
        pytest.param(("data", 0, 4, KEY), TypeError, id="text"),
        pytest.param((bytearray(b"data"), 0, 4, KEY), TypeError, id="bytearray-that-may-move"),
        pytest.param((memoryview(b"data"), 0, 4, KEY), TypeError, id="memoryview"),
        pytest.param((None, 0, 4, KEY), TypeError, id="none-as-data"),
        pytest.param((b"data", "0", 4, KEY), TypeError, id="text-as-start"),
        pytest.param((b"data", 0, None, KEY), TypeError, id="none-as-stop"),
        pytest.param((b"data", 0.0, 4, KEY), TypeError, id="float-as-start"),
        pytest.param((b"data", 0, 4, "keys"), TypeError, id="text-as-key"),
        pytest.param((b"data", -1, 4, KEY), ValueError, id="start-below-zero"),
        pytest.param((b"data", 0, 5, KEY), ValueError, id="stop-behind-the-end"),
        pytest.param((b"data", 3, 2, KEY), ValueError, id="stop-before-start"),
        pytest.param((b"data", 5, 5, KEY), ValueError, id="both-behind-the-end"),
        pytest.param((b"data", -2, -1, KEY), ValueError, id="both-below-zero"),
        pytest.param((b"data", 0, 4, b"key"), ValueError, id="key-of-3"),
        pytest.param((b"data", 0, 4, b"keys!"), ValueError, id="key-of-5"),
        pytest.param((b"data", 0, 4, b""), ValueError, id="key-of-0"),
        pytest.param((b"data", 0, 2**63 - 1, KEY), ValueError, id="stop-at-the-most-a-size-holds"),
        pytest.param((b"data", 0, 2**63, KEY), OverflowError, id="stop-over-a-size"),
        pytest.param((b"data", -(2**200), 4, KEY), OverflowError, id="start-far-below-zero"),
        pytest.param((b"data", "0", 2**63, KEY), (TypeError, OverflowError), id="two-faults"),
    ],
)
def test_hostile_arguments_to_the_c_module_raise(
    arguments: tuple[object, ...], error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    untyped: Callable[..., bytes] = unmask
    with pytest.raises(error):
        untyped(*arguments)


@needs_c
def test_c_module_takes_no_keywords() -> None:
    untyped: Callable[..., bytes] = unmask
    with pytest.raises(TypeError):
        untyped(b"data", 0, 4, key=KEY)


@needs_c
@relaxed
@given(
    data=st.one_of(st.binary(max_size=40), st.none(), st.text(max_size=3)),
    start=st.integers(-(2**70), 2**70) | st.integers(-3, 45),
    stop=st.integers(-(2**70), 2**70) | st.integers(-3, 45),
    key=st.binary(max_size=6) | st.none(),
)
def test_c_module_answers_right_or_raises_whatever_it_is_given(
    data: bytes | str | None, start: int, stop: int, key: bytes | None
) -> None:
    untyped: Callable[..., bytes] = unmask
    proper = isinstance(data, bytes) and isinstance(key, bytes) and len(key) == 4 and 0 <= start <= stop <= len(data)
    if proper:
        assert isinstance(data, bytes)
        assert isinstance(key, bytes)
        assert untyped(data, start, stop, key) == naive(data, start, stop, key)
    else:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            untyped(data, start, stop, key)
