"""Limits per tenant behind real nginx and HAProxy, which say whose client it is, and refusals through them."""

from __future__ import annotations

import re

import pytest

from tests.proxies.conftest import StartSite
from tests.raw import Answer, RawClient, close, handshake, text

# The tenant is in the query, and in practice rather in a token or a host name.
EDITS = {
    "nginx": {"proxy_set_header X-Forwarded-Proto $scheme;": "proxy_set_header X-Forwarded-Proto $scheme;\n"
                                                             "proxy_set_header X-Tenant $arg_tenant;"},
    "haproxy": {"option forwardfor": "option forwardfor\n    http-request set-header X-Tenant %[url_param(tenant)]"},
}  # fmt: skip


@pytest.mark.parametrize("refusal", ["http", "close"])
def test_proxy_names_the_tenant_whatever_the_client_claims(site: StartSite, kind: str, refusal: str) -> None:
    front = site("--max-connections-by", "header:x-tenant=1", "--refusal", refusal, edits=EDITS[kind]).front

    def begin(tenant: str) -> tuple[RawClient, Answer]:
        client = front.connect()
        client.send(handshake(f"/?tenant={tenant}", f"X-Tenant: {tenant}-of-my-own"))
        return client, client.read_answer()

    first, answer = begin("a")
    with first:
        assert answer.status == 101
        other, answer = begin("b")
        with other:
            assert answer.status == 101
        second, answer = begin("a")
        with second:
            if refusal == "http":
                assert (answer.status, int(answer.header(b"retry-after") or 0) in range(1, 11)) == (503, True)
                assert answer.body == b"too-many-of-tenant: 1 WebSockets of x-tenant: a, the limit\n"
            else:
                assert answer.status == 101
                code, reason = second.read_close()
                assert code == 1013
                assert re.fullmatch(r"too-many-of-tenant retry-after=\d+", reason)
                second.send(close(1013))
                assert second.read_to_end() == b""
        first.send(text("hello"))
        assert first.read_text() == "hello"
