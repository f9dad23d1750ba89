"""How many sockets of other workers subscribe to a topic: asked when somebody wants to know, and stored nowhere.

The question is published on the topic itself, so only workers that subscribe get it. Redis says how many it reached, so
the asker knows how many answers will come; NATS does not. Each comes on a topic of the asker's own. What does not
answer in time, such as another program that listens, counts as nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, Protocol

from asgiws.topics.brokers.payload import MARK
from asgiws.topics.brokers.session import BrokerError

__all__ = ["Counting"]

_QUESTION: Final = MARK + b"?"
_NUMBER_BYTES: Final = 8
_ANSWER: Final = MARK + b"="
_LASTS_S: Final = 10.0
# Answers that wait to be sent; whoever asks more than that gets none.
_ANSWERING_MOST: Final = 1000


class Sender(Protocol):
    """What a session has to do for it."""

    asker: str
    """The topic of this worker alone that answers are sent to; has a space."""

    async def send(self, topic: str, payload: bytes) -> int:
        """Publish; return how many subscribers it reached at most. Raises BrokerError."""


class _Asked:
    """One question."""

    def __init__(self) -> None:
        self.sum = 0
        self.answers = 0
        self.expected = 0
        """How many were reached; 0 until it is known."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, count: int) -> None:
        """Take an answer."""
        self.sum += count
        self.answers += 1
        self.check()

    def check(self) -> None:
        """Be done once all have answered."""
        if self.expected and self.answers >= self.expected and not self.done.done():
            self.done.set_result(None)


class Counting:
    """The questions and answers of one worker."""

    def __init__(self, answer_most_s: float = 2.0) -> None:
        """`answer_most_s`: for all answers to come."""
        self._answer_most_s = answer_most_s
        self._counts: dict[str, int] = {}
        """How many sockets of this worker subscribe."""
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._known: dict[str, tuple[float, asyncio.Task[int]]] = {}
        """By topic, when it was asked, and the answer."""
        self._answering: set[asyncio.Task[None]] = set()

    def report(self, counts: Mapping[str, int]) -> None:
        """Know how many sockets of this worker subscribe to topics whose number has changed."""
        self._counts.update(counts)
        for topic in [topic for topic, count in counts.items() if not count]:
            del self._counts[topic]

    async def count(self, sender: Sender, topic: str) -> int:
        """Return how many sockets of other workers subscribe, at most ten seconds ago. Raises BrokerError."""
        now_s = asyncio.get_running_loop().time()
        self._known = {name: known for name, known in self._known.items() if known[0] > now_s - _LASTS_S}
        if topic not in self._known:
            asking = asyncio.get_running_loop().create_task(self._ask(sender, topic))
            asking.add_done_callback(lambda done: self._on_asked(topic, done))
            self._known[topic] = now_s, asking
        return await asyncio.shield(self._known[topic][1])

    def _on_asked(self, topic: str, done: asyncio.Task[int]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._known.pop(topic, None)

    async def _ask(self, sender: Sender, topic: str) -> int:
        self._number = number = self._number + 1
        self._asked[number] = asked = _Asked()
        try:
            question = _QUESTION + number.to_bytes(_NUMBER_BYTES) + sender.asker.encode()
            asked.expected = await sender.send(topic, question)
            asked.check()
            if asked.expected:
                await asyncio.wait((asked.done,), timeout=self._answer_most_s)
            return asked.sum
        finally:
            del self._asked[number]

    def take(self, sender: Sender, topic: str, payload: bytes) -> bool:
        """Act on a question or an answer; return whether the payload is one."""
        if payload.startswith(_QUESTION) and len(payload) > len(_QUESTION) + _NUMBER_BYTES:
            number, asker = payload[len(_QUESTION) :][:_NUMBER_BYTES], payload[len(_QUESTION) + _NUMBER_BYTES :]
            if b" " not in asker:
                return False
            count = 0 if asker == sender.asker.encode() else self._counts.get(topic, 0)
            if len(self._answering) < _ANSWERING_MOST:
                answer = _ANSWER + number + count.to_bytes(_NUMBER_BYTES)
                answering = asyncio.get_running_loop().create_task(_answer(sender, asker, answer))
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            return True
        if payload.startswith(_ANSWER) and len(payload) == len(_ANSWER) + 2 * _NUMBER_BYTES:
            asked = self._asked.get(int.from_bytes(payload[len(_ANSWER) :][:_NUMBER_BYTES]))
            if asked is not None:
                asked.add(int.from_bytes(payload[-_NUMBER_BYTES:]))
            return True
        return False

    def close(self) -> None:
        """End what is under way."""
        for task in (*self._answering, *(asking for _, asking in self._known.values())):
            task.cancel()


async def _answer(sender: Sender, asker: bytes, answer: bytes) -> None:
    with contextlib.suppress(BrokerError, UnicodeDecodeError):  # whoever asks has a limit
        await sender.send(asker.decode(), answer)
