"""picows: a WebSocket library in Cython without ASGI above it; echo and broadcast. Arguments: PORT."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from asgiws.runner.loops import loop_factory

picows: Any = importlib.import_module("picows")
_CLIENTS: set[Any] = set()


class Echo(picows.WSListener):  # type: ignore[misc] # the bench's extra is not installed everywhere
    """Send each message back."""

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class Broadcast(picows.WSListener):  # type: ignore[misc] # as above
    """Send each message to all."""

    def on_ws_connected(self, transport: Any) -> None:
        _CLIENTS.add(transport)

    def on_ws_disconnected(self, transport: Any) -> None:
        _CLIENTS.discard(transport)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for client in _CLIENTS:
            client.send(frame.msg_type, payload)


async def _serve(port: int) -> None:
    def listener(request: Any) -> Any:
        return Broadcast() if request.path.startswith(b"/broadcast") else Echo()

    server = await picows.ws_create_server(listener, "127.0.0.1", port, backlog=2048)
    await asyncio.shield(server.serve_forever())


if __name__ == "__main__":
    loop_factory("uvloop")().run_until_complete(_serve(int(sys.argv[1])))
