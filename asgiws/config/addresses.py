"""Addresses to listen on: `host:port`, `[::1]:port`, `unix:/path` and `fd:3`."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["FD", "TCP", "UNIX", "Address", "check_address", "parse_address"]

TCP: Final = "tcp"
UNIX: Final = "unix"
FD: Final = "fd"

_ALLOWED: Final = "host:port, [::1]:port, :port, unix:/path or fd:3"


class Address(NamedTuple):
    """One address; its kind decides which of the other fields are used."""

    kind: str
    """TCP, UNIX or FD."""
    host: str = ""
    """A name or an address, without brackets; empty for all addresses of the machine."""
    port: int = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.kind != TCP:
            return f"{self.kind}:{self.path or self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address. Raises ValueError, whose message says what is allowed."""
    if text.startswith("unix:") and len(text) > 5:
        return Address(UNIX, path=text[5:])
    if match := re.fullmatch(r"fd:([0-9]{1,9})", text):
        return Address(FD, fd=int(match[1]))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]+)?)\]|([^:\[\]/\s]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(_ALLOWED)
    return Address(TCP, host=match[1] or match[2], port=int(match[3]))


def check_address(text: str) -> str | None:
    """Return what is allowed instead of `text`, or None: the check of an option."""
    try:
        parse_address(text)
    except ValueError as error:
        return str(error)
    return None
