"""Applications that send what one client says to all of them: each in the way its project documents.

The room is the path. `BENCH_REDIS` is the URL of a Redis server, for those that need one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgiws import Topic
from tests.bench.apps import Event, Receive, Send

REDIS_URL = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")


async def topic(scope: Event, receive: Receive, send: Send) -> None:
    """`asgiws.Topic`, in plain ASGI."""
    if scope["type"] != "websocket":
        raise RuntimeError("no lifespan")
    await receive()
    await send({"type": "websocket.accept"})
    room = Topic("room")
    async with room.subscribed(scope):
        while (event := await receive())["type"] == "websocket.receive":
            await room.publish(event["text"])


class ConnectionManager:
    """As FastAPI documents it ("WebSockets", "Handling disconnections and multiple clients")."""

    def __init__(self) -> None:
        self.active: list[WebSocket] = []

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active.append(websocket)
        try:
            while True:
                text = await websocket.receive_text()
                for connection in self.active:
                    await connection.send_text(text)
        except WebSocketDisconnect:
            self.active.remove(websocket)


manager = Starlette(routes=[WebSocketRoute("/{path:path}", ConnectionManager().endpoint)])


def broadcaster() -> Any:
    """`broadcaster` on Redis, as its README documents it: a subscription and a task for each socket."""
    broadcast: Any = import_module("broadcaster").Broadcast(REDIS_URL)

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()

        async def sender() -> None:
            async with broadcast.subscribe(channel="room") as subscriber:
                async for event in subscriber:
                    await websocket.send_text(event.message)

        async with asyncio.TaskGroup() as group:
            sending = group.create_task(sender())
            async for text in websocket.iter_text():
                await broadcast.publish(channel="room", message=text)
            sending.cancel()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with broadcast:
            yield

    return Starlette(routes=[WebSocketRoute("/{path:path}", endpoint)], lifespan=lifespan)


def channels() -> Any:
    """Django Channels with channels_redis: a group, as its tutorial documents it."""
    return _channels("channels_redis.core.RedisChannelLayer", hosts=[REDIS_URL], capacity=10_000)


def channels_pubsub() -> Any:
    """The same with the layer of channels_redis that uses Redis' pub/sub."""
    return _channels("channels_redis.pubsub.RedisPubSubChannelLayer", hosts=[REDIS_URL])


def _channels(backend: str, **config: Any) -> Any:
    layer = {"BACKEND": backend, "CONFIG": config}
    import_module("django.conf").settings.configure(SECRET_KEY="bench", CHANNEL_LAYERS={"default": layer})
    consumer: Any = import_module("channels.generic.websocket").AsyncWebsocketConsumer

    class Room(consumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard("room", self.channel_name)

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.channel_layer.group_send("room", {"type": "chat.message", "message": text_data})

        async def chat_message(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["message"])

    return Room.as_asgi()


def socketio() -> Any:
    """python-socketio with its Redis manager: a room, as its documentation has it."""
    package: Any = import_module("socketio")
    manager = package.AsyncRedisManager(REDIS_URL)
    server = package.AsyncServer(async_mode="asgi", client_manager=manager, ping_interval=86_400)

    async def connect(sid: str, environ: object) -> None:
        await server.enter_room(sid, "room")

    async def say(sid: str, text: str) -> None:
        await server.emit("said", text, room="room")

    server.on("connect", connect)
    server.on("say", say)
    return package.ASGIApp(server)
