"""An application with topics for servers with workers.

A WebSocket subscribes to the topic of its path and gets the number of its worker. What it sends is published there, but
"stream:N:SIZE" publishes N numbered messages, and "fork" starts a process that waits. `POST /topic` publishes its body
and answers with the worker's number.
"""

from __future__ import annotations

import os
import signal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgiws import Topic


async def room(websocket: WebSocket) -> None:
    topic = Topic(websocket.path_params["topic"])
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    async with topic.subscribed(websocket):
        await websocket.send_text("subscribed")
        async for text in websocket.iter_text():
            if text.startswith("stream:"):
                _, count, size = text.split(":")
                for number in range(int(count)):
                    await topic.publish(f"{number}:" + "x" * int(size))
            elif text == "fork":
                child = os.fork()
                if not child:
                    signal.pause()
                await websocket.send_text(str(child))
            else:
                await topic.publish(text)


async def publish(request: Request) -> PlainTextResponse:
    await Topic(request.path_params["topic"]).publish((await request.body()).decode())
    return PlainTextResponse(str(os.getpid()))


app = Starlette(
    routes=[WebSocketRoute("/{topic}", room), Route("/{topic}", publish, methods=["POST"])],
)
