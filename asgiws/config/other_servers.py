"""What to write instead of flags that other servers have: the hints of the command line.

Flags of uvicorn that mean the same are spellings of our options (`Option.aliases`); only those without an equal are
here. Checked against uvicorn 0.54, hypercorn 0.18, gunicorn 27, daphne 4.2 and granian 2.8.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FLAGS_OF_OTHERS", "instead_of"]

_ONE_PARSER: Final = "leave it out: there is one HTTP parser"
_ONE_WEBSOCKET: Final = "leave it out: WebSocket is built in, in one implementation"
_ASGI_ONLY: Final = "leave it out: applications are ASGI 3"
_HTTP_1: Final = "leave it out: HTTP/1.1 is what is served"
_DETACHED: Final = "leave it out: systemd or a container runs the server in the background"
_SERVICE: Final = "leave it out: start the server as that user"
_THREADS: Final = "leave it out: each worker has one event loop; use --workers"
_WORKERS: Final = "leave it out: there is one kind of worker; for the event loop, use --loop"
_IMPORT: Final = "leave it out: each worker imports the application"
_LOGS: Final = "use --log-file, --log-format or --log-config"

FLAGS_OF_OTHERS: Final[dict[str, str]] = {
    # uvicorn
    "--ws": _ONE_WEBSOCKET, "--http": _ONE_PARSER, "--http2": _HTTP_1, "--interface": _ASGI_ONLY,
    "--verbose": "use --log-level debug", "--ssl-version": "use --ssl-min-version",
    "--reset-contextvars": "leave it out: each request has its own context",
    # hypercorn and gunicorn
    "-b": "use --bind", "-w": "use --workers", "-c": "use --config with a TOML file", "-t": "use --worker-timeout",
    "-k": _WORKERS, "--worker-class": _WORKERS, "-e": "use environment variables, or --env-file",
    "--insecure-bind": "use --bind, in a process of its own without --ssl-certfile", "--quic-bind": _HTTP_1,
    "--access-log-format": _LOGS, "--access-logformat": _LOGS, "--access-logfile": _LOGS, "--error-logfile": _LOGS,
    "--access-log-file": _LOGS, "--error-log": _LOGS, "--log-config-dict": "use --log-config", "--logger-class": _LOGS,
    "--certfile": "use --ssl-certfile", "--keyfile": "use --ssl-keyfile", "--ca-certs": "use --ssl-ca-certs",
    "--keyfile-password": "use --ssl-keyfile-password", "--ciphers": "use --ssl-ciphers",
    "--verify-mode": "use --ssl-client-cert", "--cert-reqs": "use --ssl-client-cert",
    "--keep-alive": "use --keep-alive-timeout", "--read-timeout": "use --head-timeout and --body-timeout",
    "--timeout": "use --worker-timeout", "--websocket-ping-interval": "use --ping-interval",
    "--websocket-max-message-size": "use --max-message-size", "--max-app-queue-size": "use --max-queue",
    "--server-name": "set allowed hosts in the application or the proxy", "--chdir": "use --app-dir",
    "--statsd-host": "use --admin, which serves metrics for Prometheus", "-D": _DETACHED, "--daemon": _DETACHED,
    "--pid": _DETACHED, "-u": _SERVICE, "--user": _SERVICE, "-g": _SERVICE, "--group": _SERVICE, "-m": "use --uds-mode",
    "--umask": "use --uds-mode", "--threads": _THREADS, "--preload": _IMPORT, "--preload-app": _IMPORT,
    "--env": "use --env-file",
    "--limit-request-line": "use --max-head-size", "--limit-request-fields": "use --max-headers",
    "--limit-request-field-size": "use --max-head-size", "--limit-request-field_size": "use --max-head-size",
    "--worker-connections": "use --max-connections", "--asgi-loop": "use --loop", "--asgi-lifespan": "use --lifespan",
    "--asgi-disconnect-grace-period": "use --answer-timeout", "--http-parser": _ONE_PARSER, "--http-protocols": _HTTP_1,
    "--proxy-allow-from": "use --proxy-protocol-allow-ips", "--forwarder-headers": "use --forwarded-fields",
    "--print-config": "use --check-config", "--reuse-port": "leave it out: workers have sockets of their own",
    # daphne
    "-p": "use --port", "-v": "use --log-level", "--verbosity": "use --log-level", "--endpoint": "use --bind",
    "--unix-socket": "use --uds", "--websocket_timeout": "use --max-lifetime",
    "--websocket_connect_timeout": "use --handshake-timeout", "--http-timeout": "use --graceful-timeout",
    "--application-close-timeout": "use --answer-timeout", "--websocket-max-frame-size": "use --max-frame-size",
    "--proxy-headers-host": "use --forwarded-fields", "--proxy-headers-port": "use --forwarded-fields",
    # granian
    "--no-ws": "leave it out: an application refuses the WebSockets that it does not want", "--opt": _THREADS,
    "--runtime-mode": _THREADS, "--runtime-threads": _THREADS, "--blocking-threads": _THREADS,
    "--task-impl": "leave it out: tasks are those of asyncio", "--backpressure": "use --max-connections",
    "--http1-header-read-timeout": "use --head-timeout", "--http1-buffer-size": "use --max-head-size",
    "--respawn-failed-workers": "leave it out: a worker that ends is replaced", "--working-dir": "use --app-dir",
    "--workers-lifetime": "use --worker-lifetime", "--workers-max-rss": "use --worker-memory",
    "--workers-kill-timeout": "use --graceful-timeout", "--ssl-certificate": "use --ssl-certfile",
    "--ssl-ca": "use --ssl-ca-certs", "--ssl-client-verify": "use --ssl-client-cert",
    "--ssl-protocol-min": "use --ssl-min-version", "--uds-permissions": "use --uds-mode",
    "--url-path-prefix": "use --root-path", "--env-files": "use --env-file", "--metrics": "use --admin",
    "--log": "use --log-level", "--reload-paths": "use --reload-dir", "--reload-ignore-paths": "use --reload-exclude",
    "--reload-ignore-patterns": "use --reload-exclude", "--reload-ignore-dirs": "use --reload-exclude",
    "--static-path-mount": "serve files from the proxy or the application", "--pid-file": _DETACHED,
}  # fmt: skip


def instead_of(flag: str) -> str:
    """Return what to write instead of a flag of another server; empty for one that is unknown."""
    if flag[:2] != "--":  # -w4 is -w 4
        flag = flag[:2]
    return FLAGS_OF_OTHERS.get(flag, "")
