"""A FastAPI application that uses what FastAPI has, over HTTP and WebSocket; for any ASGI server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, Field

from tests.apps import Recorder

FILE = Path(__file__)


class Item(BaseModel):
    """A body."""

    name: str = Field(min_length=1, max_length=20)
    price: float
    tags: list[str] = []


class Teapot(Exception):  # noqa: N818 - what it is
    """An exception that has a handler for HTTP and for WebSocket."""


def token_of(x_token: Annotated[str | None, Header()] = None) -> str:
    """Give the token, or refuse the request."""
    if x_token is None:
        raise HTTPException(401, "no token", headers={"www-authenticate": "Token"})
    return x_token


def websocket_token_of(token: Annotated[str | None, Query()] = None) -> str:
    """Give the token, or refuse the WebSocket."""
    if token is None:
        raise WebSocketException(code=1008, reason="no token")
    return token


def session_of(connection: HTTPConnection) -> Iterator[str]:
    """Give something that has to be put away again, whatever happens."""
    done = connection.app.state.done
    done.put("opened")
    try:
        yield "session"
    finally:
        done.put("put away")


http = APIRouter()
sockets = APIRouter(prefix="/ws")

Token = Annotated[str, Depends(token_of)]
Session = Annotated[str, Depends(session_of)]
SocketToken = Annotated[str, Depends(websocket_token_of)]


# ---- HTTP


@http.get("/items/{item_id}")
def read_item(item_id: int, q: str | None = None, limit: Annotated[int, Query(le=100)] = 10) -> dict[str, Any]:
    return {"item_id": item_id, "q": q, "limit": limit}


@http.post("/items", status_code=201)
def create_item(item: Item, response: Response) -> Item:
    response.headers["location"] = f"/items/{item.name}"
    return item


@http.get("/headers")
def read_headers(
    user_agent: Annotated[str | None, Header()] = None,
    x_many: Annotated[list[str] | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, Any]:
    return {"user_agent": user_agent, "x_many": x_many, "session": session}


@http.get("/token")
async def read_token(token: Token) -> str:
    return token


@http.get("/session")
def use_session(session: Session, fail: bool = False) -> str:
    if fail:
        raise HTTPException(409, "the session is put away all the same")
    return session


@http.put("/upload")
async def upload(request: Request) -> dict[str, Any]:
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@http.get("/stream")
async def stream() -> StreamingResponse:
    async def generate() -> AsyncIterator[str]:
        for number in range(50):
            yield f"data: {number}\n\n"

    return StreamingResponse(generate(), media_type="text/event-stream")


@http.get("/file-like")
def file_like() -> StreamingResponse:
    return StreamingResponse(io.BytesIO(b"line\n" * 1000), media_type="text/plain")


@http.get("/file")
def file() -> FileResponse:
    return FileResponse(FILE, filename="app.py", media_type="text/x-python")


@http.get("/cookies")
def set_cookies(response: Response) -> dict[str, str]:
    response.set_cookie("a", "1", httponly=True)
    response.set_cookie("b", "2")
    response.delete_cookie("c")
    return {"set": "two"}


@http.get("/empty", status_code=204)
def empty() -> None:
    return None


@http.get("/unchanged")
def unchanged() -> Response:
    return Response(status_code=304, headers={"etag": '"1"'})


@http.get("/elsewhere")
def elsewhere() -> RedirectResponse:
    return RedirectResponse("/items/1?q=ü", 303)


@http.get("/teapot")
def teapot() -> None:
    raise Teapot("short and stout")


@http.get("/fails")
def fails() -> None:
    raise RuntimeError("as asked")


@http.get("/fails-late")
async def fails_late() -> StreamingResponse:
    async def generate() -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError("as asked")

    return StreamingResponse(generate())


@http.get("/background")
def background(request: Request, tasks: BackgroundTasks) -> dict[str, bool]:
    tasks.add_task(request.app.state.done.put, "background task")
    return {"started": True}


@http.get("/where/{rest:path}")
async def where(request: Request, rest: str) -> dict[str, Any]:
    return {
        "method": request.method, "rest": rest, "path": request.scope["path"], "root_path": request.scope["root_path"],
        "raw_path": request.scope["raw_path"].decode(), "query": request.scope["query_string"].decode(),
        "url": request.url.path, "http_version": request.scope["http_version"], "scheme": request.scope["scheme"],
        "link": request.url_for("read_item", item_id=7).path,
    }  # fmt: skip


# ---- WebSocket


@sockets.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event["code"], event.get("reason"))
            if event.get("text") is not None:
                await socket.send_text(event["text"])
            else:
                await socket.send_bytes(event["bytes"])
    except WebSocketDisconnect as closed:
        socket.app.state.ends.put((closed.code, closed.reason))


@sockets.websocket("/rooms/{room}")
async def rooms(socket: WebSocket, room: str, name: str = "nobody") -> None:
    await socket.accept()
    await socket.send_text(f"{name} in {room}")
    async for text in socket.iter_text():
        await socket.send_text(f"{name}: {text}")


@sockets.websocket("/items/{item_id}")
async def item(socket: WebSocket, item_id: int) -> None:
    await socket.accept()
    await socket.send_json({"item_id": item_id})
    await socket.close()


@sockets.websocket("/headers")
async def socket_headers(
    socket: WebSocket,
    x_token: Annotated[str | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> None:
    await socket.accept(headers=[(b"x-seen", (x_token or "none").encode()), (b"set-cookie", b"seen=1")])
    await socket.send_json({"x_token": x_token, "session": session})
    await socket.close(1000, "done")


@sockets.websocket("/secure")
async def secure(socket: WebSocket, token: SocketToken) -> None:
    await socket.accept()
    await socket.send_text(token)
    await socket.close(1000)


@sockets.websocket("/session")
async def socket_session(socket: WebSocket, session: Session) -> None:
    await socket.accept()
    await socket.send_text(session)
    async for text in socket.iter_text():
        await socket.send_text(text)


@sockets.websocket("/late")
async def late(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    raise WebSocketException(code=4001, reason="not like this")


@sockets.websocket("/json")
async def json_echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_json({"you said": await socket.receive_json()})
    except WebSocketDisconnect:
        socket.app.state.ends.put(("json", "over"))


@sockets.websocket("/close")
async def close(socket: WebSocket, code: int = 1000, reason: str | None = None) -> None:
    await socket.accept()
    await socket.send_text("closing")
    await socket.close(code, reason)


@sockets.websocket("/refuse")
async def refuse(socket: WebSocket) -> None:
    await socket.close(4003, "not you")


@sockets.websocket("/deny")
async def deny(socket: WebSocket) -> None:
    await socket.send_denial_response(JSONResponse({"detail": "pay first"}, 402, headers={"x-price": "1"}))


@sockets.websocket("/subprotocol")
async def subprotocol(socket: WebSocket) -> None:
    await socket.accept(subprotocol="v2.chat")
    await socket.send_json(socket.scope["subprotocols"])
    await socket.close()


@sockets.websocket("/returns")
async def returns(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_bytes(b"\x00 and goodbye")


@sockets.websocket("/returns-early")
async def returns_early(socket: WebSocket) -> None:
    """Neither accept nor refuse."""


@sockets.websocket("/fails")
async def socket_fails(socket: WebSocket) -> None:
    await socket.accept()
    raise RuntimeError("as asked")


@sockets.websocket("/fails-early")
async def socket_fails_early(socket: WebSocket) -> None:
    raise RuntimeError("as asked")


@sockets.websocket("/teapot")
async def socket_teapot(socket: WebSocket) -> None:
    await socket.accept()
    raise Teapot("short and stout")


@sockets.websocket("/push")
async def push(socket: WebSocket, count: int = 10) -> None:
    await socket.accept()
    for number in range(count):
        await socket.send_text(str(number))
    await socket.send_text("x" * 70_000)
    await socket.close(1001, "no more")


@sockets.websocket("/where")
async def socket_where(socket: WebSocket) -> None:
    await socket.accept()
    scope = socket.scope
    names = ("type", "path", "root_path", "http_version", "scheme", "subprotocols")
    known: dict[str, Any] = {name: scope[name] for name in names}
    known |= {"raw_path": scope["raw_path"].decode(), "query": scope["query_string"].decode()}
    await socket.send_json(known)
    await socket.close()


# ---- the application


def make_sub() -> FastAPI:
    """An application to mount, with a handler of its own for what it raises."""
    sub = FastAPI()

    @sub.get("/where")
    async def sub_where(request: Request) -> dict[str, str]:
        return {"root_path": request.scope["root_path"], "url": request.url.path}

    @sub.websocket("/ws/{name}")
    async def sub_socket(socket: WebSocket, name: str) -> None:
        await socket.accept()
        await socket.send_json({"name": name, "root_path": socket.scope["root_path"], "url": socket.url.path})
        await socket.close()

    return sub


async def on_teapot(connection: Any, error: Any) -> Any:
    """Handle a Teapot: an answer for HTTP, a Close for WebSocket."""
    if isinstance(connection, WebSocket):
        await connection.close(4018, str(error))
        return None
    return JSONResponse({"teapot": str(error)}, 418)


def make_app() -> FastAPI:
    """Make the application; what its handlers saw is in `app.state.ends`."""
    app = FastAPI(exception_handlers={Teapot: on_teapot})
    app.state.ends = Recorder()
    app.state.done = Recorder()
    app.include_router(http)
    app.include_router(sockets)
    app.mount("/sub", make_sub())
    return app


__all__ = ["FILE", "make_app"]
