"""How an application is served: in this process, by workers, or with a restart after each change of a file."""

from __future__ import annotations

from collections.abc import Callable

from asgiws.config.options import Config
from asgiws.runner.run import run_target
from asgiws.telemetry.logs import LOG
from asgiws.workers.reloader import check_folders, reload_on_change
from asgiws.workers.supervisor import supervise

__all__ = ["check", "start"]


def start(target: str, config: Config, load: Callable[[], Config] | None = None) -> int:
    """Serve the application that `target` names until ordered to stop; return the exit code.

    `load` reads the options again, for a rolling restart.
    """
    if config.reload:
        if config.workers:
            LOG.warning("--workers %d is ignored with --reload, which runs one process", config.workers)
        if config.admin:
            LOG.warning("--admin %s is ignored with --reload", config.admin)
        return reload_on_change(target, config)
    if config.workers:
        return supervise(target, config, load)
    return run_target(target, config)


def check(target: str, config: Config) -> int:
    """Check for what `start` would refuse before it binds an address or starts the application; return the exit code.

    Certificates are loaded, names and owners looked up, and the application is imported.
    """
    return (check_folders(config) if config.reload else 0) or run_target(target, config, check_only=True)
