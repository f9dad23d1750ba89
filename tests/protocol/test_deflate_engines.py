"""The engines of DEFLATE: which one does what, and that nothing but time and a few bytes depends on it."""

from __future__ import annotations

import json
import sys
import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgiws.protocol.errors import Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.deflate import DEDICATED, Deflater, DeflateSettings, Inflater, inflate_message
from asgiws.protocol.websocket.deflate_engines import LONG_FROM_BYTES, ZLIB, Engines, installed_engines
from tests.protocol.engines import FAST, MISSING, using
from tests.protocol.frame_help import cut, relaxed
from tests.protocol.test_receiver_properties import compressed_payloads

TAIL = b"\x00\x00\xff\xff"
SIZES = (0, 1, 64, LONG_FROM_BYTES - 1, LONG_FROM_BYTES, 600, 5000, 70_000)

needs_fast = pytest.mark.skipif(FAST == ZLIB, reason=MISSING)


def records(size: int) -> bytes:
    """JSON of `size` bytes, as dashboards send it."""
    chance = Random(size)
    rows = [{"id": chance.randrange(10**8), "price": chance.random(), "side": "buy"} for _ in range(size // 40 + 1)]
    return json.dumps(rows).encode()[:size]


def inflate_in_window(data: bytes, window_bits: int) -> bytes:
    """Inflate as a client that keeps a window of 2^bits bytes and no more: with output of a byte each time."""
    inflater = zlib.decompressobj(-window_bits)
    out = bytearray()
    while piece := inflater.decompress(data, 1):
        out += piece
        data = inflater.unconsumed_tail
    return bytes(out)


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_message_is_inflated_alone_and_within_the_window(engines: Engines, window_bits: int) -> None:
    """RFC 7692 §7.1.1.1, §7.1.2.1: no reference to another message, nor to what is further back than the window."""
    deflater = Deflater(DeflateSettings(), window_bits, takeover=False)
    for size in (*SIZES, *reversed(SIZES)):
        for payload in (records(size), bytes(Random(size).choices(b"abc", k=size)), bytes(size)):
            for compressed in (deflater.compress(payload), deflater.compress_alone(payload)):
                assert inflate_in_window(compressed + TAIL, window_bits) == payload


@needs_fast
@settings(relaxed, max_examples=300)
@given(
    wire=compressed_payloads() | st.binary(max_size=80),
    places=st.lists(st.integers(0, 150), max_size=3),
    takeover=st.booleans(),
    limit=st.sampled_from([1, 100, 300, 2**24]),
)
def test_any_bytes_are_inflated_or_refused_as_by_zlib(
    wire: bytes, places: list[int], takeover: bool, limit: int
) -> None:
    """The same bytes and the same fault for every message, also for one that is not DEFLATE or ends too early."""

    def outcome(engines: Engines) -> list[tuple[Violation | None, bytes, bytes | None]]:
        limits = Limits(message_bytes=limit)
        with using(engines):
            inflater = Inflater(limits, takeover)
            results = []
            for _ in range(2):
                out = bytearray()
                fault = None
                for piece in cut(wire, places):
                    fault = fault or inflater.feed(piece, out, len(wire))
                fault = fault or inflater.finish(out, len(wire))
                results.append((fault, bytes(out), inflate_message(wire, limits)))
                if fault is not None:
                    break
            return results

    assert outcome(ZLIB) == outcome(FAST)


@needs_fast
@pytest.mark.parametrize("size", [128, 299, 300, 512, 1024, 4096, 65_536, 1_000_000])
def test_faster_engine_makes_hardly_more_of_it(size: int) -> None:
    """At level 1 at most 4 % more than zlib, whatever the size."""
    payload = records(size)
    sizes = {}
    for engines in (ZLIB, FAST):
        with using(engines):
            sizes[engines] = len(Deflater(DeflateSettings(), 15, takeover=False).compress(payload))
    assert sizes[FAST] <= 1.04 * sizes[ZLIB]


@pytest.mark.parametrize(
    ("options", "takeover"),
    [(DeflateSettings(level=6), False), (DeflateSettings(DEDICATED), True), (DeflateSettings(level=0), False)],
    ids=["level 6", "dedicated", "level 0"],
)
def test_window_of_its_own_and_other_levels_are_those_of_zlib(
    engines: Engines, options: DeflateSettings, takeover: bool
) -> None:
    """The ratio that an operator has chosen, and the memory that is documented for a dedicated compressor."""
    deflater = Deflater(options, 15, takeover)
    expected = zlib.compressobj(options.level, zlib.DEFLATED, -15, options.memory_level)
    flush = zlib.Z_SYNC_FLUSH if takeover else zlib.Z_FULL_FLUSH
    for payload in (b"short" * 9, records(1000), records(1000)):
        assert deflater.compress(payload) == (expected.compress(payload) + expected.flush(flush))[:-4]


@needs_fast
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("isal", "zlib_ng"), "zlib compresses, zlib inflates"),
        (("isal",), "zlib compresses, zlib-ng inflates"),
        (("zlib_ng",), "zlib and from 300 bytes isal compress, zlib inflates"),
        ((), "zlib and from 300 bytes isal compress, zlib-ng inflates"),
    ],
)
def test_what_is_not_installed_is_done_by_zlib(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], said: str
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    assert str(installed_engines()) == said
