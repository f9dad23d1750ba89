"""ASGI extensions of HTTP responses over HTTP/1.1 (checklist 4.4, E3 to E6): trailers, early hints, and what is told.

How trailers are framed, and that a response waits for them, is in `test_http_connection`; files in
`test_extensions_files`.
"""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from asgiws.server.asgi import ASGIApp, Scope
from tests.apps import Receive, Recorder, Send, refuse_lifespan
from tests.asgi.app_help import answer, begin_answer, body, error_of, get, on_request, values
from tests.conftest import Serve
from tests.raw import RawClient

TE = ("TE: trailers", "Connection: TE")


# ---- what is told


@pytest.mark.parametrize(
    ("version", "fields", "told"),
    [
        ("1.1", (), {"early_hint"}),
        ("1.1", TE, {"early_hint", "trailers"}),
        ("1.1", ("TE: gzip;q=0.5, Trailers", "Connection: TE"), {"early_hint", "trailers"}),
        ("1.1", ("TE: gzip", "Connection: TE"), {"early_hint"}),
        ("1.0", TE, set()),
    ],
    ids=["HTTP/1.1", "TE trailers", "TE list", "TE without trailers", "HTTP/1.0"],
)
@pytest.mark.parametrize("sendfile", [False, True])
def test_extensions_in_the_scope_are_those_that_work_for_the_request(
    serve: Serve, version: str, fields: tuple[str, ...], told: set[str], sendfile: bool
) -> None:
    """ASGI E3 to E6: files with the option; 103 in HTTP/1.1; trailers for clients that take them (RFC 9110 §6.5.1)."""
    seen = Recorder()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        seen.put(scope["extensions"])
        await answer(send)

    files = {"pathsend", "zerocopysend"} if sendfile else set()
    with RawClient(serve(app, sendfile=sendfile).port) as client:
        client.send(get("/", *fields, version=version))
        client.read_answer()
        assert seen.next() == {f"http.response.{name}": {} for name in told | files}


# ---- trailers


@pytest.mark.parametrize("value", [b"a\r\nx-b: 2", b"a\nb", b"a\rb", b"a\0b", "text"], ids=repr)
def test_e6_trailer_value_that_could_end_its_line_raises_and_sends_nothing(serve: Serve, value: object) -> None:
    """RFC 9110 §5.5: no CR, LF or NUL; ASGI E6: bytes. The trailers that follow are sent."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, trailers=True)
        await body(send, b"body")
        seen.put(await error_of(send({"type": "http.response.trailers", "headers": [(b"x-bad", value)]})))
        await send({"type": "http.response.trailers", "headers": [(b"x-good", b"1")]})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", *TE))
        client.read_until(b"\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"4\r\nbody\r\n0\r\nx-good: 1"
        assert isinstance(seen.next(), ValueError | TypeError)


FORBIDDEN = (
    "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type", "Host",
    "Keep-Alive", "Set-Cookie", "TE", "Trailer", "Transfer-Encoding",
)  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_e6_field_that_must_not_be_a_trailer_raises(serve: Serve, name: str) -> None:
    """RFC 9110 §6.5.1: no field of framing, routing, authentication or content."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await begin_answer(send, trailers=True)
        await body(send, b"body")
        seen.put(await error_of(send({"type": "http.response.trailers", "headers": [(name.encode(), b"1")]})))
        await send({"type": "http.response.trailers"})

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", *TE))
        assert values(client.read_answer(), name.lower().encode()) in ([], [b"chunked"])
        assert isinstance(seen.next(), ValueError)


# ---- early hints


def hinting(seen: Recorder, *links: object) -> ASGIApp:
    """Make an application that gives a hint, tells `seen` what that raised, and answers."""

    async def talk(receive: Receive, send: Send) -> None:
        seen.put(await error_of(send({"type": "http.response.early_hint", "links": list(links)})))
        await answer(send, b"body")

    return on_request(talk)


LINKS = (b"</a.css>; rel=preload; as=style", b"</b.js>; rel=preload; as=script")


def test_e5_early_hint_is_a_103_in_front_of_the_response(serve: Serve) -> None:
    """ASGI E5, RFC 8297 §2: a 103 with the Link fields, and then the response as if there had been none."""
    with RawClient(serve(hinting(Recorder(), *LINKS)).port) as client:
        for _ in range(2):
            client.send(get())
            hint = client.read_answer()
            assert hint.raw_head.split(b"\r\n")[0] == b"HTTP/1.1 103 Early Hints"
            assert hint.headers == [(b"link", link) for link in LINKS]
            answered = client.read_answer()
            assert (answered.status, answered.body, values(answered, b"link")) == (200, b"body", [])


def test_e5_early_hint_is_sent_before_the_app_goes_on(serve: Serve) -> None:
    """RFC 8297 §1: the use of a hint is that it comes before the response is known."""
    seen = Recorder()

    async def talk(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [LINKS[0]]})
        seen.put(await receive())
        await answer(send)

    with RawClient(serve(on_request(talk)).port) as client:
        client.send(get("/", "Content-Length: 4", method="POST"))
        assert client.read_answer().status == 103
        assert seen.empty
        client.send(b"body")
        client.read_answer()


def test_e5_early_hint_in_http_1_0_sends_nothing(serve: Serve) -> None:
    """RFC 9110 §15.2: no 1xx to an HTTP/1.0 client; the application may not know."""
    seen = Recorder()
    with RawClient(serve(hinting(seen, *LINKS)).port) as client:
        client.send(get(version="1.0"))
        assert client.read_until(b"\r\n") == b"HTTP/1.1 200 OK"
        assert b"103" not in client.read_to_end()
        assert seen.next() is None


@pytest.mark.parametrize("link", [b"</a>\r\nset-cookie: a=b", b"</a>\nb", b"</a>\rb", b"</a>\0", "</a>"], ids=repr)
def test_e5_link_that_could_end_its_line_raises_and_sends_nothing(serve: Serve, link: object) -> None:
    """RFC 9110 §5.5: no CR, LF or NUL; ASGI E5: bytes. Not one link is sent, and the response is not harmed."""
    seen = Recorder()
    with RawClient(serve(hinting(seen, LINKS[0], link)).port) as client:
        client.send(get())
        answered = client.read_answer()
        assert (answered.status, answered.body) == (200, b"body")
        assert isinstance(seen.next(), ValueError | TypeError)


def test_e5_starlette_sends_early_hints(serve: Serve) -> None:
    """Starlette's `Request.send_early_hints` asks the scope, and sends the hint."""

    async def page(request: Request) -> Response:
        await request.send_early_hints(*[link.decode() for link in LINKS])
        return PlainTextResponse("body")

    with RawClient(serve(Starlette(routes=[Route("/", page)])).port) as client:
        client.send(get())
        hint = client.read_answer()
        assert (hint.status, values(hint, b"link")) == (103, list(LINKS))
        assert client.read_answer().body == b"body"
