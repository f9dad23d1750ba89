"""Requests that a trusted proxy forwards: their client, by the fields that the proxy sends.

When a connection begins, the server checks once whether its other end is a trusted proxy. If it is, the fields of each
request are read by themselves, because one connection carries the requests of many clients.
"""

from __future__ import annotations

import asyncio

from asgiws.protocol.http.forwarded import trusted_source
from asgiws.protocol.http.head import RequestHead
from asgiws.server.scope import Peer
from asgiws.server.state.worker_state import WorkerState

__all__ = ["is_proxy", "peer_for"]


def is_proxy(worker: WorkerState, peer: Peer, transport: asyncio.BaseTransport) -> bool:
    """Return whether the other end of a connection is a trusted proxy."""
    if peer.client is None and isinstance(transport.get_extra_info("peername"), tuple):
        return False  # a PROXY header over TCP that names a client of some Unix socket
    return (peer.client[0] if peer.client is not None else None) in worker.proxies


def peer_for(worker: WorkerState, head: RequestHead, proxy: Peer) -> Peer:
    """Return the two ends of a forwarded request; those of the connection when the proxy names none."""
    names, tenant_field = worker.forwarded_names, worker.admission.tenant_field
    fields: dict[bytes, list[bytes]] = {}
    tenant = b""
    for name, value in head.headers:
        if name in names:
            fields.setdefault(name, []).append(value)
        elif name == tenant_field:
            tenant = value  # of several, the last one: a proxy that adds a field adds it after those of the client
    if not fields and not tenant:
        return proxy
    source = trusted_source(fields, worker.proxies)
    peer = Peer(
        proxy.client if source.client is None else source.client,
        proxy.server,
        proxy.secure if source.secure is None else source.secure,
        proxy.tls,
    )
    peer.via = proxy.client
    peer.root_path = source.prefix
    peer.host = source.host
    peer.tenant = tenant
    return peer
