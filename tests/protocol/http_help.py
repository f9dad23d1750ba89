"""What the tests of the HTTP modules share: requests as bytes, the two ways to feed them, and what is expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex

import pytest
from hypothesis import strategies as st

from asgiws.protocol.errors import RULES, Violation
from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.http.head_reader import HeadReader
from asgiws.protocol.limits import Limits

LIMITS = Limits()
HOST = b"Host: example.com"


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = HOST) -> bytes:
    """Give a request head: the line, Host, then `fields`, one per line."""
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def feed(pieces: Iterable[bytes], limits: Limits = LIMITS) -> tuple[RequestHead | Violation | None, bytes]:
    """Feed pieces one by one; give what came of them and the bytes not used."""
    reader = HeadReader(limits)
    result: RequestHead | Violation | None = None
    rest = iter(pieces)
    for piece in rest:
        reader.buffer += piece
        result = reader.next_head()
        if result is not None:
            break
    return result, bytes(reader.buffer) + b"".join(rest)


def parse(data: bytes, limits: Limits = LIMITS) -> RequestHead | Violation | None:
    """Feed all of `data` at once."""
    return feed([data], limits)[0]


def dribble(data: bytes, limits: Limits = LIMITS) -> RequestHead | Violation | None:
    """Feed `data` byte by byte."""
    return feed((data[at : at + 1] for at in range(len(data))), limits)[0]


def accepted(result: object) -> RequestHead:
    assert isinstance(result, RequestHead), result
    return result


def refused(result: object, name: str, code: int, *said: str) -> None:
    """Check a violation: its rule, its status, and that its reason has each of `said` and is safe to log."""
    assert isinstance(result, Violation), result
    assert (result.rule.name, result.rule.code) == (name, code), result
    assert RULES[name] is result.rule
    for words in said:
        assert words in result.reason
    assert result.reason.isascii()
    assert result.reason.isprintable()


def table(names: str, cases: Mapping[str, object]) -> pytest.MarkDecorator:
    """Parametrize by a table: test id to value, or to the tuple of values where there are several names."""
    several = "," in names
    params = [
        pytest.param(*(case if several and isinstance(case, tuple) else (case,)), id=i) for i, case in cases.items()
    ]
    return pytest.mark.parametrize(names, params)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut `data` anywhere, into any number of pieces, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def mutated(draw: st.DrawFn, originals: Iterable[bytes]) -> bytes:
    """Take one of `originals` and replace, insert or remove a few bytes, those that delimit most of all."""
    data = draw(st.sampled_from(list(originals)))
    byte = st.sampled_from([bytes([byte]) for byte in b"\r\n\0\t :;,/%?=*\x0b\x7f\x85aF09"]) | st.binary(max_size=3)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(byte) + data[at + draw(st.integers(0, 2)) :]
    return data


class CountingBuffer(bytearray):
    """A buffer that counts the bytes that are read from it: searched, compared or copied."""

    cost = 0

    def find(self, sub: object, start: SupportsIndex | None = 0, end: SupportsIndex | None = None) -> int:
        assert isinstance(sub, bytes)
        first, last, _ = slice(start, end).indices(len(self))
        found = super().find(sub, start, end)
        self.cost += max(0, (last if found < 0 else found + len(sub)) - first)
        return found

    def __getitem__(self, key: SupportsIndex | slice) -> object:  # type: ignore[override]  # counts, gives the same
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            self.cost += len(range(first, last, step))
        else:
            self.cost += 1
        return super().__getitem__(key)
