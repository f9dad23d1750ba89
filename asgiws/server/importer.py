"""Finding the application that `module:attribute` names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

from asgiws.server.asgi import ASGIApp

__all__ = ["ImportFailed", "import_app"]


class ImportFailed(Exception):  # noqa: N818 - what happened
    """The application cannot be found; the message is one line that says what to do."""


def import_app(target: str, app_dir: str, *, factory: bool) -> ASGIApp:
    """Import the application. Raises ImportFailed; what its own code raises passes through."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path or module_name.startswith("."):
        raise ImportFailed(f"application {target!r} was given, allowed: module:attribute, such as app:app")
    folder = str(Path(app_dir or ".").resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the application itself misses is the application's fault, and its traceback tells where.
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
            known = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:12])
            raise ImportFailed(f"module {module_name!r} has no attribute {path!r}; it has: {known or 'none'}") from None
    if not callable(app):
        raise ImportFailed(f"{target} is {type(app).__name__}, allowed: an ASGI application, which is callable")
    if factory:
        app = app()
        if not callable(app):
            raise ImportFailed(
                f"factory {target} gave {type(app).__name__}, allowed: an ASGI application, which is callable"
            )
    return cast("ASGIApp", app)
