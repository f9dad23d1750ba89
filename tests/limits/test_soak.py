"""Thousands of connections, used and broken at random, leave nothing in the server's process."""

from __future__ import annotations

import contextlib
import os
import random
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.limits.memory import MIB, get
from tests.raw import RawClient, close, frame, handshake, text
from tests.server_process import ServerProcess, Start

pytestmark = pytest.mark.slow

SEED = 6455
COUNT = 2500
"""Connections of one round; each use has about 150 of them."""
CLIENTS = 4
"""Threads that make them, each with a random sequence of its own."""
POLLS = 2000
GROWTH_BLOCKS = 300
"""Of Python. A round leaves 30 to 100; three for each connection of one use would be more."""
GROWTH_BYTES = 3 * MIB
"""For what Python does not count, such as the state of zlib, which is more than 30 KiB. A round leaves 0.1 MiB."""
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"

Use = Callable[[RawClient, random.Random], None]


def echo(client: RawClient, chance: random.Random) -> None:
    client.open_websocket("/", *chance.choice([(), (DEFLATE,)]))
    messages = ["m" * chance.randrange(60) for _ in range(chance.randrange(1, 40))]
    client.send(b"".join(map(text, messages)))
    for message in messages:
        assert client.read_text() == message


def echo_of_a_big_message(client: RawClient, chance: random.Random) -> None:
    client.open_websocket()
    message = chance.randbytes(chance.randrange(100_000, 300_000))
    client.send(frame(2, message))
    assert client.read_frame() == (0x82, message)


def compressed(client: RawClient, chance: random.Random) -> None:
    client.open_websocket("/", DEFLATE)
    deflate = zlib.compressobj(wbits=-15)
    packed = deflate.compress(bytes(chance.randrange(10, 100_000))) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    if chance.random() < 0.3:
        client.send(frame(2, chance.randbytes(50), rsv=4))  # most random bytes are no DEFLATE data
    client.send(frame(2, packed, rsv=4))
    client.read_frame()


def fragments(client: RawClient, chance: random.Random) -> None:
    client.open_websocket()
    count = chance.randrange(1, 30)
    pieces = [frame(1 if not at else 0, b"ab", fin=False) + frame(9, b"p") for at in range(count)]
    client.send(b"".join(pieces))
    if chance.random() < 0.7:
        client.send(frame(0, b"c"))
        while (answer := client.read_frame())[0] == 0x8A:
            assert answer[1] == b"p"
        assert answer == (0x81, b"ab" * count + b"c")


def bad_frame(client: RawClient, chance: random.Random) -> None:
    client.open_websocket()
    bad = [
        frame(1, b"x", key=None), frame(3), frame(1, b"x", rsv=4), frame(1, b"\xff"), frame(0, b"x"),
        frame(9, b"x" * 126), frame(8, b"\x00"), frame(8, b"\x03\xed"), b"\x82\xff" + b"\xff" * 12,
        frame(9, b"x", fin=False),
    ]  # fmt: skip
    client.send(text("before") * chance.randrange(3) + chance.choice(bad) + chance.randbytes(chance.randrange(200)))
    client.read_to_end()


def closing_handshake(client: RawClient, chance: random.Random) -> None:
    client.open_websocket(chance.choice(["/", "/close"]))
    client.send(close(chance.choice([None, 1000, 3000]), ""))
    client.read_to_end()


def refused_or_failing(client: RawClient, chance: random.Random) -> None:
    client.send(handshake(chance.choice(["/refuse", "/raise", "/fail"])))
    if client.read_answer().status == 101:
        client.send(text("raise") + close())
        client.read_to_end()


def not_read(client: RawClient, chance: random.Random) -> None:
    client.open_websocket("/talk")
    client.read_exactly(chance.randrange(1, 50_000))


def not_answered(client: RawClient, chance: random.Random) -> None:
    client.send(handshake("/") + text("early") * chance.randrange(5))


def part_of_a_frame(client: RawClient, chance: random.Random) -> None:
    client.open_websocket()
    whole = frame(2, b"x" * 300)
    client.send(whole[: chance.randrange(1, len(whole))])


def slow_head(client: RawClient, chance: random.Random) -> None:
    head = handshake()
    for at in range(0, chance.randrange(1, len(head)), 20):
        client.send(head[at : at + 20])


