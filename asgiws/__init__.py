"""asgiws, the ASGI server for WebSocket applications.

    asgiws app:app --port 8000

From Python: `asgiws.run(app, port=8000)` or `asgiws.run("app:app", workers=4)`; on a running loop,
`await asgiws.serve(app, port=8000)`. To know the port and to stop the server yourself, use
`async with asgiws.Server(app, asgiws.Config(port=0)) as server`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from asgiws._version import __version__
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.runner.run import run_app, serve_app
from asgiws.server.asgi import ASGIApp, ClientDisconnected
from asgiws.server.importer import as_application
from asgiws.server.server import Server
from asgiws.server.websocket.draining import draining
from asgiws.telemetry.logging_setup import LOGGING_OPTIONS, configure
from asgiws.topics.brokers.factory import check_broker
from asgiws.topics.topic import Topic, TopicsUnavailable
from asgiws.workers.start import start

__all__ = [
    "ClientDisconnected",
    "Config",
    "OptionError",
    "Server",
    "Topic",
    "TopicsUnavailable",
    "__version__",
    "draining",
    "run",
    "serve",
]


def run(app: ASGIApp | str, **options: object) -> None:
    """Serve `app` until SIGTERM or SIGINT. `options` are those of the command line, with underscores.

        asgiws.run(app, port=8000)
        asgiws.run("app:app", workers=4)

    `workers` and `reload` start processes that import the application, so they need its name.

    With one of the options of logging (`log_level`, `log_format`, `log_file`, `log_config`, `use_colors`), logs are
    written as on the command line. Without one, logging stays as the program has set it up. Python then shows
    only warnings and errors: `log_level="info"` shows where the server listens and each request.

    The program's own end waits for threads that the application has left, unless they are daemons. The command
    `asgiws` and its workers name them in the log, and end after a second.

    Raises OptionError for a value that is not allowed and, when `app` is an object, ImportFailed if it is not
    an application, StartupFailed if its lifespan fails, and CannotListen. When `app` is a name, these are one line on
    standard error and SystemExit.
    """
    config = _config(options)
    if not isinstance(app, str) and (config.workers or config.reload):
        raise OptionError('workers and reload take the application as a name, such as "app:app"')
    _configure(config, options)
    if not isinstance(app, str):
        run_app(_application(app, config), config)
    elif code := start(app, config):
        sys.exit(code)


async def serve(app: ASGIApp, **options: object) -> None:
    """Serve `app` on the running loop until SIGTERM or SIGINT, or until cancelled.

    Options, logging and errors are those of `run`; `workers` and `reload` need processes and are not allowed.
    """
    config = _config(options)
    if config.workers or config.reload:
        raise OptionError('workers and reload are not allowed on a running loop; use asgiws.run("app:app", workers=4)')
    _configure(config, options)
    await serve_app(_application(app, config), config)


def _application(app: ASGIApp, config: Config) -> ASGIApp:
    return as_application(app, getattr(app, "__qualname__", type(app).__name__), factory=config.factory)


def _config(options: Mapping[str, object]) -> Config:
    config = Config.from_options(options)
    check_broker(config)
    if config.env_file:
        # A module that is already imported would not see the variables, and only the command line reads ASGIWS_ ones.
        raise OptionError(
            f"--env-file: {config.env_file!r} was given, allowed: on the command line; set os.environ before the "
            "application is imported"
        )
    return config


def _configure(config: Config, options: Mapping[str, object]) -> None:
    """Set up logging if one of its options was given. Raises OptionError."""
    if LOGGING_OPTIONS & options.keys():
        configure(config)
