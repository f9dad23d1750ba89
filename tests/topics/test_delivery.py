"""Delivery to sockets: how many writes, and during a drain."""

from __future__ import annotations

import json
import socket

import pytest

from asgiws.topics.message import Message
from tests import PATIENCE_S
from tests.admin.helpers import wait_until
from tests.conftest import Serve
from tests.raw import RawClient, text
from tests.topics.test_topics import stepwise

MESSAGES = 50
_DATA_SEGMENTS_IN = slice(152, 156)
"""`tcpi_data_segs_in` in `struct tcp_info` of linux/tcp.h."""


def segments(client: RawClient) -> int:
    """Return how many TCP segments with data have come: with TCP_NODELAY, one for each short write of the server."""
    info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _DATA_SEGMENTS_IN.stop:
        pytest.skip("this kernel does not count segments")
    return int.from_bytes(info[_DATA_SEGMENTS_IN], "little")


def do(client: RawClient, what: str, **order: str) -> str:
    client.send(text(json.dumps({"do": what, **order})))
    return client.read_text()


@pytest.mark.parametrize("fields", [(), ("Sec-WebSocket-Extensions: permessage-deflate",)])
def test_what_one_read_of_the_bus_brought_leaves_a_socket_in_one_write(serve: Serve, fields: tuple[str, ...]) -> None:
    server = serve(stepwise)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        for each in (client, other):
            each.open_websocket("/", *fields)
            assert do(each, "subscribe") == "done subscribe"
        before = segments(client), segments(other)
        messages = [Message("t", str(number)) for number in range(MESSAGES)]
        server.call(lambda: server.hub.deliver(messages))
        for each in (client, other):
            assert [each.read_text() for _ in range(MESSAGES)] == [str(number) for number in range(MESSAGES)]
        assert (segments(client), segments(other)) == (before[0] + 1, before[1] + 1)


def test_subscribing_works_while_the_server_drains(serve: Serve) -> None:
    server = serve(stepwise, drain_delay=PATIENCE_S)
    with RawClient(server.port) as client, RawClient(server.port) as other:
        client.open_websocket()
        other.open_websocket()
        server.begin_stop()
        wait_until(lambda: bool(server.call(lambda: server.server.worker.registry.draining)))
        assert do(client, "subscribe") == do(other, "subscribe") == "done subscribe"
        assert do(client, "publish", data="during the drain") == "during the drain"
        assert other.read_text() == "during the drain"
        server.call(server.server.force_stop)
        assert other.read_close()[0] == 1012
