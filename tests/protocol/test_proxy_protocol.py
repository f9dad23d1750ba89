"""The PROXY protocol: headers of both versions in any split, and every way to write a wrong one.

Sections are those of HAProxy's doc/proxy-protocol.txt.
"""

from __future__ import annotations

import socket
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.protocol.errors import BAD_PROXY_HEADER, Violation
from asgiws.protocol.proxy_protocol import ProxyHeader, parse_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
PROXY, LOCAL = 0x21, 0x20
ENDS4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
ENDS6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::2") + b"\x00\x01\xff\xff"
)


def v2(body: bytes = ENDS4, protocol: int = TCP4, command: int = PROXY, length: int | None = None) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, protocol, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def known(data: bytes) -> tuple[object, object]:
    """The ends that a header names, which has to end with the data."""
    header = parse_proxy_header(data)
    assert isinstance(header, ProxyHeader), header
    assert header.known
    assert header.size == len(data)
    return header.client, header.server


def fault(data: bytes) -> str:
    """What was seen, of a header that is refused."""
    result = parse_proxy_header(data)
    assert isinstance(result, Violation), result
    assert result.rule is BAD_PROXY_HEADER
    seen, _, allowed = result.reason.partition(", allowed: ")
    assert allowed == "PROXY protocol version 1 or 2"
    return seen


GOOD = [
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
    b"PROXY TCP6 2001:db8::1 ::2 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    v2(),
    v2(ENDS6, TCP6),
    v2(b"/client".ljust(108, b"\0") + b"/run/s.sock".ljust(108, b"\0"), UNIX),
    v2(b"", 0x00, LOCAL),
    v2(ENDS4, TCP4, LOCAL),
    v2(ENDS4 + tlv(0x04, b"x" * 300) + tlv(0xEE, b"")),
]
BAD = [
    b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXX", b"proxy tcp4", b"\r\n\r\n\x00\r\nQUIX",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", b"PROXY " + b"x" * 101, v2(command=0x11), v2(command=0x22),
    v2(protocol=0x12), v2(protocol=0x41), v2(length=4081), v2(ENDS4[:-1]), v2(ENDS4 + b"\x04\x00"),
]  # fmt: skip


# ---- version 1 (§2.1)


