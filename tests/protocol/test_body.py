"""Request bodies: how their length is decided, how they are read, and how each fault is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.errors import Violation
from asgiws.protocol.http.body import BodyReader, ChunkedBody, LengthBody, body_reader
from asgiws.protocol.http.fields import printable
from asgiws.protocol.limits import Limits
from tests.protocol.http_help import (
    LIMITS,
    CountingBuffer,
    accepted,
    cut,
    mutated,
    parse,
    refused,
    request,
    table,
)


def read(reader: BodyReader, *pieces: bytes) -> tuple[bytes | Violation, bytes]:
    """Feed pieces in both ways in turn; give the body so far, or what ended it, and the bytes not used."""
    buffer = bytearray()
    body = b""
    for at, piece in enumerate(pieces):
        if at & 1:
            data = reader.feed(piece, buffer)
        else:
            buffer += piece
            data = reader.read(buffer)
        if isinstance(data, Violation):
            return data, b""
        body += data
    return body, bytes(buffer)


def chunked(data: bytes, limits: Limits = LIMITS) -> bytes | Violation:
    """Give what a chunked body in one piece is read as."""
    return read(ChunkedBody(limits), data)[0]


def each_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# ---- framing: request smuggling


@table("values", {
    "list-same": (b"3, 3",), "list-other": (b"3, 4",), "twice-same": (b"3", b"3"), "twice-other": (b"3", b"4"),
    "plus": (b"+3",), "minus": (b"-1",), "underscore": (b"1_0",), "hexadecimal": (b"0x3",), "fraction": (b"3.0",),
    "exponent": (b"1e1",), "space-inside": (b"1 0",), "empty": (b"",), "superscript": (b"\xb3",),
    "arabic-digit": ("٣".encode(),), "19-digits": (b"1" * 19,), "5000-digits": (b"1" * 5000,),
})  # fmt: skip
def test_content_length_other_than_one_number_is_refused(values: tuple[bytes, ...]) -> None:
    """RFC 9112 §6.3, item 5: an invalid Content-Length is an unrecoverable error, 400."""
    result = parse(request(*[b"Content-Length: " + value for value in values]))
    seen = f"Content-Length: {printable(b', '.join(values))}"
    refused(result, "bad-content-length", 400, seen, "allowed: one decimal number")


@pytest.mark.parametrize("zeros", [1, 19, 5000])
@pytest.mark.parametrize(("number", "length"), [(b"", 0), (b"3", 3), (b"9" * 18, 10**18 - 1)])
def test_zeros_before_a_content_length_are_not_counted(zeros: int, number: bytes, length: int) -> None:
    """RFC 9110 §8.6: Content-Length = 1*DIGIT."""
    head = parse(request(b"Content-Length: " + b"0" * zeros + number), dataclasses.replace(LIMITS, body_bytes=0))
    assert accepted(head).content_length == length


@pytest.mark.parametrize("length", ["0", "3", "x"])
@pytest.mark.parametrize("coding", ["chunked", "gzip, chunked", "identity", ""])
@pytest.mark.parametrize("length_first", [True, False])
def test_length_beside_coding_is_refused(length: str, coding: str, length_first: bool) -> None:
    """RFC 9112 §6.1: both in one message "might indicate an attempt to perform request smuggling"."""
    fields = [f"Content-Length: {length}".encode(), f"Transfer-Encoding: {coding}".encode()]
    result = parse(request(*fields if length_first else reversed(fields)))
    refused(result, "length-and-coding", 400, "Content-Length and Transfer-Encoding", "one is allowed")


def test_coding_in_http_1_0_is_refused() -> None:
    """RFC 9112 §6.1: Transfer-Encoding in HTTP/1.0 MUST be treated as faulty framing."""
    result = parse(request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"))
    refused(result, "coding-in-http-1-0", 400, "Transfer-Encoding in HTTP/1.0", "allowed: Content-Length")


@table("values", {
    "not-last": (b"chunked, gzip",), "twice": (b"chunked, chunked",),
    "twice-before-other": (b"chunked, chunked, gzip",), "two-fields": (b"chunked", b"chunked"),
    "two-fields-other-last": (b"chunked", b"identity"), "empty-element-after": (b"chunked,",),
    "empty-element-before": (b", chunked",), "empty-field-after": (b"chunked", b""), "empty": (b"",),
    "comma": (b",",),
})  # fmt: skip
def test_transfer_coding_other_than_chunked_once_is_refused(values: tuple[bytes, ...]) -> None:
    """RFC 9112 §6.3, item 4: chunked not last is 400; an empty element is what smuggling is made of."""
    result = parse(request(*[b"Transfer-Encoding: " + value for value in values]))
    seen = f"Transfer-Encoding: {printable(b', '.join(values))}"
    refused(result, "bad-transfer-coding", 400, seen, "allowed: chunked")


@table("values", {
    "gzip-chunked": (b"gzip, chunked",), "gzip": (b"gzip",), "identity": (b"identity",),
    "two-fields": (b"gzip", b"chunked"), "prefix": (b"xchunked",), "parameter": (b"chunked;a=b",),
    "quoted": (b'"chunked"',), "space": (b"chunked chunked",), "8-bit": (b"\xa0chunked",),
    "kelvin": ("chun\N{KELVIN SIGN}ed".encode(),),
})  # fmt: skip
def test_unknown_transfer_coding_is_refused_with_501(values: tuple[bytes, ...]) -> None:
    """RFC 9112 §6.1: 501 to a transfer coding that the server does not understand."""
    result = parse(request(*[b"Transfer-Encoding: " + value for value in values]))
    seen = f"Transfer-Encoding: {printable(b', '.join(values))}"
    refused(result, "unknown-transfer-coding", 501, seen, "allowed: chunked")


@table("field,length,chunked", {
    "neither": (b"A: b", None, False), "zero": (b"Content-Length: 0", 0, False),
    "length": (b"content-length:\t12 ", 12, False), "leading-zero": (b"Content-Length: 012", 12, False),
    "chunked": (b"Transfer-Encoding: chunked", None, True),
    "chunked-other-case": (b"transfer-encoding:CHUNKED\t", None, True),
})  # fmt: skip
def test_framing_of_the_body(field: bytes, length: int | None, chunked: bool) -> None:
    """RFC 9112 §6.3."""
    head = accepted(parse(request(field, line=b"POST / HTTP/1.1")))
    assert (head.content_length, head.chunked) == (length, chunked)


# ---- a body of known length


def test_length_body_takes_its_length_and_no_more() -> None:
    """RFC 9112 §6.2: what is behind it is the next request."""
    reader = LengthBody(5)
    buffer = bytearray(b"ab")
    assert (reader.read(buffer), reader.complete, bytes(buffer)) == (b"ab", False, b"")
    assert (reader.read(buffer), reader.complete) == (b"", False)
    buffer += b"cdeGET /"
    assert (reader.read(buffer), reader.complete, bytes(buffer)) == (b"cde", True, b"GET /")
    assert (reader.read(buffer), reader.complete, bytes(buffer)) == (b"", True, b"GET /")


@table("field,body", {
    "neither": (b"A: b", b""), "zero": (b"Content-Length: 0", b""), "length": (b"Content-Length: 3", b"3\r\n"),
    "chunked": (b"Transfer-Encoding: chunked", b"abc"),
})  # fmt: skip
def test_body_reader_is_what_the_head_announces(field: bytes, body: bytes) -> None:
    """RFC 9112 §6.3."""
    reader = body_reader(accepted(parse(request(field))), LIMITS)
    assert reader.complete is (body == b"")
    assert read(reader, b"3\r\nabc\r\n0\r\n\r\n")[0] == body
    assert reader.complete


# ---- a chunked body


@table("data,body", {
    "empty": (b"0\r\n\r\n", b""),
    "one": (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "several": (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
    "line-ends-as-data": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "hexadecimal": (b"fF\r\n" + b"a" * 255 + b"\r\n0\r\n\r\n", b"a" * 255),
    "leading-zeros": (b"0" * 1000 + b"3\r\nabc\r\n" + b"0" * 1000 + b"\r\n\r\n", b"abc"),
    "extension": (b"3;a=b;c=\"d\te\" ;~\x80\xff\r\nabc\r\n0;e\r\n\r\n", b"abc"),
    "space-before-extension": (b"3 \t;a\r\nabc\r\n0\r\n\r\n", b"abc"),
    "trailers": (b"3\r\nabc\r\n0\r\nA: b\r\nc:\t\xe9\r\n\r\n", b"abc"),
})  # fmt: skip
def test_chunked_body_is_read_in_any_pieces(data: bytes, body: bytes) -> None:
    """RFC 9112 §7.1."""
    for pieces in ([data + b"GET /"], [*each_byte(data), b"GET /"]):
        reader = ChunkedBody(LIMITS)
        assert read(reader, *pieces) == (body, b"GET /")
        assert reader.complete


def test_chunked_body_is_complete_only_after_the_empty_line() -> None:
    """RFC 9112 §7.1: chunked-body = *chunk last-chunk trailer-section CRLF."""
    reader = ChunkedBody(LIMITS)
    assert read(reader, b"0\r\nA: b\r\n\r") == (b"", b"\r")
    assert not reader.complete
    assert read(reader, b"\r\n") == (b"", b"")
    assert reader.complete


def test_trailers_are_dropped_whatever_they_say() -> None:
    """RFC 9110 §6.5.1: a trailer that is merged into the head can change framing and routing."""
    data = b"0\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nHost: evil\r\n\r\n"
    assert read(ChunkedBody(LIMITS), data + b"GET /") == (b"", b"GET /")


@table("size", {
    "empty": b"", "0x": b"0x3", "0X": b"0X3", "plus": b"+3", "minus": b"-3", "underscore": b"1_0",
    "space-before": b" 3", "letter": b"3g", "space-inside": b"1 0", "fraction": b"3.0",
    "8-bit": b"3\xa0", "nul": b"3\0", "x0b": b"3\x0b", "cr": b"3\r", "16-digits": b"1000000000000003",
    "17-digits": b"10000000000000003", "extension-only": b";a", "list": b"3,3",
})  # fmt: skip
@pytest.mark.parametrize("extension", [b"", b";a=b"])
def test_bad_chunk_size_is_refused(size: bytes, extension: bytes) -> None:
    """RFC 9112 §7.1: chunk-size = 1*HEXDIG; overflow has to be anticipated."""
    seen = printable(size.partition(b";")[0])
    result = chunked(size + extension + b"\r\nabc\r\n0\r\n\r\n")
    refused(result, "bad-chunk-size", 400, f"chunk size {seen}, ", "allowed: 1 to 15 hexadecimal digits")


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t "])
def test_space_after_a_chunk_size_is_refused_without_an_extension(space: bytes) -> None:
    """RFC 9112 §7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ ... ] )."""
    result = chunked(b"3" + space + b"\r\nabc\r\n0\r\n\r\n")
    refused(result, "bad-chunk-size", 400, f"chunk size 3{printable(space)}", "allowed: 1 to 15 hexadecimal digits")


@table("data", {
    "size": b"3\nabc\r\n0\r\n\r\n", "last-size": b"3\r\nabc\r\n0\n\r\n", "extension": b"3;a\nabc\r\n0\r\n\r\n",
    "extension-with-line": b"3;a\nGET / HTTP/1.1\r\n0\r\n\r\n", "first-byte": b"\n3\r\nabc",
    "first-byte-before-cr": b"\n3\r", "behind-a-chunk": b"3\r\nabc\r\n\n0\r\n\r\n",
})  # fmt: skip
def test_lf_alone_after_a_chunk_size_is_refused(data: bytes) -> None:
    """RFC 9112 §7.1: some take LF in an extension for its end and some do not."""
    for result in (chunked(data), read(ChunkedBody(LIMITS), *each_byte(data))[0]):
        refused(result, "bad-chunk-size", 400, "line end without CR", "lines end with CR LF")


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\x0b", b"\x1b", b"\x1f", b"\x7f"])
def test_control_character_in_a_chunk_extension_is_refused(byte: bytes) -> None:
    """RFC 9112 §7.1.1: names and values of extensions are tokens and quoted strings."""
    result = chunked(b"3;a" + byte + b"b\r\nabc\r\n0\r\n\r\n")
    refused(result, "bad-chunk-extension", 400, "control character in a chunk extension", "allowed: text")


@table("data", {
    "no-end": b"3\r\nabc0\r\n\r\n", "lf": b"3\r\nabc\n0\r\n\r\n", "cr": b"3\r\nabc\r0\r\n\r\n", "two": b"3\r\nabcXX0",
    "lf-cr": b"3\r\nabc\n\r0\r\n\r\n", "space": b"3\r\nabc \r\n0\r\n\r\n", "one-byte-more": b"3\r\nabcd\r\n0\r\n\r\n",
})  # fmt: skip
def test_chunk_data_without_cr_lf_behind_it_is_refused(data: bytes) -> None:
    """RFC 9112 §7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF."""
    seen = printable(data[6:8])
    refused(chunked(data), "bad-chunk-end", 400, f"{seen} after chunk data", "allowed: CR LF")
    refused(read(ChunkedBody(LIMITS), *each_byte(data))[0], "bad-chunk-end", 400, "after chunk data", "allowed: CR LF")


@table("line,seen", {
    "no-colon": (b"abc", "trailer abc,"), "no-colon-usual-name": (b"Trailer", "trailer Trailer,"),
    "empty-name": (b": b", "trailer : b"), "space-before-colon": (b"A : b", "trailer A : b"),
    "folded": (b"A: b\r\n c", "trailer  c"), "8-bit-name": (b"\xe9: b", "trailer \\xe9: b"),
    "next-request": (b"GET / HTTP/1.1", "trailer GET / HTTP/1.1"), "nul": (b"A: \0", "control character"),
    "cr": (b"A: b\rc", "control character"), "x0b": (b"A: b\x0bc", "control character"),
    "x7f": (b"A\x7f: b", "control character"), "lf": (b"A: b\nC: d", "line end without CR"),
})  # fmt: skip
def test_trailer_that_is_no_field_is_refused(line: bytes, seen: str) -> None:
    """RFC 9112 §7.1.2: trailer-section = *( field-line CRLF )."""
    result = chunked(b"0\r\n" + line + b"\r\n\r\n")
    refused(result, "bad-trailer", 400, seen, "lines end with CR LF" if "line end" in seen else "allowed: ")


# ---- limits

SMALL = Limits(body_bytes=10, head_bytes=20)
BOTH = pytest.mark.parametrize("cut_up", [lambda data: [data], each_byte], ids=["whole", "dribbled"])
CutUp = Callable[[bytes], list[bytes]]


@BOTH
def test_chunk_line_limit(cut_up: CutUp) -> None:
    """RFC 9112 §7.1.1: a server ought to limit the length of chunk extensions."""
    line = b"3;" + b"a" * 1022
    assert read(ChunkedBody(LIMITS), *cut_up(line + b"\r\nabc\r\n0\r\n\r\n"))[0] == b"abc"
    result = read(ChunkedBody(LIMITS), *cut_up(line + b"a\r\nabc"))[0]
    refused(result, "chunk-line-too-long", 400, "line of 1025 bytes or more", "limit 1024")
    # before its end arrives
    refused(read(ChunkedBody(LIMITS), *cut_up(b"0" * 1026))[0], "chunk-line-too-long", 400, "limit 1024")


@BOTH
def test_trailer_limit(cut_up: CutUp) -> None:
    """RFC 6585 §5: the limit of the head, for all trailer lines with their ends."""
    for fields in (b"A: " + b"b" * 15, b"A: bb\r\nC: " + b"d" * 8, b"A:" + b"b" * 6 + b"\r\nC:" + b"d" * 6):
        at_limit = b"0\r\n" + fields + b"\r\n\r\n"
        assert len(fields + b"\r\n") == 20
        assert read(ChunkedBody(SMALL), *cut_up(at_limit)) == (b"", b"")
        result = read(ChunkedBody(SMALL), *cut_up(at_limit.replace(b"A:", b"AA:")))[0]
        refused(result, "trailers-too-large", 431, "trailers of 21 bytes or more", "limit 20")
    # before their end arrives
    refused(read(ChunkedBody(SMALL), *cut_up(b"0\r\n" + b"a" * 22))[0], "trailers-too-large", 431, "of 21 bytes")


@BOTH
def test_body_limit(cut_up: CutUp) -> None:
    """RFC 9110 §15.5.14: chunks count together, and are refused before their data is taken."""
    assert read(ChunkedBody(SMALL), *cut_up(b"4\r\naaaa\r\n6\r\nbbbbbb\r\n0\r\n\r\n"))[0] == b"aaaabbbbbb"
    result = read(ChunkedBody(SMALL), *cut_up(b"4\r\naaaa\r\n7\r\n"))[0]
    refused(result, "body-too-large", 413, "body of 11 bytes or more", "limit 10")
    refused(chunked(b"fffffffffffffff\r\n", SMALL), "body-too-large", 413, f"{16**15 - 1} bytes", "limit 10")


# ---- properties


def encode(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Encode chunks of extension and data."""
    lines = [b"%X%s\r\n%s\r\n" % (len(data), extension, data) for extension, data in chunks if data]
    return b"".join(lines) + b"0\r\n\r\n"


