"""One life of the connection to NATS: core NATS, through nats-py 2.

A topic is the subject `asgiws.` and its name with the prefix, in which `.`, `*`, `>`, `%` and spaces are written as
`%2E`, `%2A`, `%3E`, `%25` and `%20`: so every name is one token, and no two names are the same subject. Payloads are
those of `asgiws.topics.brokers.payload`.

NATS promises less than Redis: messages of one worker keep their order, but those that two workers publish at the same
time may reach a third and a fourth in different orders. It keeps no messages.

Of nats-py, the connection is used and little else. It does not reconnect, which would hide that messages were missed.
Its `flush` confirms nothing, as its PING overtakes what waits to be sent; here, markers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from typing import Any, Final

from asgiws.protocol.limits import MIB
from asgiws.protocol.printable import printable
from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.nats.markers import Markers
from asgiws.topics.brokers.nats.url import NatsURL
from asgiws.topics.brokers.session import BrokerError

__all__ = ["NatsSession", "subject_of"]

_SUBJECT: Final = "asgiws."
_ESCAPES: Final = str.maketrans({character: f"%{ord(character):02X}" for character in ".*>% "})
# What is published and not confirmed before publishers wait
_UNCONFIRMED_MOST_BYTES: Final = MIB
_CONNECT_MOST_S: Final = 5.0
_CLOSE_MOST_S: Final = 1.0
# The probes of Broker find a connection that is lost; those of nats-py go by the clock and not by what was read.
_PINGS_S: Final = 1e6
_REASON_MOST: Final = 200


def subject_of(topic: str) -> str:
    """Return the subject of a topic."""
    return _SUBJECT + topic.translate(_ESCAPES)


class NatsSession:
    """The connection to one NATS server; see `asgiws.topics.brokers.session`."""

    def __init__(
        self,
        url: NatsURL,
        take: Callable[[str, bytes], None],
        probe_topic: str,
        counting: Counting,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.probe_topics: Sequence[str] = (probe_topic,)
        self.asker = probe_topic
        self._url = url
        self._take = take
        self._counting = counting
        self._client = import_module("nats.aio.client").Client()  # optional: the extra nats
        self._errors: Any = import_module("nats.errors")
        self._connecting: asyncio.Task[None] | None = None
        self._failure = ""
        """Why nats-py could not connect."""
        self._subscriptions: dict[str, Any] = {}
        """By topic."""
        self._markers = Markers(self._send_marker)
        self._marker_subject = subject_of(f"{probe_topic} marker")
        self._unconfirmed_bytes = 0

    # ---- called by the broker

    async def open(self) -> None:
        """Connect, authenticate, and subscribe to the topics of probes."""
        url = self._url
        try:
            self._connecting = self._loop.create_task(self._client.connect(
                list(url.servers), name="asgiws", tls=url.tls_context(), connect_timeout=_CONNECT_MOST_S,
                user=self._secret(url.user) if url.user else None,
                password=self._secret(url.password) if url.user else None,
                token=self._secret(url.password) if url.password and not url.user else None,
                allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, pending_size=0,
                ping_interval=_PINGS_S, error_cb=self._on_error, closed_cb=self._on_closed,
            ))  # fmt: skip
            # In a task of its own, as nats-py may lose that it is cancelled (asyncio.wait_for of Python 3.11).
            await asyncio.wait((self._connecting,))
            self._connecting.result()
            self._check_encrypted()
        except (OSError, self._errors.Error, TimeoutError) as error:
            raise BrokerError(self._failure or _describe(error)) from None
        self._client._reading_task.add_done_callback(lambda _: self._lose("the connection was closed"))
        await self._order(self._client.subscribe(self._marker_subject, cb=self._on_marker))
        await self.subscribe(self.probe_topics)

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Return once NATS has taken the subscriptions."""
        for topic in topics:
            if topic not in self._subscriptions:
                # Without limits: the callback hands on at once, so no more waits than was read in one turn.
                self._subscriptions[topic] = await self._order(self._client.subscribe(
                    subject_of(topic), cb=self._taker(topic), pending_msgs_limit=0, pending_bytes_limit=0
                ))  # fmt: skip
        try:
            await self._markers.wait()
        except BrokerError:  # such as a missing permission
            await self.unsubscribe(topics)
            raise

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Get the topics no more."""
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                await self._order(subscription.unsubscribe())

    async def publish(self, topic: str, payload: bytes) -> None:
        """Return once NATS has taken a message."""
        while self._unconfirmed_bytes > _UNCONFIRMED_MOST_BYTES:
            await self._markers.wait()
        self._unconfirmed_bytes += len(payload)
        try:
            await self._order(self._client.publish(subject_of(topic), payload))
            await self._markers.wait()
        finally:
            self._unconfirmed_bytes -= len(payload)

    async def send(self, topic: str, payload: bytes) -> int:
        """Publish a message, for `Counting`; nobody knows how many it reaches."""
        await self._order(self._client.publish(subject_of(topic), payload))
        return sys.maxsize

    async def close(self) -> None:
        """End, also where NATS takes nothing any more."""
        await asyncio.shield(self._loop.create_task(self._close()))  # nothing is left behind by who is cancelled

    async def _close(self) -> None:
        self._lose("closed")
        for subscription in self._subscriptions.values():
            subscription._stop_processing()
        patience_s = _CLOSE_MOST_S if self._client.is_connected else 0
        closing = self._loop.create_task(self._client.close())
        await asyncio.wait((closing,), timeout=patience_s)
        with contextlib.suppress(AttributeError):  # it had no connection
            self._client._transport._bare_io_writer.transport.abort()
        for task in (self._connecting, closing):
            if task is not None:
                await _end(task)

    # ---- called by nats-py

    def _taker(self, topic: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
        async def take(message: Any) -> None:
            if not self._counting.take(self, topic, message.data):
                self._take(topic, message.data)

        return take

    async def _on_marker(self, message: Any) -> None:
        self._markers.take(message.data)

    async def _on_error(self, error: Exception) -> None:
        text = _describe(error)
        self._failure = text
        if "permissions violation" in text.lower():
            self._markers.refuse(text)
        elif self._client.is_connected:
            self._lose(text)

    async def _on_closed(self) -> None:
        self._lose("the connection was closed")

    def _secret(self, value: str) -> Callable[[], str]:
        def reveal() -> str:
            self._check_encrypted()
            return value

        return reveal

    # ----

    def _check_encrypted(self) -> None:
        if self._url.encrypted and not self._client._server_info.get("tls_required"):
            raise OSError("the server does not encrypt, allowed with tls://: one that requires TLS")

    async def _order(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what nats-py returns. Raises BrokerError."""
        try:
            return await work
        except self._errors.Error as error:
            raise BrokerError(_describe(error)) from None

    async def _send_marker(self, payload: bytes) -> None:
        try:
            await self._order(self._client.publish(self._marker_subject, payload))
        except BrokerError as error:
            self._lose(str(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        self._markers.end(reason)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel until it has ended: nats-py may wait for what never comes, and lose that it is cancelled."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_CLOSE_MOST_S)
    if not task.cancelled():
        task.exception()  # there is nothing that it could leave behind


def _describe(error: BaseException) -> str:
    """Return an error of nats-py as part of a line."""
    text = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    return printable(text, _REASON_MOST)
