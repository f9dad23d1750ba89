"""When a certificate expires: `validity.notAfter` of X.509 (RFC 5280 §4.1), which `ssl` shows only of a peer."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

__all__ = ["expiry_of"]

# X.690: the tags of the fields before `validity`, and of its times
_CONTEXT_0: Final = 0xA0
_UTC_TIME: Final = 0x17
_VALIDITY_PLACE: Final = 3


def expiry_of(pem: str) -> float | None:
    """Return the Unix time at which a certificate expires; None if that cannot be read."""
    try:
        data = ssl.PEM_cert_to_DER_cert(pem)
        certificate = next(_elements(data))[1]
        fields = list(_elements(next(_elements(certificate))[1]))
        if fields[0][0] == _CONTEXT_0:
            del fields[0]  # the version, which may be absent
        # serialNumber, signature, issuer, validity
        tag, value = list(_elements(fields[_VALIDITY_PLACE][1]))[1]
        # §4.1.2.5: two digits of a year mean 1950 to 2049.
        text = value.decode("ascii")
        if tag == _UTC_TIME:
            text = ("19" if text >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError, StopIteration):
        return None


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element (X.690 §8.1)."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count])
            at += count
        yield tag, data[at : at + size]
        at += size
