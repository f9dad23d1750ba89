"""Event loops: which one `--loop` selects, and how one is closed in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

__all__ = ["close_loop", "loop_factory", "loop_name"]

# For tasks of the application that were cancelled, and then for its asynchronous generators
_END_S: Final = 0.5


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function that makes the event loop `name`: auto, asyncio or uvloop.

    Raises ModuleNotFoundError when uvloop is asked for and not installed.
    """
    if name != "asyncio":
        try:
            import uvloop  # an optional package
        except ModuleNotFoundError:
            if name == "uvloop":
                raise
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def loop_name(factory: Callable[[], asyncio.AbstractEventLoop]) -> str:
    """Return the name of the package that a loop comes from: asyncio or uvloop."""
    return factory.__module__.partition(".")[0]


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop as `asyncio.run` does, but give up on what does not end within a second."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(RuntimeError):
        _, left = loop.run_until_complete(asyncio.wait(tasks, timeout=_END_S)) if tasks else ((), set())
        generators = loop.create_task(loop.shutdown_asyncgens())
        left |= loop.run_until_complete(asyncio.wait((generators,), timeout=_END_S))[1]
        if left:
            # They ignore their cancellation, and are destroyed with the loop without a line for each.
            loop.set_exception_handler(lambda loop, details: None)
    asyncio.set_event_loop(None)
    loop.close()
