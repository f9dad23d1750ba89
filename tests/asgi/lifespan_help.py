"""What the tests of the lifespan share: its events, a server of no other purpose, and whether anybody can connect."""

from __future__ import annotations

import asyncio
import contextlib

from asgiws.config.options import Config
from asgiws.runner.loops import loop_factory
from asgiws.server.asgi import ASGIApp
from asgiws.server.server import Server

STARTUP, COMPLETE = {"type": "lifespan.startup"}, {"type": "lifespan.startup.complete"}
SHUTDOWN, ENDED = {"type": "lifespan.shutdown"}, {"type": "lifespan.shutdown.complete"}


async def accepts_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return True


def serve_once(loop_name: str, app: ASGIApp, **options: object) -> list[str]:
    """Start and stop a server in a loop of its own; gives the tasks that it left, also when it could not start."""
    config = Config.from_options({"port": 0, "graceful_timeout": 1, **options})
    left: list[str] = []

    async def run() -> None:
        try:
            async with Server(app, config):
                pass
        finally:
            left.extend(repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task())

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(run())
    return left


async def turn_the_loop() -> None:
    """Give what must not happen yet the chance to happen."""
    for _ in range(100):
        await asyncio.sleep(0)
