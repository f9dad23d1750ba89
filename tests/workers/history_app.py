"""An application whose topics keep their messages, for servers with workers.

A WebSocket gets what the topic of its path has kept since `?since=`, then "recovered True" or "recovered False" and the
number of its worker, then what follows. It publishes what it sends, but "stream:N:SIZE" publishes N numbered messages,
and "count" is answered with the number of sockets. `POST /topic` publishes its body.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgiws import Topic


def topic_of(path_params: dict[str, str]) -> Topic:
    return Topic(path_params["topic"], history=10_000, ttl=600)


async def room(websocket: WebSocket) -> None:
    await websocket.accept()
    topic = topic_of(websocket.path_params)
    async with topic.subscribed(websocket, since=websocket.query_params.get("since")) as subscription:
        await websocket.send_text(f"recovered {subscription.recovered} {os.getpid()}")
        async for text in websocket.iter_text():
            if text == "count":
                await websocket.send_text(f"count {await topic.count()}")
            elif text.startswith("stream:"):
                _, count, size = text.split(":")
                for number in range(int(count)):
                    await topic.publish(f"{number}:" + "x" * int(size))
            else:
                await topic.publish(text)


async def publish(request: Request) -> PlainTextResponse:
    await topic_of(request.path_params).publish((await request.body()).decode())
    return PlainTextResponse("published")


app = Starlette(
    routes=[WebSocketRoute("/{topic}", room), Route("/{topic}", publish, methods=["POST"])],
)
