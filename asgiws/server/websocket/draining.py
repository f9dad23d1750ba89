"""The application learns of the drain of its WebSocket before the Close: `asgiws.draining`, and an ASGI extension.

The drain of a WebSocket begins when its turn comes in a stop (`--drain-spread`), when it is opened while another
process takes over, or when an operator closes many. Its Close follows `--drain-notice` seconds later, earlier only when
the stop is forced.

Extension `websocket.drain`, for applications without a framework: one that sends `websocket.drain.subscribe` on an
open WebSocket receives one event `websocket.drain`, in line with the messages. Its `seconds` are those until the Close.
No other application receives it, because frameworks raise errors for events that they do not know.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiws.protocol.websocket.closing import State
from asgiws.server.asgi import DRAIN_EXTENSION
from asgiws.server.connection.flow_control import wait_in
from asgiws.server.websocket.subscriptions import ConnectionExtension
from asgiws.topics.extension import find_extension
from asgiws.topics.hub import find_hub

__all__ = ["draining"]


async def draining(websocket: Any) -> bool:
    """Return True when the drain of a WebSocket begins, because the server stops or an operator closes many.

    Its Close follows --drain-notice seconds later; until then messages are received and sent as before, and the
    application may close with its own code. Without the option the Close is sent at that moment. Returns False when
    the WebSocket ends without a drain. `websocket` is that of a framework, or the ASGI scope.

    Under another server, and under Starlette's TestClient, nothing announces a drain: it waits until it is cancelled.

    Raises TypeError for what has no scope, and RuntimeError for a scope that is not that of a WebSocket.
    """
    if find_hub() is None:
        await asyncio.get_running_loop().create_future()
    connection = find_extension(websocket, DRAIN_EXTENSION, ConnectionExtension).connection
    closing, notice = connection.closing, connection.closing.drain_notice()
    while not notice.begun and closing.state <= State.OPEN:
        await wait_in(notice.waiters)
    return notice.begun
