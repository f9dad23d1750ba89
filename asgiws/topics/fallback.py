"""Topics under another server, or under Starlette's `TestClient`: within one process, for development and tests.

Each subscription has a bounded queue and a task that sends what is in it. Loops of several threads are connected, as
`TestClient` has one for each WebSocket.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asgiws.topics.history import History, Position
from asgiws.topics.listener import Listener
from asgiws.topics.message import AlreadySubscribed, Message, TopicsUnavailable, kept_message, messages_of

__all__ = ["FALLBACK", "Fallback"]

_LOG: Final = logging.getLogger("asgiws")
_QUEUE_MOST: Final = 1000

_Send = Callable[[str | bytes], Awaitable[Any]]


class Fallback:
    """The topics of a process whose server is not asgiws."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Held while a message goes to all listeners, so that all see one order."""
        self._history = History()
        self._listeners: dict[str, dict[Listener, asyncio.AbstractEventLoop]] = {}
        self._senders: dict[tuple[str, int], tuple[Listener, asyncio.Task[None]]] = {}
        self._warned = False

    def publish(self, message: Message, exclude: object | None) -> None:
        """Deliver to all listeners, each in its own loop."""
        self._warn()
        with self._lock:
            if message.keep is not None and isinstance(message.data, str):
                at = self._history.append(message.topic, message.keep, message.data.encode())
                message = kept_message(message.topic, at, message.data)
            left_out = self._senders.get((message.topic, id(exclude)))
            for listener, loop in list(self._listeners.get(message.topic, {}).items()):
                if left_out is None or listener is not left_out[0]:
                    try:
                        loop.call_soon_threadsafe(_deliver, listener, message)
                    except RuntimeError:  # its loop is closed
                        self.remove(message.topic, listener)

    def add(self, topic: str, listener: Listener, since: Position | None = None) -> bool:
        """Subscribe a listener of the running loop, after what is kept since a position; return whether that is all."""
        self._warn()
        complete, read_on = True, since is not None
        with self._lock:
            while since is not None and read_on:
                past = self._history.read(topic, since)
                listener.queue_past(messages_of(topic, past))
                complete = complete and past.complete
                since, read_on = past.last, past.last.offset < past.top
            self._listeners.setdefault(topic, {})[listener] = asyncio.get_running_loop()
        return complete

    def count(self, topic: str) -> int:
        """Return how many WebSockets subscribe."""
        return sum(name == topic for name, _ in list(self._senders))

    def remove(self, topic: str, listener: Listener) -> None:
        """Unsubscribe a listener."""
        with self._lock:
            listeners = self._listeners.get(topic, {})
            listeners.pop(listener, None)
            if not listeners:
                self._listeners.pop(topic, None)

    async def subscribe(self, topic: str, websocket: Any, since: Position | None = None) -> tuple[bool, bool]:
        """Send what is published to a WebSocket of some framework, after what is kept since a position.

        Return whether that is new, and whether nothing is missing. Raises RuntimeError for a position when it is not.
        """
        key = topic, id(websocket)
        if key in self._senders:
            if since is not None:
                raise AlreadySubscribed(topic)
            return False, True
        send = _sender(websocket)
        listener = Listener(_QUEUE_MOST)
        complete = self.add(topic, listener, since)
        try:
            for _ in range(listener.waiting_count):
                await send(await listener.next())
        except BaseException:
            self.remove(topic, listener)
            raise
        task = asyncio.get_running_loop().create_task(self._send_all(topic, listener, websocket, send))
        self._senders[key] = listener, task
        task.add_done_callback(lambda done: self._forget(key, done))
        return True, complete

    def unsubscribe(self, topic: str, websocket: Any) -> bool:
        """Send no more; return whether the WebSocket had subscribed."""
        found = self._senders.pop((topic, id(websocket)), None)
        if found is None:
            return False
        listener, task = found
        self.remove(topic, listener)
        task.cancel()
        return True

    def _forget(self, key: tuple[str, int], done: asyncio.Task[None]) -> None:
        found = self._senders.get(key)
        if found is not None and found[1] is done:  # not of a subscription that began since
            del self._senders[key]

    async def _send_all(self, topic: str, listener: Listener, websocket: Any, send: _Send) -> None:
        try:
            while True:
                await send(await listener.next())
        except TopicsUnavailable as error:
            _LOG.warning("a WebSocket is closed: %s", error)
            await websocket.close(1013)
        except Exception as error:  # frameworks raise errors of their own once the client has gone
            _LOG.info("a subscription ends with %s", type(error).__name__)
        finally:
            self.remove(topic, listener)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "asgiws does not serve on this event loop, so topics reach only the connections of this process that "
                "another server has"
            )


def _deliver(listener: Listener, message: Message) -> None:
    listener.deliver(message, False, False)


def _sender(websocket: Any) -> _Send:
    """Return what sends a message: `send_text` and `send_bytes` of most frameworks, `send` of Channels and Quart.

    Raises TypeError for what has neither, such as a scope.
    """
    if hasattr(websocket, "send_text"):
        return lambda data: websocket.send_text(data) if isinstance(data, str) else websocket.send_bytes(data)
    if not hasattr(websocket, "send"):
        raise TypeError(f"{type(websocket).__name__}, allowed under this server: an object with send_text or send")
    if "bytes_data" in inspect.signature(websocket.send).parameters:
        return lambda data: websocket.send(**{"text_data" if isinstance(data, str) else "bytes_data": data})
    return lambda data: websocket.send(data)


FALLBACK: Final = Fallback()
