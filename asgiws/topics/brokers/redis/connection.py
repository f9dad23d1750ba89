"""One connection to Redis: what is sent in one turn of the loop leaves in one write, and what comes is handed on.

redis-py connects, authenticates and parses. Its `Connection` would connect again by itself when it is used after its
end, so nothing here uses it then.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from asgiws.protocol.printable import printable
from asgiws.topics.brokers.session import BrokerError

__all__ = ["Pipe", "ask", "describe", "parse_url"]

_UNSENT_MOST_BYTES: Final = 1024 * 1024
_CONNECT_MOST_S: Final = 5.0
_REASON_MOST: Final = 200
# Beside the probes: for a connection on which nothing is sent
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


def parse_url(url: str, password: str = "") -> Mapping[str, Any]:
    """Return what `Pipe` connects with. Raises ValueError or TypeError for what redis-py does not take."""
    from redis.asyncio.connection import (  # optional: the extra redis
        AbstractConnection,
        Connection,
        UnixDomainSocketConnection,
        parse_url,
    )

    known: dict[str, Any] = {"connection_class": Connection, **parse_url(_plain_url(url))}
    if password:
        known["password"] = password
    # Each of them set here, whatever the defaults of a version are
    known |= {
        "socket_timeout": None, "socket_connect_timeout": _CONNECT_MOST_S, "health_check_interval": 0, "retry": None,
        "retry_on_timeout": False, "retry_on_error": [], "protocol": 2, "decode_responses": False,
    }  # fmt: skip
    # No command that an account would need only for this
    if "driver_info" in inspect.signature(AbstractConnection).parameters:
        known["driver_info"] = None
    else:
        known |= {"lib_name": None, "lib_version": None}
    if not issubclass(known["connection_class"], UnixDomainSocketConnection):
        known |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    _make_connection(known)
    return known


def _plain_url(url: str) -> str:
    """Return a URL as redis-py spells it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.removeprefix('redis+') if scheme == 'redis+unix' else scheme.partition('+')[0]}://{rest}"


def _make_connection(known: Mapping[str, Any]) -> Any:
    return known["connection_class"](**{key: value for key, value in known.items() if key != "connection_class"})


def describe(error: BaseException) -> str:
    """Return an error of redis-py as part of a line."""
    return printable(str(error).rstrip(".") or type(error).__name__, _REASON_MOST)


async def ask(known: Mapping[str, Any], *words: bytes) -> Any:
    """Return the reply to one command, over a connection of its own. Raises BrokerError."""
    from redis.exceptions import RedisError

    connection = _make_connection(known)
    try:
        await connection.connect()
        await connection.send_command(*words)
        return await connection.read_response(disable_decoding=True)
    except (RedisError, OSError) as error:
        raise BrokerError(describe(error)) from None
    finally:
        await connection.disconnect(nowait=True)


class Pipe:
    """A connection. `on_reply` gets what Redis sends, also a ResponseError; `on_lost` the reason, once."""

    def __init__(
        self, known: Mapping[str, Any], on_reply: Callable[[Any], None], on_lost: Callable[[str], None]
    ) -> None:
        self._connection = _make_connection(known)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._tasks: list[asyncio.Task[None]] = []
        self._outbox: list[bytes] = []
        self._unsent_bytes = 0
        self._something = asyncio.Event()
        """Set while something is to be written."""
        self._room = asyncio.Event()
        """Set while little waits to be written."""
        self._room.set()
        self._ended = False

    async def open(self) -> None:
        """Connect. Raises BrokerError."""
        from redis.exceptions import RedisError

        try:
            await self._connection.connect()
        except (RedisError, OSError) as error:
            raise BrokerError(describe(error)) from None
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    def send(self, *words: bytes) -> None:
        """Send a command when the loop turns."""
        packed = self._connection.pack_command(*words)
        self._outbox += packed
        self._unsent_bytes += sum(map(len, packed))
        if self._unsent_bytes > _UNSENT_MOST_BYTES:
            self._room.clear()
        self._something.set()

    async def wait_room(self) -> None:
        """Return once little waits to be written, or nothing is written any more."""
        while not self._room.is_set():  # the first of those that waited may fill it for the others
            await self._room.wait()

    async def close(self) -> None:
        """End, whatever state it is in."""
        self._end("closed")
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:  # also when this is cancelled
            with contextlib.suppress(Exception):  # it has no state that an error could leave behind
                await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        from redis.exceptions import ResponseError

        try:
            while True:
                try:
                    reply = await self._connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                self._on_reply(reply)
        except Exception as error:  # of whatever kind: nobody reads any more
            self._end(describe(error))

    async def _write(self) -> None:
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                outbox, self._outbox, self._unsent_bytes = self._outbox, [], 0
                if self._connection.is_connected:
                    await self._connection.send_packed_command(outbox, check_health=False)
                self._room.set()
        except Exception as error:
            self._end(describe(error))

    def _end(self, reason: str) -> None:
        self._room.set()
        if not self._ended:
            self._ended = True
            self._on_lost(reason)
