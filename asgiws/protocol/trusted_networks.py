"""Lists of addresses and networks that an operator trusts, and whether a client is in one.

An entry is an address, a network with its prefix length, `unix` for the clients of Unix sockets, which have no address,
or `*` for all. An entry may hold several of these, separated by commas, as in other servers. No name is ever looked up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

__all__ = ["TrustedNetworks", "check_network", "parse_host"]

# Answers that are kept: parsing an address costs a microsecond or two, and connections and proxies repeat them.
_CACHED_MOST: Final = 1024
# RFC 4291 §2.5.5.2: how an IPv6 socket shows the address of an IPv4 client
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def check_network(entry: str) -> str | None:
    """Return what is allowed if `entry` is not a valid entry, else None; the `check` of an option."""
    for part in _parts(entry):
        if part in ("*", "unix"):
            continue
        try:
            ip_network(part)
        except ValueError:
            try:
                network = str(ip_network(part, strict=False))
            except ValueError:
                return "an address, a network such as 10.0.0.0/8 or fd00::/8, unix, or *"
            return f"an address without a prefix length, or the whole network {network}"
    return None


class TrustedNetworks:
    """A list of trusted addresses, made once; `host in networks` asks it.

    A host is an address as a socket or a header field has it. None is a client of a Unix socket. Text that is not an
    address is only in the list `*`. An IPv4-mapped IPv6 address matches the IPv4 networks.
    """

    __slots__ = ("_cached", "_all", "_networks", "_unix")

    def __init__(self, entries: Iterable[str]) -> None:
        """Parse entries that `check_network` has accepted. Raises ValueError for any other."""
        parts = {part for entry in entries for part in _parts(entry)}
        self._all = "*" in parts
        self._unix = self._all or "unix" in parts
        networks = [ip_network(part) for part in parts - {"*", "unix"}]
        self._networks = [
            ip_network((network.network_address.packed[12:], network.prefixlen - 96))
            if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED)
            else network
            for network in networks
        ]
        self._cached = lru_cache(_CACHED_MOST)(self._find)

    def __contains__(self, host: str | None) -> bool:
        if host is None:
            return self._unix
        return self._all or self._cached(host)

    def _find(self, host: str) -> bool:
        address = parse_host(host)
        return address is not None and any(address in network for network in self._networks)


def parse_host(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4; return None for anything else."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parts(entry: str) -> list[str]:
    return [part.strip() for part in entry.split(",") if part.strip()]
