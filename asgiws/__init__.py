"""asgiws, the ASGI server for WebSocket applications.

    asgiws app:app --port 8000

From Python: `asgiws.run(app, port=8000)`, or `asgiws.run("app:app", workers=4)`; in a running loop
`await asgiws.serve(app, port=8000)`; or, to know the port and to stop it yourself,
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
from asgiws.server.server import Server
from asgiws.telemetry.logging_setup import LOGGING_OPTIONS, configure
from asgiws.workers.start import start

__all__ = ["ClientDisconnected", "Config", "OptionError", "Server", "__version__", "run", "serve"]


def run(app: ASGIApp | str, **options: object) -> None:
    """Serve `app` until SIGTERM or SIGINT. Raises OptionError, StartupFailed or CannotListen when it cannot begin.

    `app` may be a name, "module:attribute", as on the command line, and has to be one with `workers` and `reload`,
    which import it in processes of their own. Then what goes wrong is one line on standard error, and SystemExit.

    With an option of how lines look and where they go (`log_level`, `log_format`, `log_file`, `log_config`,
    `use_colors`), logging is set up as on the command line, and stays so; without one, it is as the program has it.
    """
    config = _config(options)
    if not isinstance(app, str) and (config.workers or config.reload):
        raise OptionError('workers and reload take the application as a name, such as "app:app"')
    _configure(config, options)
    if not isinstance(app, str):
        run_app(app, config)
    elif code := start(app, config):
        sys.exit(code)


async def serve(app: ASGIApp, **options: object) -> None:
    """Serve `app` on the running loop until SIGTERM or SIGINT, or until cancelled. Logging is set up as by `run`."""
    config = _config(options)
    _configure(config, options)
    await serve_app(app, config)


def _config(options: Mapping[str, object]) -> Config:
    config = Config.from_options(options)
    if config.env_file:
        # A module that has read its variables already would not see them, and ASGIWS_ variables are the command line's.
        raise OptionError(
            f"--env-file: {config.env_file!r} was given, allowed: on the command line; set os.environ before the "
            "application is imported"
        )
    return config


def _configure(config: Config, options: Mapping[str, object]) -> None:
    """Set up logging, if an option of it is among those that were given. Raises OptionError."""
    if LOGGING_OPTIONS & options.keys():
        configure(config)
