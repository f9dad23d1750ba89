"""Event loops: which one `--loop` selects, and how one is closed in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Callable
from typing import Any, Final, cast

from asgiws.config.option import OptionError

__all__ = ["close_loop", "loop_factory", "loop_name"]

# For tasks of the application that were cancelled, and then for its asynchronous generators
_END_S: Final = 0.5


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function that makes the event loop `name`: auto, asyncio, uvloop, or module:factory.

    Raises OptionError when its module is not installed, and when the factory does not make an event loop, which is
    tried once.
    """
    if ":" in name:
        return _other_factory(name)
    if name != "asyncio":
        try:
            import uvloop  # an optional package
        except ModuleNotFoundError:
            if name == "uvloop":
                raise OptionError(
                    "--loop: 'uvloop' was given and is not installed, allowed: auto; or pip install uvloop"
                ) from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _other_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Import a factory. Raises OptionError."""
    module, _, attribute = name.partition(":")

    def refusal(why: str) -> OptionError:
        return OptionError(f"--loop: {name!r} was given, {why}; allowed: module:factory, which returns an event loop")

    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        loop = factory()
    except Exception as error:
        raise refusal(f"{type(error).__name__}: {error}") from None
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise refusal(f"which returns {type(loop).__name__}")
    try:
        loop.run_until_complete(_accept_one(loop))
    except NotImplementedError:
        raise refusal("which lacks connect_accepted_socket") from None
    finally:
        loop.close()
    return cast("Callable[[], asyncio.AbstractEventLoop]", factory)


async def _accept_one(loop: asyncio.AbstractEventLoop) -> None:
    """Make a connection as the server does."""
    client, accepted = socket.socketpair()
    with client, accepted:
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
        transport.abort()
        await asyncio.sleep(0)  # it closes its socket


def loop_name(name: str) -> str:
    """Return the name of the package that the loop `name` comes from, such as asyncio or uvloop."""
    return name.partition(":")[0] if ":" in name else loop_factory(name).__module__.partition(".")[0]


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
