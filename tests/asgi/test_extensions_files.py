"""ASGI extensions that send files over HTTP/1.1: pathsend and zerocopysend (checklist 4.4, E3 and E4)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from asgiws.server.asgi import ClientDisconnected, Event, Scope
from tests.apps import Receive, Recorder, Send
from tests.asgi.app_help import begin_answer, body, error_of, get, on_request
from tests.conftest import Serve
from tests.limits.memory import MIB, SLACK_BYTES, Memory
from tests.raw import RawClient
from tests.server_process import Start

FILES = ("pathsend", "zerocopysend")
SPARSE_BYTES = 512 * MIB
PIECE_BYTES = 256 * 1024


def file_of(folder: Path, size: int) -> Path:
    """Make a file in which no two places look alike."""
    path = folder / "file"
    path.write_bytes(b"".join(b"%07d\n" % at for at in range(size // 8 + 1))[:size])
    return path


def sparse(folder: Path, size: int = SPARSE_BYTES) -> Path:
    """Make a file of zeros that takes no room on the disk."""
    path = folder / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
    return path


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


async def begin_framed(send: Send, framing: str, size: int) -> None:
    """Begin an answer that will be framed so: without a length, and not whole when its head leaves, unless it says."""
    await begin_answer(send, *[length(size)] if framing == "length" else [])
    if framing in ("chunked", "end of connection"):
        await body(send, b"", more=True)


async def send_file(send: Send, kind: str, path: Path, **more: object) -> None:
    """Send a file by the extension `kind`."""
    if kind == "pathsend":
        await send({"type": "http.response.pathsend", "path": str(path)})
        return
    with open(path, "rb") as file:  # noqa: ASYNC230
        await send({"type": "http.response.zerocopysend", "file": file, **more})


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("framing", ["length", "one piece", "chunked", "end of connection"])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, MIB + 1])
def test_file_is_sent_exactly_and_the_connection_goes_on(
    serve: Serve, tmp_path: Path, kind: str, framing: str, size: int
) -> None:
    """ASGI E3, E4: the content of the file, framed like any body (RFC 9112 §6.3)."""
    path = file_of(tmp_path, size)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_framed(send, framing, size)
        await send_file(send, kind, path)

    old = framing == "end of connection"
    with RawClient(serve(on_request(talk)).port) as client:
        for _ in range(1 if old else 2):
            client.send(get(version="1.0" if old else "1.1"))
            answered = client.read_answer()
            assert answered.body == path.read_bytes()
            assert (answered.header(b"transfer-encoding") == b"chunked") == (framing == "chunked")
            assert (answered.header(b"content-length") is not None) == (framing in ("length", "one piece"))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("framing", ["length", "one piece", "chunked"])
def test_head_of_a_file_sends_no_body(serve: Serve, tmp_path: Path, kind: str, framing: str) -> None:
    """RFC 9110 §9.3.2: the fields, and nothing behind them."""
    path = file_of(tmp_path, 1000)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_framed(send, framing, 1000)
        await send_file(send, kind, path)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get(method="HEAD"))
        answered = client.read_answer(head_only=True)
        assert answered.header(b"content-length") == (None if framing == "chunked" else b"1000")
        client.send(get("/", "Connection: close", method="HEAD"))
        assert client.read_answer(head_only=True).status == 200
        assert client.read_to_end() == b""


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ({}, 0, 1000), ({"offset": 0}, 0, 1000), ({"offset": 999}, 999, 1000), ({"offset": 1000}, 1000, 1000),
        ({"count": 0}, 0, 0), ({"count": 7}, 0, 7), ({"offset": 100, "count": 200}, 100, 300),
        ({"offset": 100, "count": 900}, 100, 1000), ({"offset": None, "count": None}, 0, 1000),
        ({"offset": 1001}, 1000, 1000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("framing", ["length", "one piece", "chunked"])
def test_e3_offset_and_count_name_the_part(
    serve: Serve, tmp_path: Path, part: dict[str, Any], start: int, end: int, framing: str
) -> None:
    """ASGI E3: from `offset`, else where the file stands; `count` bytes, else up to the end."""
    path = file_of(tmp_path, 1000)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_framed(send, framing, end - start)
        await send_file(send, "zerocopysend", path, **part)

    with RawClient(serve(on_request(talk)).port) as client:
        for _ in range(2):
            client.send(get())
            assert client.read_answer().body == path.read_bytes()[start:end]


@pytest.mark.parametrize("part", [{"offset": -1}, {"count": -1}, {"offset": -5, "count": 5}])
def test_e3_negative_offset_or_count_raises_and_sends_nothing(
    serve: Serve, tmp_path: Path, part: dict[str, Any]
) -> None:
    """RFC 9112 §7.1: there is no chunk of -1 bytes."""
    path, seen = file_of(tmp_path, 1000), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        seen.put(await error_of(send_file(send, "zerocopysend", path, **part)))
        await body(send, b"body")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert isinstance(seen.next(), ValueError)
        assert client.read_answer().body == b"body"


@pytest.mark.parametrize("by", ["object", "descriptor"])
def test_e3_part_without_offset_begins_where_the_file_stands_and_moves_it(
    serve: Serve, tmp_path: Path, by: str
) -> None:
    """ASGI E3: "read from the current position of file", as sendfile(2) does, which moves the position."""
    path = file_of(tmp_path, 1000)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        with open(path, "rb", buffering=-1 if by == "object" else 0) as file:  # noqa: ASYNC230
            given = file if by == "object" else file.fileno()
            await body(send, file.read(10), more=True)
            for count in (20, 30):
                await send({"type": "http.response.zerocopysend", "file": given, "count": count, "more_body": True})
            await body(send, file.read(40), more=True)
            await send({"type": "http.response.zerocopysend", "file": given})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert client.read_answer().body == path.read_bytes()


def test_e3_parts_mix_with_body_and_the_app_keeps_its_file(serve: Serve, tmp_path: Path) -> None:
    """ASGI E3: `more_body` works as that of body; the application closes the file."""
    path, seen = file_of(tmp_path, 1000), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        descriptor = os.open(path, os.O_RDONLY)
        part = {"type": "http.response.zerocopysend", "file": descriptor, "more_body": True}
        await body(send, b"<", more=True)
        await send({**part, "offset": 10, "count": 5})
        await body(send, b"|", more=True)
        await send({**part, "offset": 0, "count": 0})
        await send({**part, "offset": 990})
        await body(send, b">")
        seen.put(await error_of(send({**part, "offset": 0})))
        os.close(descriptor)
        seen.put("closed")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        content = path.read_bytes()
        assert client.read_answer().body == b"<" + content[10:15] + b"|" + content[990:] + b">"
        assert [seen.next(), seen.next()] == [None, "closed"]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("promised", [999, 1001])
def test_file_of_another_length_than_promised_ends_the_connection(
    serve: Serve, tmp_path: Path, kind: str, promised: int
) -> None:
    """RFC 9112 §6.3: what does not have its Content-Length must not pass for a whole response."""
    path, seen = file_of(tmp_path, 1000), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, length(promised))
        seen.put(await error_of(send_file(send, kind, path)))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert client.read_to_end() == b""
        assert isinstance(seen.next(), ValueError)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_e3_file_that_ends_before_the_count_ends_the_connection(serve: Serve, tmp_path: Path, framing: str) -> None:
    """RFC 9112 §6.3, §8: the client sees that something is missing, and is not kept waiting for it."""
    path, seen = file_of(tmp_path, 1000), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, *[length(1001)] if framing == "length" else [])
        seen.put(await error_of(send_file(send, "zerocopysend", path, count=1001)))

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert not client.read_to_end().endswith(b"0\r\n\r\n")
        error = seen.next()
        assert isinstance(error, ValueError)
        assert "1 bytes" in str(error)


def test_e4_file_that_is_not_there_raises_and_the_app_may_still_answer(serve: Serve, tmp_path: Path) -> None:
    """ASGI H13: nothing was sent yet."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        seen.put(await error_of(send_file(send, "pathsend", tmp_path / "gone")))
        await body(send, b"no file")

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get())
        assert client.read_answer().body == b"no file"
        assert isinstance(seen.next(), FileNotFoundError)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("way", ["close", "reset"])
