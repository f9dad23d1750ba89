"""Micro-benchmarks without a kernel, with pytest-benchmark: `pytest -n 0 -m "" tests/bench/micro.py`.

The parsers and the encoder alone, and whole connections on a transport that keeps what is written. To see what a change
did: `--benchmark-save=before`, then `--benchmark-compare`. The name is not that of a test file, so that only who names
it runs it; the guard is tests/test_budget.py, which counts.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asgiws.config.options import Config
from asgiws.protocol.http.head import RequestHead, parse_head
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket import masking
from asgiws.protocol.websocket.deflate import Deflater, DeflateSettings
from asgiws.protocol.websocket.encoder import Encoder
from asgiws.protocol.websocket.receiver import FRESH_WINDOW, NO_COMPRESSION, Item, Receiver
from asgiws.server.http.connection import HTTPConnection
from asgiws.server.state.registry import STOPPING
from asgiws.server.state.worker_state import WorkerState
from asgiws.topics.hub import Hub
from tests.bench import wire
from tests.bench.apps import plain
from tests.raw import frame, handshake

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed: pip install -e '.[bench]'")

Benchmark = Callable[..., Any]
LIMITS = Limits()
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
BROWSER = handshake(
    "/echo?room=1", "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140",
    "Origin: http://localhost:8000", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en-US,en;q=0.9",
    "Cache-Control: no-cache", "Pragma: no-cache", "Cookie: session=0123456789abcdef0123456789abcdef",
    wire.BROWSER_OFFER,
)  # fmt: skip


# ---- heads


@pytest.mark.parametrize("request_bytes", [GET, BROWSER], ids=["get", "browser-upgrade"])
def test_parse_head(benchmark: Benchmark, request_bytes: bytes) -> None:
    assert isinstance(benchmark(parse_head, request_bytes[:-4], LIMITS), RequestHead)


# ---- the receiver


@pytest.mark.parametrize(
    ("messages", "size", "opcode"),
    [(1, 32, 1), (64, 32, 1), (1, 1024, 1), (1, 1024, 2), (1, 65000, 1), (1, 65000, 2)],
    ids=["short", "burst", "1k-text", "1k-binary", "64k-text", "64k-binary"],
)
def test_receive(benchmark: Benchmark, messages: int, size: int, opcode: int) -> None:
    receive(benchmark, wire.client_frame(opcode, size) * messages, messages)


def test_receive_fragmented(benchmark: Benchmark) -> None:
    stream = frame(1, b"x" * 100, fin=False) + frame(0, b"y" * 100, fin=False) + frame(0, b"z" * 100)
    receive(benchmark, stream, 1)


def test_receive_compressed(benchmark: Benchmark) -> None:
    receive(benchmark, wire.compressed_frame(wire.records(1024, 1)[0]), 1, FRESH_WINDOW)


def receive(benchmark: Benchmark, stream: bytes, messages: int, compression: int = NO_COMPRESSION) -> None:
    inbox: list[Item] = []
    receiver = Receiver(Limits(inbox_messages=1000, inbox_bytes=1 << 30), inbox, compression)

    def feed() -> int:
        receiver.feed(stream)
        count = len(inbox)
        inbox.clear()
        receiver.queued = 0
        return count

    assert benchmark(feed) == messages


@pytest.mark.parametrize("size", [32, 1024, 65536])
@pytest.mark.parametrize("unmask", [masking.unmask, masking.unmask_python], ids=["chosen", "python"])
def test_unmask(benchmark: Benchmark, unmask: Callable[[bytes, int, int, bytes], bytes], size: int) -> None:
    assert len(benchmark(unmask, bytes(size), 0, size, b"\x37\xfa\x21\x3d")) == size


# ---- the encoder


@pytest.mark.parametrize("size", [32, 1024, 65536])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_encode(benchmark: Benchmark, size: int, kind: str) -> None:
    payload = wire.payload_of(size)
    encoder = Encoder(DeflateSettings(), None, memo=False)
    assert benchmark(encoder.encode, payload.decode() if kind == "text" else payload)


def test_encode_compressed(benchmark: Benchmark) -> None:
    settings = DeflateSettings()
    encoder = Encoder(settings, Deflater(settings, 15, takeover=False), memo=False)
    record = wire.records(1024, 1)[0].decode()
    sent = benchmark(encoder.encode, record)
    assert sent[:2] == b"\xc1\x7e", "a compressed text frame with a length of two bytes"
    assert zlib.decompressobj(-15).decompress(sent[4:] + b"\x00\x00\xff\xff") == record.encode()


# ---- whole connections


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and is never full."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.protocol: asyncio.BaseProtocol
        self.closing = False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def writelines(self, pieces: Any) -> None:
        self.written.extend(pieces)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        """There is nobody to read from."""

    def resume_reading(self) -> None:
        """As above."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It is never full."""

    def get_write_buffer_size(self) -> int:
        return 0


class Player:
    """A connection on a loop that turns while something is ready."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        config = Config.from_options({"access_log": False, "compression": "off"})
        self.worker = WorkerState(plain, config, loop, Hub(loop))
        self.transport = FakeTransport()
        connection = HTTPConnection(self.worker)
        self.transport.protocol = connection
        connection.connection_made(self.transport)

    def play(self, data: bytes, turns: int = 3) -> bytes:
        """Give what is answered to `data` within so many turns of the loop."""
        self.transport.protocol.data_received(data)  # type: ignore[attr-defined]
        for _ in range(turns):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        answer = b"".join(self.transport.written)
        self.transport.written.clear()
        return answer


@pytest.fixture
def player() -> Iterator[Player]:
    loop = asyncio.new_event_loop()
    made = Player(loop)
    yield made
    made.worker.registry.phase = STOPPING
    for task in list(made.worker.registry.tasks):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_connection_answers_a_get(benchmark: Benchmark, player: Player) -> None:
    assert benchmark(player.play, GET).endswith(b"hello")


@pytest.mark.parametrize("messages", [1, 64])
def test_connection_echoes(benchmark: Benchmark, player: Player, messages: int) -> None:
    assert player.play(handshake("/echo")).startswith(b"HTTP/1.1 101")
    answer = wire.server_frame(wire.TEXT, wire.payload_of(32))
    assert benchmark(player.play, wire.client_frame(wire.TEXT, 32) * messages, 5) == answer * messages
