"""What an application is named by, and which callables are ASGI 3 applications, factories or neither."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import asgiws
from asgiws.server.asgi import Scope
from asgiws.server.importer import ImportFailed, as_application, import_app
from tests.apps import Receive, Send


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def any_arguments(*arguments: Any) -> None:
    pass


async def with_defaults(scope: Scope | None = None, receive: Receive | None = None, send: Send | None = None) -> None:
    """An application that could be called without arguments, too."""


class Site:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def method(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


class AwaitableSite:
    """A class that is itself the application: its instance is one call of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass

    def __await__(self) -> Any:
        return iter(())


def decorated(view: Callable[[str], Awaitable[None]]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """A decorator that makes an application of another kind of function and keeps its name and signature."""

    @functools.wraps(view)
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await view(scope["path"])

    return app


@decorated
async def view(path: str) -> None:
    pass


APPLICATIONS = {
    "function": asgi, "any-arguments": any_arguments, "with-defaults": with_defaults, "instance": Site(),
    "method": Site().method, "awaitable-class": AwaitableSite, "decorated": view, "builtin": print,
    "partial": functools.partial(asgi), "lambda": lambda scope, receive, send: asgi(scope, receive, send),
}  # fmt: skip


@pytest.mark.parametrize("app", APPLICATIONS.values(), ids=list(APPLICATIONS))
def test_application_is_taken_as_it_is(app: object, caplog: pytest.LogCaptureFixture) -> None:
    assert as_application(app, "shop:app", factory=False) is app
    assert caplog.records == []


def make() -> Site:
    return Site()


def make_with_defaults(debug: bool = False, name: str = "", size: int = 0) -> Site:
    return Site()


FACTORIES = {
    "function": make, "defaults": make_with_defaults, "class": Site, "method": functools.partial(make),
    "lambda": lambda: Site(),
}  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=list(FACTORIES))
def test_factory_is_called_with_a_warning_without_the_option(factory: object, caplog: pytest.LogCaptureFixture) -> None:
    """As uvicorn does; with the option there is nothing to warn of."""
    with caplog.at_level(logging.INFO):
        assert isinstance(as_application(factory, "shop:make", factory=True), Site)
        assert caplog.messages == []
        assert isinstance(as_application(factory, "shop:make", factory=False), Site)
    (line,) = caplog.messages
    assert line == "shop:make can be called without arguments: used as a factory; say so with --factory"


class OldSite:
    """An ASGI 2 application."""

    def __init__(self, scope: Scope) -> None:
        pass

    async def __call__(self, receive: Receive, send: Send) -> None:
        pass


def wsgi(environ: object, start_response: object) -> list[bytes]:
    return []


async def make_later() -> Site:
    return Site()


REFUSED = {
    "asgi-2": (OldSite, "shop:app takes 1 argument, allowed: scope, receive and send; an ASGI 2 application needs"),
    "asgi-2-instance": (OldSite({}), "shop:app takes 2 arguments, allowed: scope, receive and send; a WSGI"),
    "wsgi": (wsgi, "shop:app takes 2 arguments, allowed: scope, receive and send; a WSGI application needs a2wsgi."),
    "four": (lambda a, b, c, d: None, "shop:app takes (a, b, c, d), allowed: scope, receive and send"),
    "keywords": (lambda *, scope: None, "shop:app takes (*, scope), allowed: scope, receive and send"),
    "no-callable": (3, "shop:app is int, allowed: an ASGI application, which is callable"),
    "async-factory": (make_later, "shop:app takes no arguments, allowed: scope, receive and send; a factory is"),
    "factory-of-none": (lambda: None, "what factory shop:app returned is NoneType, allowed: an ASGI application"),
    "factory-of-wsgi": (lambda: wsgi, "what factory shop:app returned takes 2 arguments, allowed: scope, receive"),
}


@pytest.mark.parametrize(("app", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_application_is_refused_in_one_line(app: object, said: str) -> None:
    """Each request would fail otherwise."""
    with pytest.raises(ImportFailed) as raised:
        as_application(app, "shop:app", factory=False)
    assert str(raised.value).startswith(said)


def test_async_factory_is_refused() -> None:
    with pytest.raises(ImportFailed, match="factory shop:make is async, allowed: a function without async"):
        as_application(make_later, "shop:make", factory=True)


@pytest.mark.parametrize("name", ["shop.py:app", "shop.py", "shop", "shop.app", "shop/app.py:app"])
def test_file_whose_name_is_meant_is_not_imported(name: str, tmp_path: Path) -> None:
    """The import would run it, and then say that it is no package."""
    (tmp_path / "shop.py").write_text("raise SystemExit")
    with pytest.raises(ImportFailed, match=r"did you mean shop(\.app)?:app\?"):
        import_app(name, str(tmp_path), factory=False)


@pytest.mark.parametrize("app", [OldSite, wsgi])
@pytest.mark.parametrize("call", [asgiws.run, lambda app: asyncio.run(asgiws.serve(app))], ids=["run", "serve"])
def test_object_is_refused_as_a_name_is(call: Callable[[Any], None], app: Any) -> None:
    with pytest.raises(ImportFailed, match=f"{app.__name__} takes "):
        call(app)


@pytest.mark.parametrize("options", [{"workers": 2}, {"reload": True}], ids=["workers", "reload"])
def test_serve_refuses_what_needs_processes(options: dict[str, object]) -> None:
    with pytest.raises(asgiws.OptionError, match=r"workers and reload are not allowed on a running loop"):
        asyncio.run(asgiws.serve(asgi, **options))