def test_client_that_leaves_within_a_file_raises_client_disconnected(
    serve: Serve, tmp_path: Path, kind: str, way: str
) -> None:
    """ASGI C8: the same error as for every other message to a client that is gone."""
    path, seen = sparse(tmp_path), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send)
        seen.put(await error_of(send_file(send, kind, path)))

    with RawClient(serve(on_request(talk)).port, receive_buffer=4096) as client:
        client.send(get())
        client.read_exactly(10000)
        if way == "reset":
            client.reset()
        else:
            client.socket.close()
        assert isinstance(seen.next(), ClientDisconnected)


@pytest.mark.parametrize("kind", FILES)
def test_client_that_stops_reading_a_file_is_dropped_after_write_timeout(
    serve: Serve, tmp_path: Path, kind: str
) -> None:
    """`write_timeout`: for a client that stopped reading while data waits."""
    path, seen = sparse(tmp_path), Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, length(SPARSE_BYTES))
        seen.put(await error_of(send_file(send, kind, path)))

    with RawClient(serve(on_request(talk), write_timeout=0.3).port, receive_buffer=4096) as client:
        client.send(get())
        client.read_until(b"\r\n\r\n")
        assert isinstance(seen.next(), ClientDisconnected)
        assert len(client.read_to_end()) < SPARSE_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_file_is_never_whole_in_memory(start: Start, tmp_path: Path, kind: str) -> None:
    """ASGI E3, E4: that is what they are for."""
    process = start("tests.asgi.file_app:app", "--no-access-log")
    warm = file_of(tmp_path, MIB)
    with RawClient(process.port) as client:
        client.send(get(f"/{kind}?{warm}"))
        assert client.read_answer().body == warm.read_bytes()
        memory = Memory(process)
        client.send(get(f"/{kind}?{sparse(tmp_path)}"))
        assert b"content-length: %d" % SPARSE_BYTES in client.read_until(b"\r\n\r\n")
        left, room = SPARSE_BYTES - len(client.buffer), bytearray(MIB)
        while left:
            left -= client.socket.recv_into(room, min(MIB, left))
        client.buffer = b""
        assert memory.growth() <= 4 * PIECE_BYTES + SLACK_BYTES


