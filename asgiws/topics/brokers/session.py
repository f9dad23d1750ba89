"""One life of the connection to a broker: what each kind of broker implements."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from asgiws.topics.history import Position

__all__ = ["BrokerError", "CannotConnect", "Session"]


class BrokerError(Exception):
    """A session cannot be opened, is lost, or the broker refused an order; one line, without a password."""


class CannotConnect(OSError):  # noqa: N818 - what happened
    """The broker of `--broker-required` cannot be reached at the start; one line."""


class Session(Protocol):
    """The connections to a broker from `open` until one of them is lost; never reconnects. Methods raise BrokerError.

    It calls `Broker.take` with every message. A topic is a full name, with the prefix; that of a probe has a space.
    """

    lost: asyncio.Future[str]
    """Done with the reason once messages may have been missed. What waits in other methods then raises."""
    probe_topics: Sequence[str]
    """Topics of this worker alone, subscribed by `open`: one for each part of the broker that can fail by itself."""

    async def open(self) -> None:
        """Connect, authenticate and subscribe to `probe_topics`. The caller limits the time."""

    async def subscribe(self, topics: Sequence[str]) -> Mapping[str, Position] | None:
        """Return once all that is published from now on to these topics will come.

        Those that are subscribed already stay so. Return the positions of those that keep messages, from before that.
        """

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Get these topics no more; need not wait for the broker."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Return once the broker has taken a message. What one task publishes keeps its order.

        Waits while much is unsent. The caller may be cancelled; the message may be published all the same.
        """

    async def close(self) -> None:
        """End, also after a loss or a failed `open`; raises nothing."""
