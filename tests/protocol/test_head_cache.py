"""The cache of heads: whatever it knows, it returns what parsing returns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgiws.protocol.http.head import RequestHead, parse_head
from asgiws.protocol.http.head_reader import HeadCache
from asgiws.protocol.limits import Limits
from tests.protocol.frame_help import relaxed

LIMITS = Limits(request_line_bytes=60, header_count=8)
KEYS = (
    b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAAAAAAAAAAAAAAAAAAAA==", b"dGhlIHNhbXBsZSBub25jZQ=\x00", b"short", b"",
    b"dGhlIHNhbXBsZSBub25jZQ= ", b"dGhlIHNhbXBsZSBub25jZQ==longer", b" dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
FIELDS = (
    b"Host: a", b"Host: b", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Cookie: a=1",
    b"Origin: http://a", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"X Y: bad", b"Content-Length: 3",
)  # fmt: skip
STARTS = (
    b"GET /chat", b"GET /chat?room=%20", b"get /other", b"GET http://c/chat", b"GET /\x7f", b"POST /chat", b"GET",
    b"GET /" + b"x" * 60,
)  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Mostly handshakes that differ in little: the place and value of the key, a field, the target, the version."""
    usual = [b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"]
    fields = draw(st.just(usual) | st.lists(st.sampled_from(FIELDS), max_size=9))
    keys = draw(st.lists(st.sampled_from(KEYS[:2]) | st.sampled_from(KEYS), min_size=0, max_size=2))
    for key in keys:
        place = draw(st.integers(0, len(fields)))
        fields = [*fields[:place], b"Sec-WebSocket-Key: " + key, *fields[place:]]
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"]))
    start = draw(st.sampled_from(STARTS[:2]) | st.sampled_from(STARTS))
    return b"\r\n".join([start + b" " + version, *fields, b"", b""])


@settings(relaxed, max_examples=200)
@given(st.lists(heads(), min_size=1, max_size=8))
def test_known_head_is_what_parsing_makes_of_it(sent: list[bytes]) -> None:
    cache = HeadCache(LIMITS)
    for head in sent * 2:
        assert cache.parse(head) == parse_head(head[:-4], LIMITS)


def handshake(key: bytes, *more: bytes) -> bytes:
    fields = (b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: " + key, *more)
    return b"\r\n".join([b"GET / HTTP/1.1", *fields, b"", b""])


@pytest.mark.parametrize("heads_differ_in", ["key", "cookie"])
def test_handshakes_that_differ_in_their_key_are_one_entry(heads_differ_in: str) -> None:
    cache = HeadCache(Limits())
    for number in range(10):
        key, cookie = (number, 0) if heads_differ_in == "key" else (0, number)
        parsed = cache.parse(handshake(b"%022d==" % key, b"Cookie: %d" % cookie))
        assert isinstance(parsed, RequestHead)
        assert (b"sec-websocket-key", b"%022d==" % key) in parsed.headers
    assert len(cache) == (1 if heads_differ_in == "key" else 10)


def test_heads_that_are_remembered_have_a_limit() -> None:
    cache = HeadCache(Limits())
    for number in range(2000):
        cache.parse(handshake(b"A" * 22 + b"==", b"Cookie: %d" % number))
        cache.parse(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %d\r\n\r\n" % number)
    assert len(cache) == 512
    cache.clear()
    assert len(cache) == 0