def pipelined(client: RawClient, chance: random.Random) -> None:
    count = chance.randrange(1, 20)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" * count)
    for _ in range(chance.randrange(count + 1)):
        assert client.read_answer().body == b"body"


def bad_request(client: RawClient, chance: random.Random) -> None:
    bad = [
        b"\x16\x03\x01\x02\x00", b"GET  / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\r /\n", b"A" * 9000, handshake().replace(b": 13", b": 8"), handshake().replace(b"Key: dG", b"Key: "),
    ]  # fmt: skip
    client.send(chance.choice(bad))
    client.read_to_end()


def failing_response(client: RawClient, chance: random.Random) -> None:
    path = chance.choice(["/raise", "/half"])
    client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    client.read_to_end()


def unread_body(client: RawClient, chance: random.Random) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(chance.randrange(90_000)))


USES: tuple[Use, ...] = (
    echo, echo, echo, echo_of_a_big_message, compressed, fragments, bad_frame, closing_handshake, refused_or_failing,
    not_read, not_answered, part_of_a_frame, slow_head, pipelined, bad_request, failing_response, unread_body,
)  # fmt: skip


def use(port: int, chance: random.Random) -> bool:
    """Use one connection in one way, and leave it in one of three; tells whether the server let it be used."""
    used = False
    with RawClient(port) as client:
        # The server may have ended it: that is part of the play. An answer that does not come is not.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, EOFError):
            chance.choice(USES)(client, chance)
            used = True
        leave = chance.random()
        if leave < 0.4:
            client.reset()
        elif leave < 0.6:
            with contextlib.suppress(OSError):
                client.half_close()
    return used


def play_round(process: ServerProcess, number: int) -> None:
    def play(player: int) -> int:
        chance = random.Random(f"{SEED} {number} {player}")
        return sum(use(process.port, chance) for _ in range(COUNT // CLIENTS))

    with ThreadPoolExecutor(CLIENTS) as players:
        used = sum(players.map(play, range(CLIENTS)))
    assert used > COUNT * 0.9, "the server ended most of what it should have served"


class State:
    """What a process holds."""

    def __init__(self, process: ServerProcess) -> None:
        folder = Path(f"/proc/{process.pid}")
        self.tasks = int(get(process.port, "/tasks"))
        self.descriptors = len(os.listdir(folder / "fd"))
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        self.threads = int(status["Threads"])
        self.blocks = int(get(process.port, "/blocks"))
        self.resident_bytes = int(status["VmRSS"].split()[0]) * 1024

    def counts(self) -> tuple[int, int]:
        return self.tasks, self.descriptors


def settled(process: ServerProcess, wanted: tuple[int, int]) -> State:
    """Ask until tasks and descriptors are what they were, a bounded number of times."""
    for _ in range(POLLS):
        state = State(process)
        # The connection of the question itself may or may not be closed already.
        if state.tasks <= wanted[0] and state.descriptors <= wanted[1]:
            return state
    raise AssertionError(f"tasks and descriptors are {state.counts()}, and were {wanted}")


def test_nothing_is_left_of_thousands_of_connections(start: Start) -> None:
    """Descriptors, tasks and threads are what they were, and a second round costs no memory over the first."""
    process = start(
        "tests.limits.soak_app:app", "--no-access-log", "--head-timeout", "1", "--keep-alive-timeout", "1",
        "--close-timeout", "1", "--write-timeout", "2", "--body-timeout", "1",
    )  # fmt: skip
    State(process)
    before = min((State(process) for _ in range(20)), key=State.counts)
    play_round(process, 1)
    first = settled(process, before.counts())
    play_round(process, 2)
    second = settled(process, before.counts())
    # zlib may run in the loop's default executor, whose threads stay; a round more adds none
    assert second.threads == first.threads
    blocks, resident_bytes = second.blocks - first.blocks, second.resident_bytes - first.resident_bytes
    assert blocks < GROWTH_BLOCKS, f"{blocks} allocations more after as many connections again"
    assert resident_bytes < GROWTH_BYTES, f"{resident_bytes} bytes more after as many connections again"
    process.terminate()
    assert process.wait() == 0
    process.rest_of_stderr()
    # What the event loop has to say is no record of the server, and what the server has to say is about applications.
    for line in process.stderr:
        assert re.match(r"\d{4}-\d\d-\d\d \S+ (INFO|ERROR +application|WARNING +left out) |    |$", line), line
