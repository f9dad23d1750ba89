"""What the fields of proxies cost the requests that have none, counted and not timed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from asgiws.protocol import trusted_networks
from asgiws.protocol.http import forwarded
from asgiws.server.http import trusted_proxy
from tests.counted import InServer, serve_while
from tests.raw import RawClient

FILES = {str(Path(module.__file__ or "")) for module in (forwarded, trusted_networks, trusted_proxy)}
REQUESTS = 50
# What it takes to ask the list of trusted networks about a neighbour that it has not met.
ONE_LOOK = {"is_proxy": 1, "__contains__": 1, "_find": 1, "parse_host": 1}


def count_calls(loop_name: str, source: str, *fields: str) -> Counter[str]:
    """Give the calls of functions in those files for one connection, by name, while it sends requests."""
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename in FILES and frame.f_code.co_name[0] != "<":
            calls[frame.f_code.co_name] += 1

    def play(port: int, in_server: InServer) -> None:
        in_server(lambda: sys.setprofile(profile))
        with RawClient(port, source=source) as client:
            for _ in range(REQUESTS):
                client.send("\r\n".join(["GET / HTTP/1.1", "Host: localhost", *fields]).encode() + b"\r\n\r\n")
                assert client.read_answer().status == 200
        in_server(lambda: sys.setprofile(None))

    serve_while(loop_name, play)
    return calls


def test_connection_that_is_not_trusted_costs_one_look_into_the_list(loop_name: str) -> None:
    """However many requests it sends, and whatever they say."""
    calls = count_calls(loop_name, "127.0.0.2", "X-Forwarded-For: 192.0.2.1")
    assert calls == ONE_LOOK


def test_request_of_a_trusted_neighbour_without_fields_costs_nothing(loop_name: str) -> None:
    calls = count_calls(loop_name, "127.0.0.1")
    assert calls == ONE_LOOK


def test_address_that_was_seen_before_is_not_parsed_again(loop_name: str) -> None:
    """Clients behind a proxy send many requests; parsing an address is the dearest part of each."""
    calls = count_calls(loop_name, "127.0.0.1", "X-Forwarded-For: 192.0.2.123")
    assert calls["peer_for"] == REQUESTS
    assert calls["_parse_node"] <= 1
    assert calls["_find"] == 2
