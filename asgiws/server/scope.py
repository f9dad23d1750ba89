"""ASGI scopes, made from request heads (ASGI HTTP & WebSocket 2.5)."""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache
from typing import Any, Final

from asgiws.protocol.http.fields import Header
from asgiws.protocol.http.head import RequestHead
from asgiws.server.asgi import DRAIN_EXTENSION, Scope
from asgiws.server.state.worker_state import WorkerState
from asgiws.topics.extension import EXTENSION, TopicsExtension

__all__ = ["GONE", "Peer", "http_scope", "peer_of", "shared_address", "websocket_scope"]


# A TCP connection that was reset before it was accepted has no address any more, and may still have bytes to read. It
# must not pass for a client of a Unix socket, which may be trusted; "" is in no list of addresses.
GONE: Final = ("", 0)


class Peer:
    """The two ends of a connection, and whether it is encrypted."""

    __slots__ = ("client", "host", "root_path", "secure", "server", "tenant", "tls", "via")

    def __init__(
        self,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        secure: bool,
        tls: dict[str, Any] | None = None,
    ) -> None:
        self.client = client
        """Address and port, 0 when it is not known; None on a Unix socket."""
        self.via = client
        """The other end of the connection: the client or, when a trusted proxy forwards its request, that proxy."""
        self.server = server
        """Address and port, or path and None for a Unix socket (ASGI H6)."""
        self.secure = secure
        self.tls = tls
        """The `tls` extension, on encrypted connections only (ASGI E8)."""
        self.root_path: str | None = None
        """The path that a proxy reports to have removed; None: the option `root_path` applies."""
        self.host: bytes | None = None
        """The Host field that a proxy reports to have received; None: the one that it sent applies."""
        self.tenant = b""
        """Whose connection it is, by the header that a proxy sets (`--max-connections-by`); empty if it sets none."""


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Return the two ends of the TCP connection; the client is `GONE` if it left before it was accepted."""
    client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if isinstance(server, tuple):
        known = client[:2] if isinstance(client, tuple) else GONE
        return Peer(client=known, server=shared_address(server[:2]), secure=False)
    return Peer(client=None, server=(os.fsdecode(server), None) if server else None, secure=False)


@lru_cache(maxsize=64)
def shared_address(address: Any) -> Any:
    """Return the same object for the same address of ours: connections have few different ones."""
    return address


def http_scope(worker: WorkerState, head: RequestHead, peer: Peer) -> Scope:
    """Make the scope of an HTTP request."""
    extensions: dict[str, Any] = {}
    if worker.config.sendfile:
        # ASGI E3, E4. Not by default: frameworks use them when they are offered, and middleware between the framework
        # and the server that does not know the messages drops them, or does not compress.
        extensions["http.response.pathsend"] = {}
        extensions["http.response.zerocopysend"] = {}
    # ASGI E5, E6, each where it works: 103 and trailers need a client that understands them
    if head.http_version == "1.1":
        extensions["http.response.early_hint"] = {}
        if head.te_trailers:
            extensions["http.response.trailers"] = {}
    scope = _scope(worker, head, peer, "http", "https" if peer.secure else "http", extensions)
    scope["method"] = head.method
    return scope


def websocket_scope(
    worker: WorkerState, head: RequestHead, peer: Peer, subprotocols: list[str], ours: TopicsExtension
) -> Scope:
    """Make the scope of a WebSocket connection; `ours` is the value of the extensions that asgiws adds."""
    extensions: dict[str, Any] = {"websocket.http.response": {}, EXTENSION: ours, DRAIN_EXTENSION: ours}
    scope = _scope(worker, head, peer, "websocket", "wss" if peer.secure else "ws", extensions)
    scope["subprotocols"] = subprotocols
    return scope


def _scope(
    worker: WorkerState, head: RequestHead, peer: Peer, kind: str, scheme: str, extensions: dict[str, Any]
) -> dict[str, Any]:
    # Every value is fresh: applications and middleware write into their scope.
    root_path = worker.config.root_path if peer.root_path is None else peer.root_path
    if peer.tls is not None:
        extensions["tls"] = _copy(peer.tls)
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": head.http_version,
        "scheme": scheme,
        # As uvicorn does, and as frameworks expect that take `root_path` off again
        "path": root_path + head.path,
        "raw_path": root_path.encode() + head.target if root_path else head.target,
        "query_string": head.query,
        "root_path": root_path,
        "headers": head.headers.copy() if peer.host is None else _with_host(head.headers, peer.host),
        "client": peer.client,
        "server": peer.server,
        "extensions": extensions,
    }
    if worker.lifespan_state is not None:
        scope["state"] = worker.lifespan_state.copy()
    return scope


def _copy(tls: dict[str, Any]) -> dict[str, Any]:
    return {**tls, "client_cert_chain": [*tls["client_cert_chain"]]}


def _with_host(headers: list[Header], host: bytes) -> list[Header]:
    """Return the fields with another Host, as if the client had sent its request here."""
    return [(b"host", host), *(field for field in headers if field[0] != b"host")]
