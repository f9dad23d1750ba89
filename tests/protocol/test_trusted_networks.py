"""Lists of trusted addresses: what they take, and who is in them."""

from __future__ import annotations

import pytest

from asgiws.protocol.trusted_networks import TrustedNetworks, check_network

GOOD = [
    "127.0.0.1",
    "::1",
    "10.0.0.0/8",
    "fd00::/8",
    "0.0.0.0/0",
    "unix",
    "*",
    "10.0.0.1, 10.0.0.2,unix",
    "fe80::1%eth0",
]


@pytest.mark.parametrize("entry", GOOD)
def test_entry_is_taken(entry: str) -> None:
    assert check_network(entry) is None
    TrustedNetworks([entry])


@pytest.mark.parametrize(
    "entry",
    ["localhost", "10.0.0", "10.0.0.0/33", "10.0.0.256", "::1::", "127.0.0.1:80", "[::1]", "*.local", "a,10.0.0.1"],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(entry: str) -> None:
    """A name would have to be looked up, and whom it means could change."""
    assert check_network(entry) == "an address, a network such as 10.0.0.0/8 or fd00::/8, unix, or *"
    if "," not in entry:
        with pytest.raises(ValueError, match="does not appear to be"):
            TrustedNetworks([entry])


def test_network_that_names_a_host_is_refused_with_the_network_it_could_mean() -> None:
    """10.1.2.3/8 is either a slip or ten million addresses too many."""
    assert check_network("10.1.2.3/8") == "an address without a prefix length, or the whole network 10.0.0.0/8"


@pytest.mark.parametrize(
    ("entries", "host"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["10.0.0.0/8"], "10.255.255.255"),
        (["10.0.0.0/8"], "::ffff:10.1.2.3"),
        (["::ffff:10.0.0.0/104"], "10.1.2.3"),
        (["::ffff:10.1.2.3"], "::ffff:10.1.2.3"),
        (["fd00::/8"], "fd12::1"),
        (["::1"], "0:0:0:0:0:0:0:1"),
        (["fe80::/10"], "fe80::1%eth0"),
        (["::/0"], "2001:db8::1"),
        (["192.0.2.1", "10.0.0.1,10.0.0.2"], "10.0.0.2"),
        (["*"], "10.0.0.1"),
        (["*"], "no address at all"),
        (["*"], None),
        (["unix"], None),
    ],
)
def test_host_is_in_the_list(entries: list[str], host: str | None) -> None:
    networks = TrustedNetworks(entries)
    assert host in networks
    assert host in networks


@pytest.mark.parametrize(
    ("entries", "host"),
    [
        ([], "127.0.0.1"),
        ([], None),
        (["127.0.0.1"], None),
        (["127.0.0.1"], "127.0.0.2"),
        (["127.0.0.1"], "::1"),
        (["10.0.0.0/8"], "11.0.0.0"),
        (["10.0.0.0/8"], "9.255.255.255"),
        (["10.0.0.0/8"], "::10.1.2.3"),
        (["::/0"], "10.0.0.1"),
        (["0.0.0.0/0"], "2001:db8::1"),
        (["unix"], "127.0.0.1"),
        (["unix"], "unix"),
        (["127.0.0.1"], "127.0.0.1:80"),
        (["127.0.0.1"], " 127.0.0.1"),
        (["127.0.0.1"], "127.0.0.01"),
        (["127.0.0.1"], ""),
    ],
)
def test_host_is_not_in_the_list(entries: list[str], host: str | None) -> None:
    networks = TrustedNetworks(entries)
    assert host not in networks
    assert host not in networks
