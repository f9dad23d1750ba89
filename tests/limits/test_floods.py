"""One client tries to exhaust a server of default options; its memory stays within the sum that the options give."""

from __future__ import annotations

import zlib

import pytest

from asgiws.config.options import Config
from asgiws.server.memory import CONNECTION_BYTES, http_terms, websocket_terms
from tests.limits.memory import MIB, SLACK_BYTES, Memory, get, push
from tests.raw import MASK, RawClient, close, frame, mask, text
from tests.server_process import ServerProcess, Start

pytestmark = [pytest.mark.promise, pytest.mark.slow]

APP = "tests.limits.apps:app"
WEBSOCKET = websocket_terms(Config())
HTTP = http_terms(Config())
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture
def server(start: Start) -> ServerProcess:
    """A server that has done everything once, so that what it grows by is the flood's."""
    # For the allocator of a free-threaded Python, which otherwise returns what is freed later than it takes more.
    process = start(APP, "--no-access-log", environ={"MIMALLOC_PURGE_DELAY": "0"})
    get(process.port, "/")
    with RawClient(process.port) as client:
        client.open_websocket("/", DEFLATE)
        client.send(text("x" * 100000))
        client.read_frame()
        client.send(close())
        client.read_to_end()
    return process


def still_serves(server: ServerProcess) -> bool:
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(text("hello"))
        return client.read_text() == "5"


