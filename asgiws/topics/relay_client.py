"""A worker's end of the relay (`asgiws.topics.relay`): the bus between the workers of one machine."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Final, cast

from asgiws.topics.frames import GAP, PROBE, PUBLISH, SUBSCRIBE, TAKEN, UNSUBSCRIBE, Frame, FrameReader, encode_frame
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, Subscriber, TopicsUnavailable

__all__ = ["RelayClient"]

_UNSENT_HIGH_BYTES: Final = 1024 * 1024
_UNSENT_LOW_BYTES: Final = 256 * 1024
# For a full relay to take a message
_PATIENCE_S: Final = 5.0


class RelayClient(asyncio.Protocol):
    """Carries what a hub publishes to the relay, and hands it what the relay sends."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        """Subscriptions that were not confirmed yet."""
        self._published: dict[int, tuple[asyncio.Future[None], Subscriber | None]] = {}
        """Messages that were not taken yet, by number: what is done then, and the connection that is left out.

        The relay says that it has taken a message behind what it sends back of it, so until then the number is known.
        """
        self._published_count = 0
        self._taken_count = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    @classmethod
    async def connect(cls, end: socket.socket, hub: Hub) -> RelayClient:
        """Take over a worker's end of the pair, and be the hub's bus."""
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        _, client = await loop.create_unix_connection(lambda: cls(hub), sock=end)
        hub.use_bus(client)
        return client

    def close(self) -> None:
        """End it, from this side."""
        self._hub.use_bus(None)
        self._transport.close()

    # ---- called by the hub

    def subscribe(self, topic: str) -> asyncio.Future[None]:
        """Ask for a topic; return what is done once the relay has confirmed it. Raises TopicsUnavailable."""
        name = topic.encode()
        self._send(Frame(SUBSCRIBE, name))
        self._asked[name] = asked = self._loop.create_future()
        return asked

    def unsubscribe(self, topic: str) -> None:
        """Get the topic no more."""
        if not self._transport.is_closing():
            self._send(Frame(UNSUBSCRIBE, topic.encode()))

    async def publish(self, message: Message) -> None:
        """Return once the relay has taken the message, and what it sent before has come.

        Raises TopicsUnavailable when it takes nothing for seconds; the message may be delivered all the same.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self._writable.is_set():  # the first of those that waited may fill it for the others
                    await self._writable.wait()
                await self._write(message)
        except TimeoutError:
            raise TopicsUnavailable(f"the relay took nothing for {_PATIENCE_S:g} s") from None

    def _write(self, message: Message) -> asyncio.Future[None]:
        """Send a message; return what is done once the relay has taken it."""
        data, number = message.data, self._published_count + 1
        excludes = message.exclude is not None and self._hub.has(message.topic, message.exclude)
        payload = data.encode() if isinstance(data, str) else data
        self._send(Frame(PUBLISH, message.topic.encode(), payload, isinstance(data, str), number if excludes else 0))
        taken = self._loop.create_future()
        self._published[number] = taken, message.exclude
        self._published_count = number
        return taken

    def on_drained(self) -> None:
        """Read on: the hub has delivered what it had."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def probe(self) -> None:
        """Measure how long a message takes to the relay and back: `Hub.on_bus_lag` is called with it."""
        if not self._transport.is_closing():
            self._send(Frame(PROBE, b"", time.monotonic_ns().to_bytes(8)))

    def _send(self, frame: Frame) -> None:
        if self._transport.is_closing():
            raise TopicsUnavailable("the supervisor has gone")
        self._transport.write(encode_frame(frame))

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_UNSENT_HIGH_BYTES, _UNSENT_LOW_BYTES)

    def data_received(self, data: bytes) -> None:
        """Deliver all that was read at once in one piece."""
        messages = []
        for kind, topic, payload, is_text, exclude in self._reader.feed(data):
            if kind == PUBLISH:
                left_out = self._published[exclude][1] if exclude else None
                messages.append(Message(topic.decode(), payload.decode() if is_text else payload, left_out))
            elif kind == SUBSCRIBE:
                asked = self._asked.pop(topic, None)
                if asked is not None and not asked.done():
                    asked.set_result(None)
            elif kind == TAKEN:
                self._on_taken(int.from_bytes(payload))
            elif kind == GAP:
                self._hub.on_gap(topic.decode())
            elif kind == PROBE:
                self._hub.on_bus_lag((time.monotonic_ns() - int.from_bytes(payload)) / 1e9)
        self._hub.deliver(messages)
        if self._hub.is_full:
            self._transport.pause_reading()

    def _on_taken(self, count: int) -> None:
        for number in range(self._taken_count + 1, count + 1):
            taken, _ = self._published.pop(number)
            if not taken.done():
                taken.set_result(None)
        self._taken_count = count

    def pause_writing(self) -> None:
        """Let publishers wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let publishers go on."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: without its supervisor, the worker stops soon."""
        self._writable.set()
        for waiting in (*self._asked.values(), *(taken for taken, _ in self._published.values())):
            if not waiting.done():
                waiting.set_exception(TopicsUnavailable("the supervisor has gone"))
                waiting.exception()