def test_v1_names_both_ends() -> None:
    assert known(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n") == (("192.0.2.1", 56324), ("198.51.100.2", 443))
    assert known(b"PROXY TCP6 2001:DB8::1 ::2 1 65535\r\n") == (("2001:db8::1", 1), ("::2", 65535))
    assert known(b"PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n")[0] == ("192.0.2.1", 0)


def test_v1_unknown_leaves_the_ends_and_what_stands_behind_it_is_ignored() -> None:
    assert parse_proxy_header(b"PROXY UNKNOWN\r\nGET") == ProxyHeader(15, known=False)
    line = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"
    assert parse_proxy_header(line) == ProxyHeader(len(line), known=False)


def test_longest_v1_line_is_taken_and_one_byte_more_is_not() -> None:
    """107 bytes with CR LF, as the text counts them."""
    assert parse_proxy_header(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n") == ProxyHeader(107, known=False)
    assert fault(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n") == "no line end in 107 bytes"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n", "a protocol that is none of TCP4, TCP6 and UNKNOWN"),
        (b"PROXY \r\n", "a protocol that is none of TCP4, TCP6 and UNKNOWN"),
        (b"PROXY TCP4\r\n", "a line of 2 words"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n", "a line of 7 words"),
        (b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n", "a line of 7 words"),
        (b"PROXY TCP4 2001:db8::1 ::2 1 2\r\n", "an address that is none of its family"),
        (b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", "an address that is none of its family"),
        (b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n", "an address that is none of its family"),
        (b"PROXY TCP4 192.0.2.1 \xff 1 2\r\n", "an address that is none of its family"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n", "a port that is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 02\r\n", "a port that is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 -2\r\n", "a port that is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n", "a port that is none"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 000000\r\n", "a port that is none"),
    ],
)
def test_wrong_v1_line_is_refused(line: bytes, seen: str) -> None:
    assert fault(line) == seen


# ---- version 2 (§2.2)


def test_v2_names_both_ends() -> None:
    assert known(v2()) == (("192.0.2.1", 56324), ("198.51.100.2", 443))
    assert known(v2(ENDS6, TCP6)) == (("2001:db8::1", 1), ("::2", 65535))


def test_v2_unix_client_has_no_address() -> None:
    """As on a Unix socket of ours: the server is its path."""
    body = b"/client".ljust(108, b"\0") + b"/run/s.sock".ljust(108, b"\0")
    assert known(v2(body, UNIX)) == (None, ("/run/s.sock", None))


@pytest.mark.parametrize(
    "data", [v2(b"", 0x00, LOCAL), v2(ENDS4, TCP4, LOCAL), v2(b"", 0x00, PROXY), v2(b"1234", 0x00, PROXY)]
)
def test_v2_local_and_unspecified_leave_the_ends(data: bytes) -> None:
    """§2.2: LOCAL is the proxy itself, such as a health check."""
    assert parse_proxy_header(data + b"rest") == ProxyHeader(len(data), known=False)


def test_v2_fields_behind_the_addresses_are_skipped() -> None:
    data = v2(ENDS4 + tlv(0x01, b"http/1.1") + tlv(0x05, b"unique") + tlv(0xEA, b"\x01vpce"))
    assert known(data) == (("192.0.2.1", 56324), ("198.51.100.2", 443))


@pytest.mark.parametrize(("client", "secure"), [(0x01, True), (0x05, True), (0x00, False), (0x04, False)])
def test_v2_ssl_field_says_whether_the_client_used_tls(client: int, secure: bool) -> None:
    """§2.2.6: PP2_CLIENT_SSL."""
    header = parse_proxy_header(v2(ENDS4 + tlv(0x20, bytes([client]) + bytes(4) + tlv(0x21, b"TLSv1.3"))))
    assert isinstance(header, ProxyHeader)
    assert header.secure is secure


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 4960 appendix B defines it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def with_checksum(make: object, before: bytes = b"", after: bytes = b"") -> bytes:
    assert callable(make)
    empty = v2(ENDS4 + before + tlv(0x03, bytes(4)) + after)
    return v2(ENDS4 + before + tlv(0x03, struct.pack("!I", make(empty))) + after)


def test_checksum_of_the_test_is_the_published_one() -> None:
    """RFC 3720 §B.4: 32 bytes of zeroes."""
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (tlv(0x04, b"xyz"), b""), (b"", tlv(0x05, b"behind"))])
def test_v2_right_checksum_is_taken_and_a_wrong_one_refused(before: bytes, after: bytes) -> None:
    """§2.2.3"""
    data = with_checksum(crc32c, before, after)
    assert known(data)[0] == ("192.0.2.1", 56324)
    assert fault(with_checksum(zlib.crc32, before, after)) == "a wrong checksum"
    assert fault(data[:20] + b"\x7f" + data[21:]) == "a wrong checksum"


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (v2(command=0x11), "version and command 0x11"),
        (v2(command=0x22), "version and command 0x22"),
        (v2(protocol=0x12), "family and protocol 0x12"),
        (v2(protocol=0x41), "family and protocol 0x41"),
        (v2(ENDS4, command=LOCAL, protocol=0x55), "family and protocol 0x55"),
        (v2(ENDS4[:-1]), "addresses of 11 bytes, not 12"),
        (v2(ENDS4, TCP6), "addresses of 12 bytes, not 36"),
        (v2(ENDS4 + b"\x04\x00"), "a field without its length"),
        (v2(ENDS4 + b"\x04\x00\x05abcd"), "a field of 5 bytes where 4 are left"),
        (v2(ENDS4 + tlv(0x03, b"abc")), "a wrong checksum"),
        (v2(ENDS4 + tlv(0x20, b"\x01")), "an SSL field of 1 bytes"),
    ],
)
def test_wrong_v2_header_is_refused(data: bytes, seen: str) -> None:
    assert fault(data) == seen


def test_v2_header_of_4096_bytes_is_taken_and_one_more_is_refused_from_its_length() -> None:
    assert known(v2(ENDS4 + tlv(0x04, bytes(4096 - 16 - 12 - 3))))[0] == ("192.0.2.1", 56324)
    assert fault(v2(b"", length=4081)) == "a header of 4097 bytes, limit 4096"


# ---- both


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n\r\n\x01", b"PROXY\r\n", b"\n"])
def test_what_does_not_begin_like_a_header_is_refused_at_once(data: bytes) -> None:
    """§2: "the receiver ... must not try to guess whether the protocol header is present or not"."""
    assert fault(data) == "a connection that does not begin with a PROXY header"


@pytest.mark.parametrize("data", GOOD)
def test_header_is_found_once_its_last_byte_is_there_and_not_before(data: bytes) -> None:
    whole = parse_proxy_header(data)
    assert isinstance(whole, ProxyHeader)
    assert whole.size == len(data)
    for size in range(len(data)):
        assert parse_proxy_header(data[:size]) is None
    assert parse_proxy_header(data + b"\r\nPROXY ") == whole


@pytest.mark.parametrize("data", BAD)
def test_wrong_header_stays_wrong_in_any_split(data: bytes) -> None:
    results = [parse_proxy_header(data[:size]) for size in range(len(data) + 1)]
    first = next(place for place, result in enumerate(results) if result is not None)
    assert all(isinstance(result, Violation) for result in results[first:])
    assert isinstance(parse_proxy_header(data + b"more"), Violation)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY TCP4 ", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21"]))
def test_any_bytes_give_the_same_in_any_split(tail: bytes, head: bytes) -> None:
    """Nothing, then one answer, which more bytes do not change."""
    data = head + tail
    answers = [parse_proxy_header(data[:size]) for size in range(len(data) + 1)]
    told = [answer for answer in answers if answer is not None]
    assert answers[: len(answers) - len(told)] == [None] * (len(answers) - len(told))
    assert all(answer == told[0] for answer in told) or all(isinstance(answer, Violation) for answer in told)
