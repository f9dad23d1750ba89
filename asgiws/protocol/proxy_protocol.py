"""The header of the PROXY protocol, versions 1 and 2: the addresses of both ends of a forwarded connection.

A load balancer that forwards TCP writes it before the client's first byte. Specification: "The PROXY protocol", Willy
Tarreau, 2020-03-05 (HAProxy's doc/proxy-protocol.txt); sections are those of that text.

Data enters as the first bytes of a connection; `parse_proxy_header` is called again with more bytes until it returns a
header or a violation. It keeps no state. §2: the receiver must not guess whether a header is present, so anything that
does not begin like one is a violation.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from asgiws.protocol.errors import BAD_PROXY_HEADER, Violation

__all__ = ["ProxyHeader", "parse_proxy_header"]

_V1_PREFIX: Final = b"PROXY "
_V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
# §2.1: the longest line is 107 bytes, CR LF included
_V1_MOST_BYTES: Final = 107
# §2.2 allows 64 KiB. nginx takes 4,096 bytes too; with all TLVs that load balancers send today it is below 1,024.
_V2_MOST_BYTES: Final = 4096
_V2_FIXED_BYTES: Final = 16
_CRC32C: Final = 0x03
_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01


class ProxyHeader(NamedTuple):
    """A whole header."""

    size: int
    """Its length in bytes; the bytes that follow are those of the client."""
    known: bool
    """Whether it names the ends; else they are those of the TCP connection (LOCAL, UNKNOWN): the proxy's own."""
    client: tuple[str, int] | None = None
    """Address and port; None when the client connected to a Unix socket."""
    server: tuple[str, int | None] | None = None
    """Address and port, or the path of a Unix socket and None."""
    secure: bool = False
    """Whether the client used TLS towards the proxy (§2.2.6)."""


_Ends = tuple[tuple[str, int] | None, tuple[str, int | None]]


def parse_proxy_header(data: bytes) -> ProxyHeader | Violation | None:
    """Return the header at the start of `data`, or what is wrong with it, or None when more bytes are needed."""
    if data.startswith(_V2_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(_V1_PREFIX):
        return _parse_v1(data)
    if _V2_SIGNATURE.startswith(data) or _V1_PREFIX.startswith(data):
        return None
    return _bad("a connection that does not begin with a PROXY header")


def _bad(seen: str) -> Violation:
    return Violation(BAD_PROXY_HEADER, f"{seen}, allowed: PROXY protocol version 1 or 2")


# ---- version 1, a line of text (§2.1)


def _parse_v1(data: bytes) -> ProxyHeader | Violation | None:
    end = data.find(b"\r\n", 0, _V1_MOST_BYTES)
    if end < 0:
        return None if len(data) < _V1_MOST_BYTES else _bad(f"no line end in {_V1_MOST_BYTES} bytes")
    words = data[:end].split(b" ")
    # "the receiver must ignore anything presented before the CRLF is found"
    if words[1] == b"UNKNOWN":
        return ProxyHeader(end + 2, known=False)
    if words[1] not in (b"TCP4", b"TCP6"):
        return _bad("a protocol that is none of TCP4, TCP6 and UNKNOWN")
    if len(words) != 6:
        return _bad(f"a line of {len(words)} words")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    client_port, server_port = _v1_port(words[4]), _v1_port(words[5])
    try:
        client, server = str(kind(words[2].decode("ascii"))), str(kind(words[3].decode("ascii")))
    except ValueError:
        return _bad("an address that is none of its family")
    if client_port is None or server_port is None:
        return _bad("a port that is none")
    return ProxyHeader(end + 2, known=True, client=(client, client_port), server=(server, server_port))


def _v1_port(text: bytes) -> int | None:
    # "as a decimal integer in the range [0..65535] inclusive. Heading zeroes are not permitted"
    if not text.isdigit() or len(text) > 5 or (len(text) > 1 and text.startswith(b"0")) or int(text) > 65535:
        return None
    return int(text)


# ---- version 2, binary (§2.2)


def _parse_v2(data: bytes) -> ProxyHeader | Violation | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    command, protocol, length = struct.unpack_from("!BBH", data, len(_V2_SIGNATURE))
    if command not in (0x20, 0x21):
        # "Receivers must drop connections presenting unexpected values here", in each of the four places
        return _bad(f"version and command {command:#04x}")
    if protocol not in _V2_LAYOUTS:
        return _bad(f"family and protocol {protocol:#04x}")
    layout = _V2_LAYOUTS[protocol]
    size = _V2_FIXED_BYTES + length
    if size > _V2_MOST_BYTES:
        return _bad(f"a header of {size} bytes, limit {_V2_MOST_BYTES}")
    if len(data) < size:
        return None
    if command == 0x20 or layout is None:  # LOCAL, or a family that names no ends
        return ProxyHeader(size, known=False)
    if length < layout.size:
        return _bad(f"addresses of {length} bytes, not {layout.size}")
    client, server = _v2_ends(protocol, layout.unpack_from(data, _V2_FIXED_BYTES))
    extra = _parse_tlvs(data, _V2_FIXED_BYTES + layout.size, size)
    if isinstance(extra, Violation):
        return extra
    return ProxyHeader(size, known=True, client=client, server=server, secure=extra)


_V2_LAYOUTS: Final[dict[int, struct.Struct | None]] = {
    0x00: None,
    0x11: struct.Struct("!4s4sHH"),
    0x21: struct.Struct("!16s16sHH"),
    0x31: struct.Struct("!108s108s"),
}
"""TCP over each family, by its byte. Datagrams (0x12, 0x22, 0x32) cannot arrive over a stream."""


def _v2_ends(protocol: int, fields: tuple[bytes, bytes, int, int] | tuple[bytes, bytes]) -> _Ends:
    if len(fields) == 2:
        return None, (fields[1].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"), None)
    kind = IPv4Address if protocol == 0x11 else IPv6Address
    return (str(kind(fields[0])), fields[2]), (str(kind(fields[1])), fields[3])


def _parse_tlvs(data: bytes, begin: int, end: int) -> bool | Violation:
    """Parse the fields after the addresses; return whether one states that the client used TLS."""
    secure = False
    while begin < end:
        if end - begin < 3:
            return _bad("a field without its length")
        kind, length = struct.unpack_from("!BH", data, begin)
        begin += 3
        if length > end - begin:
            return _bad(f"a field of {length} bytes where {end - begin} are left")
        if kind == _CRC32C:
            if length != 4 or data[begin : begin + 4] != _checksum(data[:begin] + b"\0\0\0\0" + data[begin + 4 : end]):
                return _bad("a wrong checksum")
        elif kind == _SSL:
            if length < 5:
                return _bad(f"an SSL field of {length} bytes")
            secure = bool(data[begin] & _CLIENT_SSL)
        begin += length
    return secure


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE: Final = _crc32c_table()


def _checksum(data: bytes) -> bytes:
    """CRC32C (RFC 4960 appendix B) over the header, its own four bytes as zeroes (§2.2.3)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C_TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return struct.pack("!I", value ^ 0xFFFFFFFF)
