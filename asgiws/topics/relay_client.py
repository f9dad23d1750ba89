"""A worker's end of the relay (`asgiws.topics.relay`): the bus between the workers of one machine."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from asgiws.topics.frames import (
    COUNT,
    GAP,
    HISTORY,
    KEEP,
    PROBE,
    PUBLISH,
    REPORT,
    SUBSCRIBE,
    TAKEN,
    UNSUBSCRIBE,
    Frame,
    FrameReader,
    decode_past,
    decode_position,
    encode_frame,
    encode_keep,
    encode_position,
)
from asgiws.topics.history import START, UNKNOWN, Past, Position
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, Subscriber, TopicsUnavailable, kept_message

__all__ = ["RelayClient"]

_UNSENT_HIGH_BYTES: Final = 1024 * 1024
_UNSENT_LOW_BYTES: Final = 256 * 1024
# For a full relay to take a message
_PATIENCE_S: Final = 5.0
# A page of history has up to 256 KiB and one message, which the relay holds for a worker beside its queue.
_QUESTIONS_MOST: Final = 8
# Characters of an epoch in a frame
_EPOCH_MOST: Final = 8


class RelayClient(asyncio.Protocol):
    """Carries what a hub publishes to the relay, and hands it what the relay sends."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._asked: dict[bytes, asyncio.Future[Position]] = {}
        """Subscriptions that were not confirmed yet."""
        self._questions: dict[int, asyncio.Future[bytes]] = {}
        """Questions that were not answered yet, by number."""
        self._question_count = 0
        self._may_ask = asyncio.Semaphore(_QUESTIONS_MOST)
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

    def subscribe(self, topic: str) -> asyncio.Future[Position]:
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
        payload, kind = data.encode() if isinstance(data, str) else data, PUBLISH
        if message.keep is not None:
            payload, kind = encode_keep(message.keep) + payload, KEEP
        self._send(Frame(kind, message.topic.encode(), payload, isinstance(data, str), number if excludes else 0))
        taken = self._loop.create_future()
        self._published[number] = taken, message.exclude
        self._published_count = number
        return taken

    async def history(self, topic: str, since: Position) -> Past:
        """Return what is kept after a position, or a page of it. Raises TopicsUnavailable."""
        if len(since.epoch) > _EPOCH_MOST:  # no ring of the relay has it
            since = UNKNOWN
        return decode_past(await self._ask(Frame(HISTORY, topic.encode(), encode_position(since))))

    async def count(self, topic: str) -> int:
        """Return how many sockets of the other workers subscribe, up to a second ago. Raises TopicsUnavailable."""
        return int.from_bytes(await self._ask(Frame(COUNT, topic.encode())))

    async def _ask(self, question: Frame) -> bytes:
        """Return the relay's answer, which follows all that was published before."""
        async with self._may_ask:
            self._question_count = number = self._question_count + 1
            self._send(question._replace(number=number))
            answer: asyncio.Future[bytes] = self._loop.create_future()
            self._questions[number] = answer
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    return await answer
            except TimeoutError:
                raise TopicsUnavailable(f"the relay did not answer within {_PATIENCE_S:g} s") from None
            finally:
                del self._questions[number]

    def report(self, counts: Mapping[str, int]) -> None:
        """Report how many sockets of this worker subscribe to topics."""
        for topic, count in counts.items():
            if not self._transport.is_closing():
                self._send(Frame(REPORT, topic.encode(), count.to_bytes(8)))

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
        for kind, topic, payload, is_text, number in self._reader.feed(data):
            if kind == PUBLISH:
                left_out = self._published[number][1] if number else None
                messages.append(Message(topic.decode(), payload.decode() if is_text else payload, left_out))
            elif kind == KEEP:
                left_out = self._published[number][1] if number else None
                at, payload = decode_position(payload)
                messages.append(kept_message(topic.decode(), at, payload.decode(), left_out))
            elif kind == TAKEN:
                self._on_taken(int.from_bytes(payload))
            else:
                if messages:
                    self._hub.deliver(messages)  # before what is said about them
                    messages = []
                self._on_other(Frame(kind, topic, payload, is_text, number))
        self._hub.deliver(messages)
        if self._hub.is_full:
            self._transport.pause_reading()

    def _on_other(self, frame: Frame) -> None:
        """Act on a frame that is not about a message."""
        kind, topic, payload, _, number = frame
        if kind == SUBSCRIBE:
            asked = self._asked.pop(topic, None)
            if asked is not None and not asked.done():
                asked.set_result(decode_position(payload)[0] if payload else START)
        elif kind == GAP:
            self._hub.on_gap(topic.decode(), kept=bool(payload))
        elif kind == PROBE:
            self._hub.on_bus_lag((time.monotonic_ns() - int.from_bytes(payload)) / 1e9)
        else:  # HISTORY and COUNT
            question = self._questions.get(number)
            if question is not None and not question.done():
                question.set_result(payload)

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
        waiters: list[asyncio.Future[Any]] = [taken for taken, _ in self._published.values()]
        waiters += self._asked.values()
        waiters += self._questions.values()
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(TopicsUnavailable("the supervisor has gone"))
                waiting.exception()
