"""The application of the admin address, plain ASGI, served by a `Server` of its own.

    GET /metrics                        Prometheus' text format, or OpenMetrics when that is asked for
    GET /livez, /readyz                 200 or 503
    GET /status                         all that is known, as JSON
    GET /                               the live view, a page
    /live                               WebSocket: the status, once a second
    POST /connections/ID/close?code=    close a WebSocket, with 1000 unless a code is given; ID as the status has it

Who may do what is in `asgiws.admin.authorization`. Answers are one line of text, unless they are data.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from asgiws.admin.authorization import Authorization
from asgiws.admin.source import Source
from asgiws.protocol.http.fields import Header
from asgiws.protocol.printable import escape
from asgiws.protocol.websocket.closing import is_close_code
from asgiws.server.asgi import Event, Receive, Scope, Send
from asgiws.telemetry.access_log import format_address
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.prometheus import expose
from asgiws.telemetry.scoreboard import Status

__all__ = ["AdminApp"]

_TEXT: Final = "text/plain; charset=utf-8"
_REASON: Final = "closed by the operator"
_LIVE_S: Final = 1.0
# For the token of a page, which cannot send it with its handshake
_TOKEN_S: Final = 5.0
# In the range for applications, like 401 in HTTP
_CLOSE_DENIED: Final = 4401
_NO_CLIENT: Final = "prometheus-client is not installed: pip install 'asgiws[metrics]'"

_Answer = tuple[int, bytes, str, list[Header]]
"""Status, body, content type and more fields."""


class AdminApp:
    """The routes."""

    def __init__(self, source: Source, access: Authorization) -> None:
        self._source = source
        self._access = access
        self._denials = 0
        """Requests with a wrong token."""
        self._page, self._policy = _load_page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "websocket":
            await self._serve_live(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_http(scope, send)

    async def _serve_http(self, scope: Scope, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        closing = re.fullmatch(r"/connections/([0-9]{1,19})-([0-9]{1,19})/close", path)
        routes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics, "/status": self._status,
                  "/": self._show_page}  # fmt: skip
        allowed = ("POST",) if closing else ("GET", "HEAD")
        if closing is None and path not in routes:
            answer = _line(404, "no such path here; allowed: /, /status, /live, /metrics, /livez, /readyz")
        elif method not in allowed:
            answer = _line(405, f"allowed: {', '.join(allowed)}", [(b"allow", ", ".join(allowed).encode())])
        elif path in ("/livez", "/readyz"):
            answer = routes[path](scope)  # an orchestrator that has the wrong token must not restart the server
        elif self._access.presents_wrong_token(scope):
            self._count_denial(scope)
            answer = _line(401, "wrong token", [(b"www-authenticate", b"Bearer")])
        elif closing is not None:
            answer = await self._close(scope, int(closing[1]), int(closing[2]))
        else:
            answer = routes[path](scope)
        await _send(send, *answer)

    # ---- routes

    def _livez(self, scope: Scope) -> _Answer:
        return _line(200, "alive")

    def _readyz(self, scope: Scope) -> _Answer:
        return _line(200, "ready") if self._source.ready else _line(503, "not ready")

    def _metrics(self, scope: Scope) -> _Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        try:
            body, content_type = expose(self._full_status(), accept)
        except ModuleNotFoundError:
            return _line(501, _NO_CLIENT)
        return 200, body, content_type, []

    def _status(self, scope: Scope) -> _Answer:
        if not self._access.may_see(scope):
            return self._not_allowed("seeing connections")
        status = self._full_status() | {"may_close": self._access.may_close(scope)}
        return 200, json.dumps(status).encode(), "application/json", []

    def _show_page(self, scope: Scope) -> _Answer:
        headers = [(b"content-security-policy", self._policy), (b"referrer-policy", b"no-referrer")]
        return 200, self._page, "text/html; charset=utf-8", headers

    async def _close(self, scope: Scope, pid: int, number: int) -> _Answer:
        if not self._access.may_close(scope):
            return self._not_allowed("closing connections")
        codes = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("code", ["1000"])
        text = codes[0] if len(codes) == 1 else ""
        code = int(text) if re.fullmatch("[0-9]{4}", text) else 0
        if not is_close_code(code):
            return _line(400, f"code {escape(text)!r} was given, allowed: 1000-1003, 1007-1014, 3000-4999")
        try:
            found = await self._source.close_connection(pid, number, code, _REASON)
        except TimeoutError:
            return _line(504, "the worker does not answer")
        if not found:
            return _line(404, f"no open connection {pid}-{number}")
        LOG.info("connection %d-%d closed with %d by the operator", pid, number, code)
        return _line(200, f"closed {pid}-{number} with {code}")

    # ---- the live view

    async def _serve_live(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = self._access
        if access.presents_wrong_token(scope):
            self._count_denial(scope)
            await _deny(send, _line(401, "wrong token", [(b"www-authenticate", b"Bearer")]))
        elif scope["path"] != "/live":
            await _deny(send, _line(404, "no such path here; allowed: /live"))
        elif access.may_see(scope):
            await send({"type": "websocket.accept"})
            await self._push(receive, send, may_close=access.may_close(scope))
        elif access.token:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": '{"wants": "token"}'})
            fault = await self._await_token(scope, receive)
            if fault:
                await send({"type": "websocket.close", "code": _CLOSE_DENIED, "reason": fault})
            else:
                await self._push(receive, send, may_close=True)
        else:
            await _deny(send, self._not_allowed("seeing connections"))

    async def _await_token(self, scope: Scope, receive: Receive) -> str:
        """Wait for the first message, which has to be the token; gives what is wrong."""
        try:
            async with asyncio.timeout(_TOKEN_S):
                event: Event = {"type": "websocket.connect"}
                while event["type"] == "websocket.connect":
                    event = await receive()
        except TimeoutError:
            return "no token"
        if event["type"] != "websocket.receive" or self._access.is_token(event.get("text") or ""):
            return ""  # or the client has left, which the next `receive` says too
        self._count_denial(scope)
        return "wrong token"

    async def _push(self, receive: Receive, send: Send, *, may_close: bool) -> None:
        """Send the status once a second until the client leaves."""
        while True:
            status = self._full_status() | {"may_close": may_close}
            await send({"type": "websocket.send", "text": json.dumps(status)})
            try:
                async with asyncio.timeout(_LIVE_S):
                    while (await receive())["type"] != "websocket.disconnect":
                        pass
                return
            except TimeoutError:
                pass

    # ---- inside

    def _full_status(self) -> Status:
        status = self._source.status()
        status["counts"]["admin_denials"] = {"": self._denials}
        return status

    def _count_denial(self, scope: Scope) -> None:
        self._denials += 1
        if not self._denials & (self._denials - 1):  # the 1st, 2nd, 4th, 8th, ...: guessing must not fill a disk
            LOG.warning("admin address: %d wrong tokens, now from %s", self._denials, format_address(scope["client"]))

    def _not_allowed(self, what: str) -> _Answer:
        if self._access.token:
            return _line(401, f"{what} needs the token", [(b"www-authenticate", b"Bearer")])
        return _line(403, f"{what} is not allowed from there: set --admin-token, or use --admin unix:/path")


def _line(status: int, text: str, headers: list[Header] | None = None) -> _Answer:
    return status, text.encode() + b"\n", _TEXT, headers or []


def _head(answer: _Answer) -> dict[str, Any]:
    status, body, content_type, headers = answer
    common = [
        (b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"),
    ]  # fmt: skip
    return {"status": status, "headers": [*common, *headers]}


async def _send(send: Send, *answer: Any) -> None:
    await send({"type": "http.response.start", **_head(answer)})
    await send({"type": "http.response.body", "body": answer[1]})


async def _deny(send: Send, answer: _Answer) -> None:
    await send({"type": "websocket.http.response.start", **_head(answer)})
    await send({"type": "websocket.http.response.body", "body": answer[1]})


def _load_page() -> tuple[bytes, bytes]:
    """Give the page, and a policy under which nothing but its own script runs."""
    page = (Path(__file__).parent / "page.html").read_bytes()
    script = re.search(rb"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[1] if script else b"").digest())
    policy = (
        b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; script-src 'sha256-" + digest + b"'"
    )
    return page, policy