CHUNKS = st.lists(st.tuples(st.sampled_from([b"", b";a", b' ;a="b"']), st.binary(max_size=20)), max_size=6)


@given(st.data(), CHUNKS, st.binary(max_size=9))
def test_encode_then_read_is_the_identity(data: st.DataObject, chunks: list[tuple[bytes, bytes]], rest: bytes) -> None:
    """RFC 9112 §7.1.3."""
    reader = ChunkedBody(LIMITS)
    body = b"".join(data for _, data in chunks)
    assert read(reader, *data.draw(cut(encode(chunks) + rest))) == (body, rest)
    assert reader.complete


SAMPLES = [
    encode([(b"", b"abcd"), (b";a=b", b"e" * 17)]) + b"GET / HTTP/1.1",
    b"3;" + b"a" * 1022 + b"\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n",
]


@given(st.data(), st.sampled_from([LIMITS, SMALL, Limits(head_bytes=5)]))
def test_any_split_gives_the_same_as_one_feed(data: st.DataObject, limits: Limits) -> None:
    """Cuts change neither the body nor which rule is broken."""
    stream = data.draw(mutated(SAMPLES) | st.binary(max_size=60))
    whole, split = ChunkedBody(limits), ChunkedBody(limits)
    result, rest = read(whole, stream)
    other, other_rest = read(split, *data.draw(cut(stream)))
    if isinstance(result, Violation):
        assert isinstance(other, Violation)
        assert other.rule is result.rule
        refused(result, result.rule.name, result.rule.code)
    else:
        assert (other, other_rest, split.complete) == (result, rest, whole.complete)


