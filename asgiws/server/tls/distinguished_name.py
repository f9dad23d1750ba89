"""Distinguished names of certificates as text (RFC 4514), from the tuples of Python's `ssl`."""

from __future__ import annotations

from typing import Final

__all__ = ["encode_name"]

Name = tuple[tuple[tuple[str, str], ...], ...]
"""Relative distinguished names in the order of the certificate, each a set of attributes: type and value."""

# RFC 4514 §3: the short names that every reader knows
_SHORT: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
# §2.4: these are escaped with a backslash everywhere
_ESCAPED: Final = str.maketrans({character: "\\" + character for character in '"+,;<>\\'} | {"\0": "\\00"})


def encode_name(name: Name) -> str:
    """Return a name as text: its last part, the most specific, comes first (RFC 4514 §2.1)."""
    return ",".join(["+".join([_attribute(kind, value) for kind, value in part]) for part in reversed(name)])


def _attribute(kind: str, value: str) -> str:
    if kind[:1].isdigit():
        # §2.3, §2.4: a type without a short name is written as its number, its value as the encoding in hexadecimal.
        # The certificate's own encoding is not known here; a UTF8String says the same.
        return f"{kind}=#{_utf8_string(value).hex()}"
    text = value.translate(_ESCAPED)
    if text.startswith((" ", "#")):
        text = "\\" + text
    # A lone space was escaped as the first character already.
    if text.endswith(" ") and len(value) > 1:
        text = text[:-1] + "\\ "
    return f"{_SHORT.get(kind, kind)}={text}"


def _utf8_string(value: str) -> bytes:
    """Encode a UTF8String (X.690 §8.1.3, §8.23)."""
    data = value.encode()
    size = len(data)
    if size < 128:
        return bytes((0x0C, size)) + data
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((0x0C, 0x80 | len(length))) + length + data