def test_e4_starlette_sends_a_file_by_pathsend(serve: Serve, tmp_path: Path) -> None:
    """Starlette's FileResponse takes the extension when the scope has it, and leaves the file to the server."""
    path, seen = file_of(tmp_path, MIB + 1), Recorder()

    async def page(request: Request) -> Response:
        return FileResponse(path)

    inner = Starlette(routes=[Route("/", page)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def record(message: Event) -> None:
            seen.put(message["type"])
            await send(message)

        await inner(scope, receive, record if scope["type"] == "http" else send)

    with RawClient(serve(app, sendfile=True).port) as client:
        client.send(get())
        answered = client.read_answer()
        assert (answered.header(b"content-length"), answered.body) == (b"%d" % (MIB + 1), path.read_bytes())
        assert [seen.next(), seen.next()] == ["http.response.start", "http.response.pathsend"]
        assert seen.empty


def test_e6_trailers_stand_behind_a_file(serve: Serve, tmp_path: Path) -> None:
    """ASGI E4 and E6 together."""
    path = file_of(tmp_path, 100)

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, trailers=True)
        await send_file(send, "pathsend", path)
        await send({"type": "http.response.trailers", "headers": [(b"x-a", b"1")]})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "TE: trailers", "Connection: TE"))
        answered = client.read_answer()
        assert (answered.body, answered.header(b"x-a")) == (path.read_bytes(), b"1")
