"""A client of the admin address, for the commands: HTTP over TCP or a Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlencode

from asgiws.admin.view import Filter
from asgiws.config.addresses import UNIX, Address, parse_address
from asgiws.protocol.printable import escape
from asgiws.telemetry.scoreboard import Scoreboard

__all__ = ["AdminClient", "Unreachable"]

_PATIENCE_S: Final = 5.0
_WILDCARDS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a server is bound to
_LINE_MOST: Final = 200
_HINT: Final = "is this the --admin address?"


class Unreachable(Exception):  # noqa: N818 - what happened
    """The server does not answer as expected; the message is one line."""


class AdminClient:
    """Sends requests to one admin address, each on a connection of its own: the server may restart in between."""

    def __init__(self, text: str, token: str = "") -> None:
        self._text = text
        self._address = parse_address(text)
        self._token = token

    def status(self, chosen: Filter = Filter()) -> dict[str, Any]:  # noqa: B008 - immutable
        """Return the status, with the connections of `chosen` in place of the largest ones. Raises Unreachable."""
        status: dict[str, Any] = self._get("/status", _is_status)
        if chosen != Filter():
            status["connections"] = self._get(f"/connections?{urlencode(chosen._asdict())}", _is_list)
        return status

    def _get(self, path: str, is_expected: Callable[[object], bool]) -> Any:
        code, body = self.ask("GET", path)
        if code in (400, 401, 403, 504):
            raise Unreachable(f"{self._text} answers {code}: {_line(body)}")
        try:
            value = json.loads(body) if code == 200 else None
        except (ValueError, RecursionError):
            value = None
        if not is_expected(value):
            raise Unreachable(f"{self._text} answers {code}: {_line(body)}; {_HINT}")
        return value

    def is_ready(self) -> tuple[bool, str]:
        """Return whether the server is ready, and what it answered. Raises Unreachable."""
        code, body = self.ask("GET", "/readyz")
        return code == 200, _line(body)

    def close_connection(self, identity: str, code: str) -> str:
        """Close a WebSocket; return the server's answer. Raises Unreachable."""
        if not (re.fullmatch("[0-9]+-[0-9]+", identity) and re.fullmatch("[0-9]+", code)):
            return f"{escape(identity)} {escape(code)} was given, allowed: an id of the list, and a close code"
        return _line(self.ask("POST", f"/connections/{identity}/close?code={code}")[1])

    def order(self, path: str, query: Mapping[str, str]) -> tuple[bool, str]:
        """Send an order; return whether it was obeyed, and the server's answer. Raises Unreachable."""
        code, body = self.ask("POST", f"{path}?{urlencode(query)}")
        return code == 200, _line(body)

    def publish(self, topic: str, data: bytes, *, is_text: bool) -> tuple[bool, str]:
        """Publish to a topic; return whether it was done, and the server's answer. Raises Unreachable."""
        kind = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        code, body = self.ask("POST", f"/topics/{quote(topic, safe='')}", data, {"Content-Type": kind})
        if code == 413:
            return False, f"message of {len(data)} bytes, {self._text} allows fewer (--max-publish-size)"
        return code == 200, _line(body)

    def ask(
        self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send one request; return status and body. Raises Unreachable."""
        connection = _Connection(self._address)
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            # A server that refuses the request answers before it has read a large body.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, data, {**authorization, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error) or "no answer"
            raise Unreachable(f"cannot reach {self._text}: {why}; is a server running with --admin there?") from None
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address) -> None:
        host = _WILDCARDS.get(address.host, address.host) if address.kind != UNIX else "localhost"
        super().__init__(host, address.port or None, timeout=_PATIENCE_S)
        self._address = address

    def connect(self) -> None:
        if self._address.kind != UNIX:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self._address.path)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_status(value: object) -> bool:
    """Return whether it has all keys of a status."""
    nothing = Scoreboard().status([], ready=False, draining=False)
    return isinstance(value, dict) and all(
        isinstance(value.get(name), type(part)) and (not isinstance(part, dict) or part.keys() <= value[name].keys())
        for name, part in nothing.items()
    )


def _line(body: bytes) -> str:
    return escape(body.decode("utf-8", "replace").strip().partition("\n")[0][:_LINE_MOST])
