"""The application: from the name `module:attribute`, or from an object, to a callable of ASGI 3.

What is not an ASGI 3 application is refused before the server starts, because each request would fail otherwise. A
callable is judged by its signature alone (ASGI spec, "Applications"): three arguments are an application, none is a
factory.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from asgiws.protocol.printable import escape
from asgiws.server.asgi import ASGIApp
from asgiws.telemetry.logs import LOG

__all__ = ["ImportFailed", "as_application", "import_app"]


class ImportFailed(Exception):  # noqa: N818 - what happened
    """The application cannot be found or is none; the message is one line that says what to do."""


def import_app(target: str, app_dir: str, *, factory: bool) -> ASGIApp:
    """Import the application. Raises ImportFailed; what its own code raises passes through."""
    module_name, _, path = target.partition(":")
    meant = _meant(module_name, path)
    if meant != target:
        hint = f"; did you mean {meant}?" if meant else ", such as app:app"
        raise ImportFailed(f"application {target!r} was given, allowed: module:attribute{hint}")
    folder = str(Path(app_dir or ".").resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the application itself misses is the application's fault, and its traceback shows where.
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise ImportFailed(
            f"module {error.name!r} was not found in {folder} nor on the Python path; "
            "name an importable module, or its folder with --app-dir"
        ) from None
    app: Any = module
    for name in path.split("."):
        try:
            app = getattr(app, name)
        except AttributeError:
            raise ImportFailed(_no_attribute(module_name, path, vars(module))) from None
    return as_application(app, target, factory=factory)


def as_application(app: object, name: str, *, factory: bool) -> ASGIApp:
    """Return `app` if it is an ASGI 3 application, or what it makes if it is a factory. Raises ImportFailed."""
    if not callable(app):
        raise ImportFailed(f"{name} is {type(app).__name__}, allowed: an ASGI application, which is callable")
    if not factory and _is_factory(app):
        LOG.warning("%s can be called without arguments: used as a factory; say so with --factory", escape(name))
        factory = True
    if factory:
        if inspect.iscoroutinefunction(app):
            raise ImportFailed(f"factory {name} is async, allowed: a function without async")
        app = app()
        name = f"what factory {name} returned"
        if not callable(app):
            raise ImportFailed(f"{name} is {type(app).__name__}, allowed: an ASGI application, which is callable")
    if (wrong := _not_asgi(app)) is not None:
        raise ImportFailed(f"{name} takes {wrong}")
    return cast("ASGIApp", app)


def _meant(module: str, path: str) -> str:
    """Return the target in its right form, from a file's name or a call too; empty when nothing can be guessed."""
    module = module.removeprefix("./").replace("/", ".")
    if module.endswith(".py"):
        module = module.removesuffix(".py")
    elif not path and module.endswith(".app"):  # app.app
        module = module.removesuffix(".app")
    return f"{module}:{path or 'app'}" if module[:1] not in ("", ".") else ""


def _no_attribute(module: str, path: str, names: dict[str, object]) -> str:
    if path.endswith("()") and path.removesuffix("()") in names:
        return f"application '{module}:{path}' was given, allowed: a name; use --factory {module}:{path[:-2]}"
    known = sorted(key for key in names if not key.startswith("_"))
    nearest = difflib.get_close_matches(path, known, 1) or [name for name in known if name == "app"]
    hint = f"did you mean {module}:{nearest[0]}?" if nearest else f"it has: {', '.join(known[:12]) or 'none'}"
    return f"module {module!r} has no attribute {path!r}; {hint}"


def _is_factory(app: Callable[..., Any]) -> bool:
    """Return whether `app` can be called without arguments and is not made to be called with three."""
    call = app if inspect.isroutine(app) or inspect.isclass(app) else type(app).__call__
    signature = _signature(app)
    if signature is None or inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return False
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())
    return not takes_any and _takes(signature, 0)


def _not_asgi(app: Callable[..., Any]) -> str | None:
    """Return what a callable takes instead of the arguments of ASGI 3, and what to do; None for an application."""
    signature = _signature(app)
    if signature is None or _takes(signature, 3):
        return None
    allowed = "allowed: scope, receive and send"
    if _takes(signature, 0):
        return f"no arguments, {allowed}; a factory is a function without async"
    if _takes(signature, 1):
        return f"1 argument, {allowed}; an ASGI 2 application needs asgiref.compatibility.guarantee_single_callable"
    if _takes(signature, 2):
        return f"2 arguments, {allowed}; a WSGI application needs a2wsgi.WSGIMiddleware or asgiref.wsgi.WsgiToAsgi"
    return f"{signature}, {allowed}"


def _signature(app: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of the callable itself, not of what it wraps; None when it has none, as some in C have."""
    try:
        return inspect.signature(app, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
