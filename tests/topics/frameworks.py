"""The same room in five frameworks: subscribe, then publish what the client sends. `POST /` publishes, too."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from fastapi import FastAPI, Request, WebSocket

from asgiws import Topic
from asgiws.server.asgi import ASGIApp


def fastapi() -> ASGIApp:
    app = FastAPI()

    async def room(ws: WebSocket) -> None:
        await ws.accept()
        async with Topic("room").subscribed(ws):
            await ws.send_text("subscribed")
            async for text in ws.iter_text():
                await Topic("room").publish(text)

    async def post(request: Request) -> str:
        await Topic("room").publish((await request.body()).decode())
        return "published"

    app.add_api_websocket_route("/", room)
    app.add_api_route("/", post, methods=["POST"])
    return app


def quart() -> ASGIApp:
    framework: Any = import_module("quart")
    app: Any = framework.Quart(__name__)

    async def room() -> None:
        await framework.websocket.accept()
        async with Topic("room").subscribed(framework.websocket):
            await framework.websocket.send("subscribed")
            while True:
                await Topic("room").publish(await framework.websocket.receive())

    async def post() -> str:
        await Topic("room").publish(await framework.request.get_data(as_text=True))
        return "published"

    app.add_websocket("/", None, room)
    app.add_url_rule("/", None, post, methods=["POST"])
    return cast("ASGIApp", app)


def litestar() -> ASGIApp:
    framework: Any = import_module("litestar")

    async def room(socket: Any) -> None:
        await socket.accept()
        async with Topic("room").subscribed(socket):
            await socket.send_text("subscribed")
            async for text in socket.iter_data():
                await Topic("room").publish(text)

    async def publish(request: Any) -> str:
        await Topic("room").publish((await request.body()).decode())
        return "published"

    # Litestar reads annotations when a handler is registered.
    room.__annotations__ = {"socket": framework.WebSocket, "return": None}
    publish.__annotations__ = {"request": framework.Request, "return": str}
    return cast("ASGIApp", framework.Litestar([framework.websocket("/")(room), framework.post("/")(publish)]))


def channels() -> ASGIApp:
    settings: Any = import_module("django.conf").settings
    if not settings.configured:
        settings.configure(SECRET_KEY="test", INSTALLED_APPS=["channels"], ROOT_URLCONF=__name__)
        import_module("django").setup()
    routing: Any = import_module("channels.routing")
    path: Any = import_module("django.urls").path
    consumer: Any = import_module("channels.generic.websocket").AsyncWebsocketConsumer

    class Room(consumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await Topic("room").subscribe(self)
            await self.send("subscribed")

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await Topic("room").publish(text_data or "")

    http: Any = import_module("django.core.asgi").get_asgi_application()
    websocket: Any = routing.URLRouter([path("", Room.as_asgi())])
    return cast("ASGIApp", routing.ProtocolTypeRouter({"http": http, "websocket": websocket}))


def _django_view(request: Any) -> Any:
    import_module("asgiref.sync").async_to_sync(Topic("room").publish)(request.body.decode())
    return import_module("django.http").HttpResponse("published")


class _Patterns(list[Any]):
    """URL patterns that are made when Django asks, as it cannot be imported before it is configured."""

    def __iter__(self) -> Any:
        return iter([import_module("django.urls").path("", _django_view)])

    def __reversed__(self) -> Any:
        return iter(self)


urlpatterns = _Patterns()
