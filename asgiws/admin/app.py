"""The application of the admin address, plain ASGI, served by a `Server` of its own.

    GET /metrics                        Prometheus' text format, or OpenMetrics when that is asked for
    GET /livez, /readyz                 200 or 503
    GET /status                         the whole status, as JSON
    GET /                               the live view, a page
    /live                               WebSocket: the status once a second, with new samples of the history
    GET /connections?path=&client=      open WebSockets of a path and client, as JSON
    POST /connections/ID/close?code=    close one WebSocket, with 1000 unless a code is given; ID as in the status
    POST /connections/close?path=&client=&percent=&over=&worker=&code=
                                        close many WebSockets, with 1012 unless a code is given
    POST /workers/PID/drain             replace a worker
    POST /topics/TOPIC                  publish the body to a topic: text, or bytes as application/octet-stream

`asgiws.admin.authorization` decides who may do what. Responses are one line of text, or data.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from asgiws.admin.authorization import Authorization
from asgiws.admin.history import History
from asgiws.admin.source import Source
from asgiws.config.option import Option
from asgiws.protocol.http.fields import Header
from asgiws.protocol.printable import escape, printable
from asgiws.protocol.websocket.closing import is_close_code
from asgiws.server.asgi import ClientDisconnected, Event, Receive, Scope, Send
from asgiws.telemetry.access_log import format_address
from asgiws.telemetry.logs import LOG
from asgiws.telemetry.prometheus import expose
from asgiws.telemetry.scoreboard import Status
from asgiws.topics.message import TopicsUnavailable, check_name

__all__ = ["AdminApp"]

_TEXT: Final = "text/plain; charset=utf-8"
_REASON: Final = "closed by the operator"
_LIVE_S: Final = 1.0
# For a page to send its token, which it cannot do with its handshake
_TOKEN_S: Final = 5.0
# In the range of application codes, like 401 in HTTP
_CLOSE_DENIED: Final = 4401
_NO_CLIENT: Final = (
    "prometheus-client is not installed: run pip install prometheus-client in the server's environment, or install "
    "asgiws from its clone with pip install '.[metrics]'"
)
_TOPIC_SHOWN_MOST: Final = 60
_NUMBER: Final = "[0-9]{1,19}"
_ROUTES: Final = tuple(
    (method, re.compile(pattern), name)
    for method, pattern, name in (
        ("GET", "/livez", "livez"), ("GET", "/readyz", "readyz"), ("GET", "/metrics", "metrics"),
        ("GET", "/status", "status"), ("GET", "/", "show_page"), ("GET", "/connections", "find"),
        ("POST", "/connections/close", "close_many"), ("POST", f"/connections/({_NUMBER})-({_NUMBER})/close", "close"),
        ("POST", f"/workers/({_NUMBER})/drain", "drain"),
        ("POST", "/topics/((?s:.*))", "publish"),
    )
)  # fmt: skip
_PATHS: Final = "/, /status, /live, /metrics, /livez, /readyz, /connections, /workers/PID/drain, /topics/TOPIC"
_OVER: Final = Option("seconds", "", name="over")
_PERCENT: Final = Option("count", "", least=1, most=100, name="percent")
_WORKER: Final = Option("count", "", name="worker")

_Answer = tuple[int, bytes, str, list[Header]]
"""Status, body, content type and further fields."""


class AdminApp:
    """The routes."""

    def __init__(self, source: Source, access: Authorization, history: History) -> None:
        self._source = source
        self._access = access
        self._history = history
        self._denials = 0
        """Requests with a wrong token."""
        self._page, self._policy = _load_page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "websocket":
            await self._serve_live(scope, receive, send)
        elif scope["type"] == "http":
            await _send(send, *await self._answer(scope, receive))

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        method, path = scope["method"], scope["path"]
        routes = ((allowed, name, pattern.fullmatch(path)) for allowed, pattern, name in _ROUTES)
        allowed, name, found = next((route for route in routes if route[2]), ("", "", None))
        if found is None:
            return _line(404, f"no such path here, allowed: {_PATHS}")
        if method not in (methods := ("GET", "HEAD") if allowed == "GET" else (allowed,)):
            return _line(405, f"allowed: {', '.join(methods)}", [(b"allow", ", ".join(methods).encode())])
        # An orchestrator with a wrong token must not restart the server.
        if name not in ("livez", "readyz") and self._access.presents_wrong_token(scope):
            self._count_denial(scope)
            return _line(401, "wrong token", [(b"www-authenticate", b"Bearer")])
        if allowed == "POST" and not self._access.may_close(scope):
            return self._not_allowed("publishing" if name == "publish" else "closing connections")
        try:
            answer: _Answer = await getattr(self, f"_{name}")(scope, receive, *found.groups())
        except ValueError as error:
            return _line(400, printable(str(error)))
        except TopicsUnavailable as error:
            return _line(503, str(error))
        except TimeoutError:
            return _line(504, "the worker does not answer")
        return answer

    # ---- routes

    async def _livez(self, scope: Scope, receive: Receive) -> _Answer:
        return _line(200, "alive")

    async def _readyz(self, scope: Scope, receive: Receive) -> _Answer:
        return _line(200, "ready") if self._source.ready else _line(503, "not ready")

    async def _metrics(self, scope: Scope, receive: Receive) -> _Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        try:
            body, content_type = expose(self._full_status(), accept)
        except ModuleNotFoundError:
            return _line(501, _NO_CLIENT)
        return 200, body, content_type, []

    async def _status(self, scope: Scope, receive: Receive) -> _Answer:
        if not self._access.may_see(scope):
            return self._not_allowed("seeing connections")
        return _json(self._full_status() | {"may_close": self._access.may_close(scope)})

    async def _show_page(self, scope: Scope, receive: Receive) -> _Answer:
        headers = [(b"content-security-policy", self._policy), (b"referrer-policy", b"no-referrer")]
        return 200, self._page, "text/html; charset=utf-8", headers

    async def _find(self, scope: Scope, receive: Receive) -> _Answer:
        if not self._access.may_see(scope):
            return self._not_allowed("seeing connections")
        query = _query(scope, "path", "client")
        return _json(await self._source.find_connections(path=query.get("path", ""), client=query.get("client", "")))

    async def _close(self, scope: Scope, receive: Receive, pid: str, number: str) -> _Answer:
        code = _close_code(_query(scope, "code"), 1000)
        if not await self._source.close_connection(int(pid), int(number), code, _REASON):
            return _line(404, f"no open connection {pid}-{number}")
        LOG.info("connection %s-%s closed with %d by the operator", pid, number, code)
        return _line(200, f"closed {pid}-{number} with {code}")

    async def _close_many(self, scope: Scope, receive: Receive) -> _Answer:
        query = _query(scope, "path", "client", "percent", "over", "worker", "code")
        if not {"path", "client", "percent", "worker"} & query.keys():
            raise ValueError("nothing was given, allowed: path, client, worker or percent; percent=100 closes all")
        code, over_s = _close_code(query, 1012), _OVER.convert(query.get("over", 0))
        count = await self._source.close_many(
            path=query.get("path", ""),
            client=query.get("client", ""),
            percent=_PERCENT.convert(query.get("percent", 100)),
            over_s=over_s,
            code=code,
            reason=_REASON,
            pid=_WORKER.convert(query["worker"]) if "worker" in query else None,
        )
        what = f"{count} connection{'' if count == 1 else 's'} with {code} over {over_s:g} s"
        LOG.info("closing %s by order of the operator", what)
        return _line(200, f"closing {what}")

    async def _drain(self, scope: Scope, receive: Receive, pid: str) -> _Answer:
        if not await self._source.drain_worker(int(pid)):
            return _line(404, f"no worker with process {pid} serves")
        LOG.info("worker process %s is drained by order of the operator", pid)
        return _line(200, f"draining process {pid}")

    async def _publish(self, scope: Scope, receive: Receive, topic: str) -> _Answer:
        check_name(topic)
        body = await _read_body(receive)
        is_text = (b"content-type", b"application/octet-stream") not in scope["headers"]
        try:
            data = body.decode() if is_text else body
        except UnicodeDecodeError:
            raise ValueError("text that is not UTF-8 was given, allowed: UTF-8; bytes go with --bytes") from None
        await self._source.publish(topic, data)
        LOG.debug("published %d bytes to %s by order of the operator", len(body), printable(topic, _TOPIC_SHOWN_MOST))
        return _line(200, f"published {len(body)} byte{'' if len(body) == 1 else 's'} to {topic}")

    # ---- the live view

    async def _serve_live(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = self._access
        if access.presents_wrong_token(scope):
            self._count_denial(scope)
            await _deny(send, _line(401, "wrong token", [(b"www-authenticate", b"Bearer")]))
        elif scope["path"] != "/live":
            await _deny(send, _line(404, "no such path here, allowed: /live"))
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
        """Wait for the first message, which has to be the token; return what is wrong with it."""
        try:
            async with asyncio.timeout(_TOKEN_S):
                event: Event = {"type": "websocket.connect"}
                while event["type"] == "websocket.connect":
                    event = await receive()
        except TimeoutError:
            return "no token"
        if event["type"] != "websocket.receive" or self._access.is_token(event.get("text") or ""):
            return ""  # or the client has left, which the next `receive` reports too
        self._count_denial(scope)
        return "wrong token"

    async def _push(self, receive: Receive, send: Send, *, may_close: bool) -> None:
        """Send the status once a second until the client leaves, with the samples that it does not have yet."""
        sent = 0
        while True:
            status = self._full_status() | {"may_close": may_close, "history": self._history.since(sent)}
            sent = self._history.count
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
        if not self._denials & (self._denials - 1):  # the 1st, 2nd, 4th, 8th, ...: guesses must not fill a disk
            LOG.warning("admin address: %d wrong tokens, now from %s", self._denials, format_address(scope["client"]))

    def _not_allowed(self, what: str) -> _Answer:
        if self._access.token:
            return _line(401, f"{what} needs the token", [(b"www-authenticate", b"Bearer")])
        return _line(403, f"{what} is not allowed from there: set --admin-token, or use --admin unix:/path")


def _line(status: int, text: str, headers: list[Header] | None = None) -> _Answer:
    return status, text.encode() + b"\n", _TEXT, headers or []


def _json(value: object) -> _Answer:
    return 200, json.dumps(value).encode(), "application/json", []


def _query(scope: Scope, *allowed: str) -> Mapping[str, str]:
    """Return the values of a query. Raises ValueError for one that is not allowed, or given twice."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, values in query.items():
        if name not in allowed or len(values) > 1:
            raise ValueError(
                f"{escape(name)} was given {len(values)} times, allowed: once each of {', '.join(allowed)}"
            )
    return {name: value for name, (value,) in query.items()}


async def _read_body(receive: Receive) -> bytes:
    """Return the body, which the server limits. Raises ClientDisconnected when the rest of it does not come."""
    parts, more = [], True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnected
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    return b"".join(parts)


def _close_code(query: Mapping[str, str], default: int) -> int:
    text = query.get("code", str(default))
    code = int(text) if re.fullmatch("[0-9]{4}", text) else 0
    if not is_close_code(code):
        raise ValueError(f"code {escape(text)!r} was given, allowed: 1000-1003, 1007-1014, 3000-4999")
    return code


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
    """Return the page, and a policy under which only its own script runs."""
    page = (Path(__file__).parent / "page.html").read_bytes()
    script = re.search(rb"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[1] if script else b"").digest())
    policy = (
        b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'; script-src 'sha256-" + digest + b"'"
    )
    return page, policy
