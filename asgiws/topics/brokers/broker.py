"""What every broker shares: a bus whose connection can be lost, and never in silence.

    Hub -> Broker -> Session -> the broker's program -> Session -> Broker -> Hub

A kind of broker has a `Session` (`asgiws.topics.brokers.session`) and a subclass of `Broker` whose `make_session`
returns one. A session is opened once; when it is lost, a new one takes its place:

    connecting  the first attempt after the start or a loss; who publishes or subscribes waits up to five seconds
    connected   the session has confirmed all topics that the hub wants
    deaf        an attempt failed: publishing and subscribing raise TopicsUnavailable, and the pauses between attempts
                grow, with jitter

* A probe (`.probe`) goes through the broker every ten seconds. When it does not come back, the session counts as lost,
  whatever its sockets say.
* After a loss everything is subscribed again, in batches (`.interest`). Then the hub ends the subscribers of all topics
  that may have missed something.
* What is read is handed to the hub at once (`.inbox`), so the broker need not keep anything for a slow worker.
* The hub has what others read: `Hub.deaf` (readiness), `.received`, `.oversized`, `.reconnects` and `.on_bus_lag`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from asgiws.protocol.printable import counted
from asgiws.topics.brokers.inbox import Inbox
from asgiws.topics.brokers.interest import Interest
from asgiws.topics.brokers.probe import SILENT_TICKS, Probes
from asgiws.topics.brokers.session import BrokerError, CannotConnect, Session
from asgiws.topics.history import Keep, Past, Position
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, TopicsUnavailable

__all__ = ["CONNECTED", "CONNECTING", "DEAF", "Broker"]

CONNECTING, CONNECTED, DEAF = "connecting", "connected", "deaf"

_LOG: Final = logging.getLogger("asgiws")
# For one attempt to connect, and for a batch of topics to be confirmed before it is connected
_OPEN_MOST_S: Final = 5.0
_BATCH_MOST_S: Final = 10.0
# For a publisher: until the broker has taken its message
_PATIENCE_S: Final = 5.0
_PAUSE_LEAST_S: Final = 0.25
_PAUSE_MOST_S: Final = 8.0
# A session that is lost after less than this is not followed by the next at once, and pauses grow up to as much.
_SHORT_LIFE_S: Final = 1.0
_TICK_S: Final = 1.0

_Result = TypeVar("_Result")


class Broker(ABC):
    """The bus of a hub over a broker: implements `asgiws.topics.hub.Bus`. All of it belongs to the loop's thread."""

    def __init__(self, hub: Hub, name: str, queue_most_bytes: int) -> None:
        """`name` is what logs call the broker: its address without a password."""
        self.hub = hub
        self.name = name
        self.state = CONNECTING
        self.reason = ""
        """Why it is not connected, once an attempt has failed or a session was lost."""
        self.origin = os.urandom(8)
        """Names this worker among all."""
        self.probe_topic = f"{hub.prefix} probe:{self.origin.hex()}"
        self._settled = asyncio.Event()
        """Set unless it is connecting."""
        self._session: Session | None = None
        """The one that is connected."""
        self._running: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        self._probing: set[asyncio.Task[None]] = set()
        self._interest = Interest()
        self._inbox = Inbox(hub, self.origin, queue_most_bytes)
        self._probes = Probes()
        self._numbered = 0
        """Messages with a number that were published before the last probe."""

    @abstractmethod
    def make_session(self) -> Session:
        """Return a new session, which was not opened yet. It calls `take` with every message. Raises BrokerError."""

    async def start(self, *, required: bool = False) -> None:
        """Be the hub's bus, and return once the first attempt to connect has ended; others follow when it failed.

        With `required`, raise CannotConnect then.
        """
        self.hub.use_bus(self)
        self.hub.deaf = True
        self._running = asyncio.get_running_loop().create_task(self._run())
        await self._settled.wait()
        if required and self.state != CONNECTED:
            raise CannotConnect(str(self._unavailable()))

    async def close(self) -> None:
        """End the connection."""
        self.hub.use_bus(None)
        self.hub.deaf = False
        for task in (self._running, self._changing, *self._probing):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        self._interest.reject_all("the server ends")

    # ---- called by the hub

    def subscribe(self, topic: str) -> asyncio.Future[Position]:
        """Ask for a topic; return what is done once the broker has confirmed it. Raises TopicsUnavailable."""
        if self.state == DEAF:
            raise self._unavailable()
        confirmed = self._interest.want(topic)
        self._tell_changes()
        return confirmed

    def unsubscribe(self, topic: str) -> None:
        """Get the topic no more."""
        self._interest.drop(topic)
        self._inbox.forget_topic(topic)
        self._tell_changes()

    async def publish(self, message: Message) -> None:
        """Return once the broker has taken the message. Raises TopicsUnavailable; it may be delivered all the same."""
        if message.keep is None:
            await self.ask(lambda session: session.publish(message.topic, self._inbox.encode(message)))
        else:
            await self.publish_kept(message, message.keep)

    async def publish_kept(self, message: Message, keep: Keep) -> None:
        """Publish a message and keep it. Raises RuntimeError: this broker keeps none."""
        raise self._keeps_nothing()

    async def ask(self, work: Callable[[Session], Awaitable[_Result]]) -> _Result:
        """Return what `work` returns for the session, after a wait while it is connecting. Raises TopicsUnavailable."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await work(await self._connected_session())
        except BrokerError as error:
            raise TopicsUnavailable(f"broker {self.name}: {error}") from None
        except TimeoutError:
            raise TopicsUnavailable(f"broker {self.name} took nothing for {_PATIENCE_S:g} s") from None

    async def _connected_session(self) -> Session:
        """Return the session, after a wait while it is connecting. Raises TopicsUnavailable."""
        while self.state == CONNECTING:
            await self._settled.wait()
        if self._session is None:
            raise self._unavailable()
        return self._session

    async def history(self, topic: str, since: Position) -> Past:
        """Raise RuntimeError: topics with history need another bus."""
        raise self._keeps_nothing()

    async def count(self, topic: str) -> int:
        """Raise RuntimeError: how many subscribe elsewhere is not known."""
        raise RuntimeError(f"broker {self.name} does not count subscribers, allowed: count() without --broker")

    def report(self, counts: Mapping[str, int]) -> None:  # noqa: B027 - nothing to implement
        """Do nothing: nobody asks."""

    def _keeps_nothing(self) -> RuntimeError:
        return RuntimeError(f"broker {self.name} keeps no messages, allowed: Topic without history, or Redis")

    def on_drained(self) -> None:
        """Go on: the hub has delivered what it had."""
        self._inbox.on_drained()

    def probe(self) -> None:  # noqa: B027 - nothing to implement
        """Do nothing: probes have their own times."""

    # ---- called by sessions

    def take(self, topic: str, payload: bytes) -> None:
        """Take a message of the broker."""
        self._probes.heard = True
        if " " not in topic:
            self._inbox.take(topic, payload)
        elif self._probes.take(topic, payload):
            self.hub.on_bus_lag(asyncio.get_running_loop().time() - self._probes.sent_s)
            self._inbox.forget_numbers(self._numbered)

    # ---- the life of a session

    async def _run(self) -> None:
        """Connect, watch, and connect again."""
        loop, pause_s = asyncio.get_running_loop(), 0.0
        while True:
            session, connected_s = None, 0.0
            try:
                session = self.make_session()
                await self._open(session)
                connected_s = loop.time()
                self._on_connected(session)
                self._on_lost(await self._watch(session))
            except BrokerError as error:
                self._on_failed(str(error))
            except Exception as error:  # a fault of ours or of a package: no reason to stay deaf
                _LOG.exception("broker %s: the connection has failed", self.name)
                self._on_failed(type(error).__name__)
            finally:
                if session is not None:
                    await session.close()
            if self.state == CONNECTING and loop.time() - connected_s >= _SHORT_LIFE_S:
                pause_s = 0.0
            else:
                most_s = _PAUSE_MOST_S if self.state == DEAF else _SHORT_LIFE_S
                pause_s = min(most_s, max(_PAUSE_LEAST_S, 2 * pause_s))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - not a secret

    async def _open(self, session: Session) -> None:
        """Connect, and subscribe to all that is wanted. Raises BrokerError."""
        limit_s = _OPEN_MOST_S
        try:
            async with asyncio.timeout(limit_s):
                await session.open()
            limit_s = _BATCH_MOST_S
            self._interest.begin_session()
            while self._interest.has_changed:
                async with asyncio.timeout(limit_s):
                    await self._interest.change_some(session)
        except TimeoutError:
            raise BrokerError(f"no answer within {limit_s:g} s") from None

    def _on_connected(self, session: Session) -> None:
        again = " again" if self.reason else ""
        self._session, self.state, self.reason = session, CONNECTED, ""
        self._probes = Probes()
        self.hub.deaf = False
        self._settled.set()
        missed = self._interest.take_missed()
        _LOG.info("broker %s: connected%s", self.name, again)
        if missed:
            self._inbox.report_gaps(missed)

    def _on_lost(self, reason: str) -> None:
        """Let publishers and subscribers wait for the next attempt."""
        count = self._leave(CONNECTING, reason)
        self._settled.clear()
        self.hub.reconnects += 1
        _LOG.warning("broker %s is lost: %s; %s may miss messages", self.name, reason, counted(count, "topic"))

    def _on_failed(self, reason: str) -> None:
        """Refuse publishers and subscribers until another attempt succeeds."""
        if self.state != DEAF or reason != self.reason:
            _LOG.error("broker %s cannot be reached: %s; trying again", self.name, reason)
        self._leave(DEAF, reason)
        self._settled.set()
        self._interest.reject_all(str(self._unavailable()))

    def _leave(self, state: str, reason: str) -> int:
        """Enter a state without a session; return how many topics may miss something."""
        self._session, self.state, self.reason = None, state, reason
        self.hub.deaf = True
        self.hub.forget_confirmations()
        if self._changing is not None:
            self._changing.cancel()
        self._inbox.forget_numbers()
        return self._interest.lose_session()

    def _unavailable(self) -> TopicsUnavailable:
        return TopicsUnavailable(f"broker {self.name} cannot be reached: {self.reason}")

    # ---- while a session is connected

    def _tell_changes(self) -> None:
        """Let the broker learn of changes, of all of this turn of the loop together."""
        if self._session is not None and (self._changing is None or self._changing.done()):
            self._changing = asyncio.get_running_loop().create_task(self._change_all(self._session))

    async def _change_all(self, session: Session) -> None:
        while self._interest.has_changed and session is self._session:
            with contextlib.suppress(BrokerError):
                await self._interest.change_some(session)

    async def _watch(self, session: Session) -> str:
        """Return why the session is lost, once it is."""
        while True:
            await asyncio.wait((session.lost,), timeout=_TICK_S)
            if session.lost.done():
                return session.lost.result()
            self._probes.tick()
            if self._probes.is_unanswered:
                return f"no message came for {SILENT_TICKS} s after a probe"
            if self._probes.is_due:
                self._send_probe(session)

    def _send_probe(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        payload = self._probes.begin(loop.time(), session.probe_topics)
        self._numbered = self._inbox.numbered
        for topic in session.probe_topics:
            probing = loop.create_task(_publish_probe(session, topic, payload))
            self._probing.add(probing)
            probing.add_done_callback(self._probing.discard)


async def _publish_probe(session: Session, topic: str, payload: bytes) -> None:
    with contextlib.suppress(BrokerError):  # the session is lost, or the silence that follows will say so
        await session.publish(topic, payload)
