"""Sending a part of a file as a response body: by `sendfile` where the loop and the transport have it, else in pieces.

Never is more of the file in memory than one piece. A client that does not take a piece in `write_timeout`
seconds is dropped, as it is for bytes that wait in the transport.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import IO, Any, Final

from asgiws.server.asgi import ClientDisconnected
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.state.worker_state import WorkerState

__all__ = ["file_size", "send_part"]

_PIECE_BYTES: Final = 64 * 1024


def file_size(file: IO[bytes]) -> int:
    """Give the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


async def send_part(
    worker: WorkerState, transport: asyncio.Transport, flow: FlowControl, file: IO[bytes], offset: int, count: int,
    ended: Callable[[], bool],
) -> None:  # fmt: skip
    """Send `count` bytes of `file` from `offset` on, unless the connection has `ended`.

    Raises ClientDisconnected, and ValueError for a shorter file.
    """
    end = offset + count
    by_sendfile = transport.get_extra_info("sslcontext") is None
    while offset < end:
        piece = min(_PIECE_BYTES, end - offset)
        try:
            async with asyncio.timeout(worker.config.write_timeout or None):
                if by_sendfile:
                    try:
                        sent = await worker.loop.sendfile(transport, file, offset, piece, fallback=False)
                    except (NotImplementedError, asyncio.SendfileNotAvailableError):
                        by_sendfile = False
                        continue
                else:
                    data = await worker.loop.run_in_executor(None, _read, file, offset, piece)
                    sent = len(data)
                    if not ended():
                        transport.write(data)
                    if flow.write_paused:
                        await flow.wait_writable()
        except TimeoutError:
            worker.incidents.on_slow_consumer(None)
            transport.abort()
            raise ClientDisconnected("client read nothing of a file") from None
        except (OSError, RuntimeError) as error:
            # A transport that closes during sendfile says so in one of these, depending on when; and sendfile meets a
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
    return os.pread(file.fileno(), count, offset)
