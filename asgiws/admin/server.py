"""The server of the admin address, on the event loop of the supervisor or of the application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from asgiws.admin.app import AdminApp
from asgiws.admin.authorization import Authorization
from asgiws.admin.history import History
from asgiws.admin.source import Source
from asgiws.config.addresses import UNIX, parse_address
from asgiws.config.options import Config
from asgiws.protocol.limits import KIB
from asgiws.server.server import Server
from asgiws.server.sockets.listeners import CannotListen
from asgiws.telemetry.logs import LOG

__all__ = ["serve_admin"]

# Any process that may connect to the socket may close connections: those of its owner only.
_SOCKET_MODE: Final = "600"


@contextlib.asynccontextmanager
async def serve_admin(config: Config, source: Source) -> AsyncIterator[Authorization | None]:
    """Serve the admin address, if there is one, while the context lasts; yield its rules. Raises CannotListen."""
    if not config.admin:
        yield None
        return
    address = parse_address(config.admin)
    access = Authorization(config.admin_token, address.host)
    history = History(source)
    server = Server(AdminApp(source, access, history), _admin_config(config.admin, config.max_publish_size))
    try:
        await server.start()
    except CannotListen as error:
        raise error.of("--admin") from None
    LOG.info("admin address is %s", ", ".join(server.addresses))
    if address.kind != UNIX and not config.admin_token:
        LOG.info("admin address without --admin-token: connections cannot be closed there")
    sampling = asyncio.create_task(history.keep())
    try:
        yield access
    finally:
        sampling.cancel()
        await server.stop()


def _admin_config(address: str, most_bytes: int) -> Config:
    """Return the options of a server for a few operators: small limits, bodies of `most_bytes`, and a fast stop."""
    return Config(
        bind=(address,),
        uds_mode=_SOCKET_MODE,
        lifespan="off",
        access_log=False,
        server_header=False,
        max_connections=256,
        max_head_size=16 * KIB,
        max_body_size=most_bytes,
        max_message_size=4 * KIB,
        max_queue=4,
        max_message_rate=10,
        # An idle connection must not block a health check.
        head_timeout=5,
        keep_alive_timeout=5,
        graceful_timeout=0.5,
        close_timeout=2,
    )
