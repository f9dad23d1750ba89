"""`--health-path`: a path on the public port that reports whether this process is ready, without the application.

For load balancers that cannot reach the admin address. With several workers, any of them answers, for itself;
`/readyz` on the admin address answers for all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asgiws.server.asgi import ASGIApp, Receive, Scope, Send

__all__ = ["with_health"]


def with_health(app: ASGIApp, path: str, is_ready: Callable[[], bool]) -> ASGIApp:
    """Return an application that answers on `path` and calls `app` for everything else; `app` itself without a path."""
    if not path:
        return app

    # Not a coroutine function: everything that `app` does would run inside one more coroutine.
    def answer_or_ask(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] == scope["root_path"] + path:
            return _answer(send, ready=is_ready())
        return app(scope, receive, send)

    return answer_or_ask


async def _answer(send: Send, *, ready: bool) -> None:
    body = b"ready\n" if ready else b"not ready\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 200 if ready else 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
