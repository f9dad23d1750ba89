"""The relay: the part of the supervisor that carries messages between its workers.

Each worker has a pair of connected sockets for it. The relay never decodes a payload, sends a message only to workers
that subscribed to its topic, the publisher's included, and gives all messages one order, in which every worker gets
them. What the relay has for a worker in one turn of the loop leaves in one write. A worker learns how many of its
messages were taken behind what the relay sends it, so what anybody publishes after that comes later for everybody.

It also keeps what topics keep, gives these messages their positions, and answers what workers ask about them; so it
outlives every worker. It knows how many sockets of each worker subscribe from what they report.

It waits for nobody: once more than `queue_most_bytes` wait for a worker, it gets no more, and what it missed is
remembered as the names of the topics. As soon as it has read everything, it receives a GAP for each of them.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

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
    decode_keep,
    decode_position,
    encode_frame,
    encode_past,
    encode_position,
)
from asgiws.topics.history import HISTORY_MOST_BYTES, START, History

__all__ = ["Relay"]


class Relay:
    """Carries messages between the workers that are connected."""

    def __init__(self, queue_most_bytes: int, history_most_bytes: int = HISTORY_MOST_BYTES) -> None:
        self.queue_most_bytes = queue_most_bytes
        self.history = History(history_most_bytes)
        self._subscribed: dict[bytes, set[_Link]] = {}
        self._due: set[_Link] = set()
        """Workers for which something waits until the loop turns."""
        self.relayed = 0
        """Messages that were published."""
        self.gaps = 0
        """How often a topic's messages were left out for a worker that does not read."""

    async def connect(self, end: socket.socket) -> asyncio.Transport:
        """Take over one end of a worker's pair; it is closed when the worker closes its own.

        Return what to close when the worker has exited: a process that it forked may hold the worker's end open.
        """
        end.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _Link(self), sock=end)
        return transport

    def publish(self, topic: str, payload: bytes, *, is_text: bool) -> None:
        """Publish from this process."""
        self._publish(Frame(PUBLISH, topic.encode(), payload, is_text), None)

    # ---- called by the links

    def take(self, link: _Link, frame: Frame) -> None:
        """Act on a frame of a worker."""
        kind = frame.kind
        if kind in (PUBLISH, KEEP):
            link.taken += 1
            self._publish(frame if kind == PUBLISH else self._keep(frame), link)
        elif kind == SUBSCRIBE:
            self._subscribed.setdefault(frame.topic, set()).add(link)
            at = self.history.position(frame.topic.decode())
            self._send(link, encode_frame(frame._replace(payload=b"" if at == START else encode_position(at))))
        elif kind == UNSUBSCRIBE:
            link.socket_counts.pop(frame.topic, None)
            self._forget(link, frame.topic)
        elif kind == PROBE:
            self._send(link, encode_frame(frame))
        elif kind == HISTORY:
            since, _ = decode_position(frame.payload)
            past = self.history.read(frame.topic.decode(), since)
            self._send(link, encode_frame(frame._replace(payload=encode_past(past))))
        elif kind == COUNT:
            others = self._subscribed.get(frame.topic, set()) - {link}
            count = sum(other.socket_counts.get(frame.topic, 0) for other in others)
            self._send(link, encode_frame(frame._replace(payload=count.to_bytes(8))))
        elif kind == REPORT:
            link.socket_counts[frame.topic] = int.from_bytes(frame.payload)

    def confirm(self, link: _Link) -> None:
        """Tell a worker how many of its messages were taken."""
        self._send(link, encode_frame(Frame(TAKEN, b"", link.taken.to_bytes(8))))

    def leave(self, link: _Link) -> None:
        """Forget a worker that has ended."""
        self._due.discard(link)
        for topic in [topic for topic, links in self._subscribed.items() if link in links]:
            self._forget(link, topic)

    def _forget(self, link: _Link, topic: bytes) -> None:
        links = self._subscribed.get(topic)
        if links is not None:
            links.discard(link)
            if not links:
                del self._subscribed[topic]

    def _keep(self, frame: Frame) -> Frame:
        """Keep a message; return the frame by which it is delivered."""
        keep, payload = decode_keep(frame.payload)
        at = self.history.append(frame.topic.decode(), keep, payload)
        return frame._replace(payload=encode_position(at) + payload)

    def _publish(self, frame: Frame, publisher: _Link | None) -> None:
        self.relayed += 1
        links = self._subscribed.get(frame.topic)
        if not links:
            return
        data = encode_frame(frame._replace(number=0) if frame.number else frame)
        for link in links:
            waiting = link.waiting_bytes()
            # A message that is longer than the queue passes when nothing else waits.
            if link.missed is not None or 0 < waiting > self.queue_most_bytes - len(data):
                self.gaps += link.miss(frame)
            elif frame.number and link is publisher:
                self._send(link, encode_frame(frame))
            else:
                self._send(link, data)

    def _send(self, link: _Link, data: bytes) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.add(link)
        link.batch.append(data)
        link.batch_bytes += len(data)

    def _flush(self) -> None:
        due, self._due = self._due, set()
        for link in due:
            link.flush()


class _Link(asyncio.Protocol):
    """The relay's connection to one worker."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self.taken = 0
        """Messages that this worker has published."""
        self.batch: list[bytes] = []
        """Frames that leave when the loop turns."""
        self.batch_bytes = 0
        self.missed: dict[bytes, bool] | None = None
        """Topics of which the worker missed messages, until it has read all that waited; None while it keeps up.

        Each with whether all of these messages are kept.
        """
        self.socket_counts: dict[bytes, int] = {}
        """How many sockets of the worker subscribe to each topic, as it reported."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; `resume_writing` is called once nothing waits any more."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0, 0)

    def data_received(self, data: bytes) -> None:
        """Take frames of the worker."""
        taken = self.taken
        for frame in self._reader.feed(data):
            self._relay.take(self, frame)
        if self.taken != taken:
            self._relay.confirm(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the worker."""
        self._relay.leave(self)

    def resume_writing(self) -> None:
        """Tell a worker that reads again what it missed."""
        if self.missed:
            missed, self.missed = self.missed, None
            gaps = (Frame(GAP, topic, b"kept" if kept else b"") for topic, kept in missed.items())
            self._transport.write(b"".join(map(encode_frame, gaps)))

    def waiting_bytes(self) -> int:
        """Return the bytes that the worker has not read yet, but for those in its socket."""
        return self._transport.get_write_buffer_size() + self.batch_bytes

    def miss(self, frame: Frame) -> bool:
        """Note that a message is left out; return whether it is the first of its topic."""
        if self.missed is None:
            self.missed = {}
        first = frame.topic not in self.missed
        self.missed[frame.topic] = self.missed.get(frame.topic, True) and frame.kind == KEEP
        return first

    def flush(self) -> None:
        """Write what waits."""
        data = b"".join(self.batch)
        self.batch.clear()
        self.batch_bytes = 0
        if not self._transport.is_closing():
            self._transport.write(data)
            if not self._transport.get_write_buffer_size():
                self.resume_writing()
