"""Serving the admin address, beside whatever runs on the same event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from asgiws.admin.app import AdminApp
from asgiws.admin.authorization import Authorization
from asgiws.admin.source import Source
from asgiws.config.addresses import UNIX, parse_address
from asgiws.config.options import Config
from asgiws.protocol.limits import KIB
from asgiws.server.server import Server
from asgiws.server.sockets.listeners import CannotListen
from asgiws.telemetry.logs import LOG

__all__ = ["serve_admin"]

# Whoever may connect to the socket may close connections: its owner only.
_SOCKET_MODE: Final = "600"


@contextlib.asynccontextmanager
async def serve_admin(config: Config, source: Source) -> AsyncIterator[Authorization | None]:
    """Serve the admin address while the context lasts, if there is one; gives its rules. Raises CannotListen."""
    if not config.admin:
        yield None
        return
    address = parse_address(config.admin)
    access = Authorization(config.admin_token, address.host)
    server = Server(AdminApp(source, access), _admin_config(config.admin))
    try:
        await server.start()
    except CannotListen as error:
        raise error.of("--admin") from None
    LOG.info("admin address is %s", ", ".join(server.addresses))
    if address.kind != UNIX and not config.admin_token:
        LOG.info("admin address without --admin-token: connections cannot be closed there")
    try:
        yield access
    finally:
        await server.stop()


def _admin_config(address: str) -> Config:
    """Give the options of a server for a few operators: small limits, and an end that nobody waits for."""
    return Config(
        bind=(address,),
        uds_mode=_SOCKET_MODE,
        lifespan="off",
        access_log=False,
        server_header=False,
        max_connections=256,
        max_head_size=16 * KIB,
        max_body_size=4 * KIB,
        max_message_size=4 * KIB,
        max_queue=4,
        max_message_rate=10,
        # Who keeps a connection and asks nothing must not keep a health check out.
        head_timeout=5,
        keep_alive_timeout=5,
        graceful_timeout=0.5,
        close_timeout=2,
    )