def test_client_that_never_reads_costs_the_unsent_data(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket("/talker")
        counts = [b"", b"-"]
        while len(set(counts[-20:])) > 1 or len(counts) < 40:
            counts.append(get(server.port, "/sent"))
        assert memory.growth() <= WEBSOCKET["connection"] + WEBSOCKET["unsent"] + 65536 + SLACK_BYTES
    assert still_serves(server)


def test_client_that_floods_a_deaf_application_costs_the_inbox(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket("/deaf")
        sent = push(client, text("x" * 100), 256 * MIB)
        assert sent < 64 * MIB, "the server went on reading"
        assert memory.growth() <= WEBSOCKET["unparsed"] + 32 * 200 + SLACK_BYTES
    assert still_serves(server)


def test_large_messages_for_a_deaf_application_cost_the_inbox(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket("/deaf")
        push(client, frame(2, b"x" * (15 * MIB)), 256 * MIB)
        assert memory.growth() <= WEBSOCKET["inbox"] + WEBSOCKET["unparsed"] + WEBSOCKET["message in progress"]
    assert still_serves(server)


@pytest.mark.parametrize("rate", ["1000", "0"], ids=["default", "no-rate-limit"])
def test_ping_flood_without_reading_costs_one_pong(start: Start, rate: str) -> None:
    """RFC 6455 §5.5.3: only the most recent ping needs an answer. Four peers hold every pong."""
    server = start(APP, "--no-access-log", "--max-control-rate", rate)
    assert still_serves(server)
    memory = Memory(server)
    with RawClient(server.port, receive_buffer=4096) as client:
        client.open_websocket()
        push(client, frame(9, b"p" * 125), 48 * MIB)
        assert memory.growth() <= 2 * WEBSOCKET["unsent"] + WEBSOCKET["unparsed"] + SLACK_BYTES
    assert still_serves(server)


def test_fragments_of_one_byte_cost_no_object_each(start: Start) -> None:
    server = start(APP, "--no-access-log")
    assert still_serves(server)
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(frame(2, b"x", fin=False))
        fragments = frame(0, b"x", fin=False) * 10000
        for _ in range(13):
            client.send(fragments)
        client.send(frame(0, b"", fin=True))
        assert client.read_text() == "130001"
        assert memory.growth() <= MIB + WEBSOCKET["unparsed"] + SLACK_BYTES


def test_too_many_fragments_are_refused_by_default(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(frame(2, b"x", fin=False))
        push(client, frame(0, b"x", fin=False), 7 * 1000000)
        assert client.read_close()[0] == 1009
        assert memory.growth() <= MIB + WEBSOCKET["unparsed"] + SLACK_BYTES
    assert still_serves(server)


def test_a_million_empty_fragments_are_refused(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(frame(2, b"x", fin=False))
        push(client, frame(0, b"", fin=False), 6 * 1000000)
        assert client.read_close()[0] == 1008
        assert memory.growth() <= WEBSOCKET["unparsed"] + SLACK_BYTES
    assert still_serves(server)


def test_a_declared_length_of_two_to_the_62_costs_nothing(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket()
        client.send(b"\x82\xff" + (2**62).to_bytes(8, "big") + MASK)
        code, reason = client.read_close()
        assert (code, reason) == (1009, f"message of {2**62} bytes or more, limit {16 * MIB}")
        assert memory.growth() <= SLACK_BYTES


def test_a_compression_bomb_costs_less_than_two_messages(server: ServerProcess) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(deflate.compress(bytes(MIB)) for _ in range(200)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 256 * 1024
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.open_websocket("/", DEFLATE)
        client.send(b"\xc2\xff" + len(bomb).to_bytes(8, "big") + MASK + mask(bomb[:-4] + b"\x00" * 4)[: len(bomb)])
        assert client.read_close()[0] == 1009
        assert memory.growth() < 2 * Config().max_message_size
    assert still_serves(server)


@pytest.mark.usefixtures("many_files")
def test_thousands_of_half_open_handshakes_cost_a_connection_each(start: Start) -> None:
    server = start(APP, "--no-access-log", "--head-timeout", "60")
    assert still_serves(server)
    count = 4000
    memory = Memory(server)
    clients = [RawClient(server.port) for _ in range(count)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
    assert still_serves(server)
    assert memory.growth() <= count * CONNECTION_BYTES + SLACK_BYTES
    for client in clients:
        client.socket.close()


def test_undecided_handshakes_cost_a_connection_each(server: ServerProcess) -> None:
    count = 400
    memory = Memory(server)
    clients = [RawClient(server.port) for _ in range(count)]
    for client in clients:
        client.send(
            b"GET /undecided HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    assert still_serves(server)
    assert memory.growth() <= count * 2 * CONNECTION_BYTES + SLACK_BYTES
    for client in clients:
        client.socket.close()


def test_a_head_without_an_end_is_refused(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        push(client, b"X-Filler: " + b"y" * 100 + b"\r\n", 8 * MIB)
        assert client.read_answer().status == 431
        assert memory.growth() <= HTTP["head"] + SLACK_BYTES
    assert still_serves(server)


def test_a_body_that_nobody_reads_costs_its_buffer(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.send(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        sent = push(client, b"x" * 65536, 256 * MIB)
        assert sent < 64 * MIB, "the server went on reading"
        assert memory.growth() <= sum(HTTP.values()) + SLACK_BYTES
    assert still_serves(server)


def test_chunks_of_one_byte_that_nobody_reads_cost_their_buffer(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port) as client:
        client.send(b"POST /deaf HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = push(client, b"1\r\nx\r\n", 256 * MIB)
        assert sent < 64 * MIB, "the server went on reading"
        assert memory.growth() <= sum(HTTP.values()) + SLACK_BYTES
    assert still_serves(server)


def test_pipelined_requests_whose_answers_are_not_read_cost_a_head(server: ServerProcess) -> None:
    memory = Memory(server)
    with RawClient(server.port, receive_buffer=4096) as client:
        sent = push(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 256 * MIB)
        assert sent < 64 * MIB, "the server went on reading"
        assert memory.growth() <= sum(HTTP.values()) + SLACK_BYTES
    assert still_serves(server)


def test_connections_of_one_address_are_limited_and_websockets_count(start: Start) -> None:
    server = start(APP, "--no-access-log", "--max-connections-per-address", "10")
    clients = [RawClient(server.port) for _ in range(10)]
    for client in clients:
        client.open_websocket()
    with RawClient(server.port) as refused:
        answer = refused.read_answer()
        assert (answer.status, int(answer.header(b"retry-after") or 0) in range(1, 11)) == (503, True)
        assert answer.body.startswith(b"too-many-from-address: ")
    clients[0].send(close())
    clients[0].read_to_end()
    assert still_serves(server)
    for client in clients:
        client.socket.close()
