"""The application of `python -m tests.bench.many`: `/echo` echoes, everybody else subscribes to one topic.

What a subscriber says is published. Each encoding of a published message adds a byte to the file BENCH_ENCODINGS.
"""

from __future__ import annotations

import os
from typing import Any

from asgiws import Topic
from asgiws.topics.message import Message
from tests.bench.apps import Event, Receive, Send

_frame_for = Message.frame_for
_encodings = os.open(os.environ.get("BENCH_ENCODINGS", os.devnull), os.O_WRONLY | os.O_APPEND)


def _counted(message: Message, encoder: Any) -> bytes:
    os.write(_encodings, b"+")
    return _frame_for(message, encoder)


setattr(Message, "frame_for", _counted)  # noqa: B010 - for mypy


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] != "websocket":
        raise RuntimeError("no lifespan")
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/echo":
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    room = Topic("room")
    async with room.subscribed(scope):
        while (event := await receive())["type"] == "websocket.receive":
            await room.publish(event["text"])