@given(st.data(), st.integers(0, 40), st.binary(max_size=60))
def test_any_split_of_a_length_body_gives_the_same(data: st.DataObject, length: int, stream: bytes) -> None:
    """RFC 9112 §6.2."""
    reader = LengthBody(length)
    assert read(reader, *data.draw(cut(stream))) == (stream[:length], stream[length:])
    assert reader.complete is (len(stream) >= length)


@table("data", {
    "one-byte-chunks": b"1\r\na\r\n" * 10000, "one-chunk": b"fff0\r\n" + b"a" * 0xFFF0,
    "extensions": (b"1;" + b"a" * 1000 + b"\r\na\r\n") * 60, "trailer": b"0\r\nA: " + b"b" * 65000,
    "trailers": b"0\r\n" + b"A: b\r\n" * 10000,
})  # fmt: skip
@pytest.mark.parametrize("piece_bytes", [1, 1000, 70000])
def test_chunked_body_costs_linear_time(data: bytes, piece_bytes: int) -> None:
    """RFC 9112 §7.1: however it is cut into chunks and pieces, each byte is looked at a few times only."""
    reader, counting = ChunkedBody(LIMITS), CountingBuffer()
    for at in range(0, len(data), piece_bytes):
        counting += data[at : at + piece_bytes]
        assert isinstance(reader.read(counting), bytes)
    assert counting.cost < 5 * len(data)
