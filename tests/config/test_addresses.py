"""Addresses as people write them, one by one, and what is said of those that are none."""

from __future__ import annotations

import pytest

from asgiws.config.addresses import FD, TCP, UNIX, Address, check_address, parse_address
from asgiws.config.option import OptionError
from asgiws.config.options import Config

GOOD = {
    "127.0.0.1:8000": Address(TCP, host="127.0.0.1", port=8000),
    "localhost:0": Address(TCP, host="localhost", port=0),
    "a-b.example:65535": Address(TCP, host="a-b.example", port=65535),
    ":8000": Address(TCP, host="", port=8000),
    "[::]:8000": Address(TCP, host="::", port=8000),
    "[::1]:8000": Address(TCP, host="::1", port=8000),
    "[fe80::1%eth0]:8000": Address(TCP, host="fe80::1%eth0", port=8000),
    "[::ffff:127.0.0.1]:8000": Address(TCP, host="::ffff:127.0.0.1", port=8000),
    "unix:/run/app.sock": Address(UNIX, path="/run/app.sock"),
    "unix:app.sock": Address(UNIX, path="app.sock"),
    "unix:/a folder/with:colons:1": Address(UNIX, path="/a folder/with:colons:1"),
    "fd:0": Address(FD, fd=0),
    "fd:3": Address(FD, fd=3),
}

BAD = [
    ":", "8000", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1", "localhost:+1",
    "localhost: 1", "localhost:1 ", " localhost:1", "localhost:000080", "localhost:８０", "::1:8000", "[::1]",
    "[::1]8000", "[localhost]:8000", "[]:8000", "[::1:8000", "::1]:8000", "[::1]:", "http://localhost:8000",
    "localhost:80/", "a/b:80", "unix:", "unix", "fd:", "fd:-1", "fd:x", "fd:0x3", "fd: 3", "fd:3 ",
    "fd:1234567890", "fd:3:80", "localhost:80\n",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_address_is_parsed_and_written_as_it_was(text: str) -> None:
    assert parse_address(text) == GOOD[text]
    assert str(parse_address(text)) == text
    assert check_address(text) is None


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_what_is_no_address_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(OptionError) as raised:
        Config(bind=(text,))
    line = str(raised.value)
    assert line.startswith("--bind: ")
    assert line.endswith("allowed: host:port, [::1]:port, :port, unix:/path or fd:3")
    assert "\n" not in line


def test_one_bad_address_among_good_ones_is_named() -> None:
    with pytest.raises(OptionError) as raised:
        Config(bind=("localhost:1", "nowhere", "unix:/x"))
    assert "nowhere" in str(raised.value)
    assert "localhost" not in str(raised.value)
