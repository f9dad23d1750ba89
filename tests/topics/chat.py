"""The chat of the documentation, in Starlette: one topic for each room, and an HTTP route that publishes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgiws.topics.topic import Topic


async def room(websocket: WebSocket) -> None:
    topic = Topic(f"room:{websocket.path_params['name']}")
    await websocket.accept()
    async with topic.subscribed(websocket):
        await websocket.send_text("subscribed")
        async for text in websocket.iter_text():
            await topic.publish(text)


async def notify(request: Request) -> PlainTextResponse:
    await Topic(f"room:{request.path_params['name']}").publish((await request.body()).decode())
    return PlainTextResponse("published")


app = Starlette(
    routes=[WebSocketRoute("/rooms/{name}", room), Route("/rooms/{name}", notify, methods=["POST"])],
)
