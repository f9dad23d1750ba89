"""Files as response bodies (ASGI E3 and E4): by `sendfile` where the loop and the transport have it, else in pieces.

At most one piece of the file is in memory. A client that takes no piece within `write_timeout` seconds is dropped, as
it is for bytes that wait in the transport.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, NamedTuple

from asgiws.server.asgi import ClientDisconnected, Event
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.slow_client import drop_slow_client
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["FilePart", "open_part", "send_part"]

_PIECE_BYTES: Final = 64 * 1024


class FilePart(NamedTuple):
    """A part of an open file."""

    file: IO[bytes]
    offset: int
    size: int


@contextmanager
def open_part(message: Event) -> Iterator[FilePart]:
    """Open the file that an `http.response.pathsend` or `.zerocopysend` names.

    A file that the application has opened keeps its position, or moves to the end of the part, as after sendfile(2),
    when the message has no offset. Raises OSError, and ValueError for a part that no file can have.
    """
    if message["type"] == "http.response.pathsend":
        with open(message["path"], "rb") as file:
            yield FilePart(file, 0, os.fstat(file.fileno()).st_size)
        return
    opened = message["file"]
    descriptor = opened if isinstance(opened, int) else opened.fileno()
    # A file object reads ahead, so it and its descriptor have two positions.
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    offset, count = message.get("offset"), message.get("count")
    start = offset if offset is not None else position if opened is descriptor else opened.tell()
    size = max(0, os.fstat(descriptor).st_size - start) if count is None else count
    if start < 0 or size < 0:
        raise ValueError(f"offset {offset}, count {count}, allowed: 0 or more")
    with open(descriptor, "rb", closefd=False) as file:
        try:
            yield FilePart(file, start, size)
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)  # asyncio moves it, uvloop does not
    if offset is None and opened is descriptor:
        os.lseek(descriptor, start + size, os.SEEK_SET)
    elif offset is None:
        opened.seek(start + size)


async def send_part(
    worker: WorkerState, transport: asyncio.Transport, flow: FlowControl, client: ClientAddress, part: FilePart,
    ended: Callable[[], bool],
) -> None:  # fmt: skip
    """Send a part of a file to `client`, unless the connection has `ended`.

    Raises ClientDisconnected, and ValueError for a shorter file.
    """
    offset, end = part.offset, part.offset + part.size
    by_sendfile = transport.get_extra_info("sslcontext") is None
    while offset < end:
        piece = min(_PIECE_BYTES, end - offset)
        try:
            async with asyncio.timeout(worker.config.write_timeout or None):
                if by_sendfile:
                    try:
                        sent = await worker.loop.sendfile(transport, part.file, offset, piece, fallback=False)
                    except (NotImplementedError, asyncio.SendfileNotAvailableError):
                        by_sendfile = False
                        continue
                else:
                    data = await worker.loop.run_in_executor(None, _read, part.file, offset, piece)
                    sent = len(data)
                    if not ended():
                        transport.write(data)
                    if flow.write_paused:
                        await flow.wait_writable()
        except TimeoutError:
            if not transport.is_closing():  # the sweep may have dropped it in the same turn
                drop_slow_client(worker, transport, client)
            raise ClientDisconnected("client read nothing of a file") from None
        except (OSError, RuntimeError) as error:
            # A transport that closes during sendfile raises one of these, depending on when; and sendfile meets a
            # client that left before the transport does, which does not read meanwhile.
            if ended() or isinstance(error, ConnectionError):
                transport.abort()
                raise ClientDisconnected("client left while a file was sent") from error
            raise
        if ended():
            raise ClientDisconnected("client left while a file was sent")
        if not sent:
            raise ValueError(f"file ends {end - offset} bytes before the part that was to be sent")
        offset += sent


def _read(file: IO[Any], offset: int, count: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), count, offset)
    # Not POSIX: moves the position of the descriptor, so responses must not share one.
    file.seek(offset)
    return bytes(file.read(count))
