"""The servers: how each is started so that like is compared with like.

One worker, one thread, no access log, the options of the server as they come otherwise; compression is off unless the
workload compresses; uvloop where a server can run on it. Each is one line of the table.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.bench.machine import pin, server_core, session_pids

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 20.0
END_S: Final = 5.0
APPS: Final = {
    "plain": "tests.bench.apps:plain",
    "starlette": "tests.bench.apps_starlette:app",
    "fastapi": "tests.bench.apps_fastapi:app",
}

OURS, PEER, FLOOR = "ours", "peer", "floor"
ALL: Final = frozenset({"websocket", "http", "asgi"})


@dataclass(frozen=True)
class Server:
    """One way to serve. `{app}` and `{port}` in `command` are replaced."""

    name: str
    kind: str
    """OURS, PEER (an ASGI server) or FLOOR (does less than one)."""
    package: str
    """The distribution that has to be installed."""
    loop: str
    command: tuple[str, ...]
    off: tuple[str, ...] = ()
    """What turns compression off."""
    compression: tuple[str, ...] | None = None
    """What turns compression on; None: it cannot compress."""
    can: frozenset[str] = ALL
    only: tuple[str, ...] = ()
    """The workloads that it is measured with; none: all."""

    @property
    def compared(self) -> bool:
        """Whether it takes part where WebSockets of whole servers are compared: in latency and memory."""
        return self.kind in (OURS, PEER) and not self.only and "websocket" in self.can

    def installed(self) -> bool:
        """Whether it can be started here."""
        return not missing_packages([self])

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package) if self.package != "asgiws" else "this tree"


def _asgiws(
    name: str,
    loop: str,
    module: str = "asgiws",
    *more: str,
    compression: tuple[str, ...] = ("--compression", "shared"),
    only: tuple[str, ...] = (),
) -> Server:
    return Server(
        name, OURS, "asgiws", loop,
        ("-m", module, "{app}", "--port", "{port}", "--loop", loop, "--no-access-log", "--log-level", "warning", *more),
        off=("--compression", "off"), compression=compression, only=only,
    )  # fmt: skip


def _uvicorn(implementation: str) -> Server:
    return Server(
        f"uvicorn {implementation}", PEER, "uvicorn", "uvloop",
        ("-m", "uvicorn", "{app}", "--port", "{port}", "--loop", "uvloop", "--http", "httptools",
         "--ws", implementation, "--no-access-log", "--log-level", "warning"),
        off=("--ws-per-message-deflate", "false"), compression=("--ws-per-message-deflate", "true"),
    )  # fmt: skip


SERVERS: Final = (
    _asgiws("asgiws", "uvloop"),
    _asgiws("asgiws asyncio", "asyncio"),
    _asgiws("asgiws without C", "uvloop", "tests.bench.python_only"),
    _asgiws("asgiws with zlib", "uvloop", "tests.bench.zlib_only",
            only=("broadcast-compressed", "json-compressed", "json-64k-compressed")),
    _asgiws("asgiws with --admin", "uvloop", "asgiws", "--admin", "127.0.0.1:0",
            only=("echo-50", "burst", "broadcast", "http-get")),
    _asgiws("asgiws dedicated, level 6", "uvloop",
            only=("broadcast-compressed", "json-compressed", "json-64k-compressed"),
            compression=("--compression", "dedicated", "--compression-level", "6")),
    _uvicorn("websockets-sansio"),
    _uvicorn("websockets"),
    _uvicorn("wsproto"),
    Server(
        "granian", PEER, "granian", "uvloop",
        ("-m", "granian", "{app}", "--interface", "asginl", "--port", "{port}", "--loop", "uvloop", "--workers", "1",
         "--http", "1", "--log-level", "warning", "--no-access-log"),
    ),
    Server(
        "hypercorn", PEER, "hypercorn", "uvloop",
        ("-m", "hypercorn", "{app}", "--bind", "127.0.0.1:{port}", "-k", "uvloop", "-w", "1",
         "--log-level", "warning"),
        compression=(),  # it always compresses for a client that offers it
    ),
    Server(
        "daphne", PEER, "daphne", "Twisted",
        ("-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0", "--websocket-max-message-size", "16777216",
         "--websocket-max-frame-size", "16777216", "{app}"),
    ),
    Server(
        "gunicorn", PEER, "gunicorn", "uvloop",
        ("-m", "gunicorn", "{app}", "-k", "asgi", "-w", "1", "-b", "127.0.0.1:{port}", "--asgi-loop", "uvloop",
         "--asgi-lifespan", "off", "--log-level", "warning"),
    ),
    Server(
        "anycorn", PEER, "anycorn", "asyncio",
        ("-m", "anycorn", "{app}", "--bind", "127.0.0.1:{port}", "-k", "asyncio", "-w", "1"),
        compression=(),  # as hypercorn, which it was forked from
    ),
    Server(
        "socketify", PEER, "socketify", "libuv of its own",
        ("-m", "socketify", "{app}", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "--interface", "asgi",
         "--lifespan", "off", "--disable-listen-log", "true"),
        off=("--ws-per-message-deflate", "false"), compression=("--ws-per-message-deflate", "true"),
    ),
    Server(
        "fastpysgi", PEER, "fastpysgi", "libuv of its own",
        ("-c", "import fastpysgi; fastpysgi.run_from_cli()", "{app}", "--host", "127.0.0.1", "--port", "{port}"),
        can=frozenset({"http", "asgi"}),
    ),
    Server(
        "picows", FLOOR, "picows", "uvloop", ("-m", "tests.bench.picows_server", "{port}"),
        can=frozenset({"websocket"}),
    ),
    Server(
        "bare protocol", FLOOR, "asgiws", "uvloop", ("-m", "tests.bench.floor", "{port}", "uvloop"),
        can=frozenset({"websocket", "http"}),
    ),
    Server(
        "bare protocol asyncio", FLOOR, "asgiws", "asyncio", ("-m", "tests.bench.floor", "{port}", "asyncio"),
        can=frozenset({"websocket", "http"}),
    ),
)  # fmt: skip

BY_NAME: Final = {server.name: server for server in SERVERS}


def missing_packages(servers: Iterable[Server]) -> set[str]:
    """Give the distributions that are not installed."""
    needed = {server.package for server in servers if server.package != "asgiws"}
    needed |= {"uvloop" for server in servers if server.loop == "uvloop"}
    found = {name for name in needed if _has(name)}
    return needed - found


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def other_loops(loops: Mapping[str, str]) -> str:
    """Return the peers that are not on uvloop, as text: "daphne on Twisted, anycorn on asyncio"."""
    return ", ".join(
        f"{name} on {loop}" for name, loop in loops.items() if BY_NAME[name].kind == PEER and loop != "uvloop"
    )


class ServerFailed(Exception):  # noqa: N818 - what happened
    """A server did not start or has ended; with the end of what it printed."""


class Running:
    """One server process with all that it started, on the server's core if it is `pinned`."""

    def __init__(
        self, server: Server, app: str = "plain", *, compression: bool = False,
        environ: Mapping[str, str] | None = None, pinned: bool = True,
    ) -> None:  # fmt: skip
        self.server = server
        self.compression = compression
        self.port = _free_port()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop
        extra = server.compression if compression else server.off
        assert extra is not None, f"{server.name} cannot compress"
        words = [word.format(app=APPS[app], port=self.port) for word in (*server.command, *extra)]
        with pin(server_core()) if pinned else contextlib.nullcontext():
            self._process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | dict(environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_listening()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor, if there are workers."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return session_pids(self._process.pid)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def printed(self) -> str:
        """The end of what it has printed."""
        self._output.seek(0)
        return self._output.read()[-2000:].decode(errors="replace")

    def stop(self) -> None:
        """End it and all that it started."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_listening(self) -> None:
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                pass
            else:
                return
            try:
                # A pause until the next try that ends early when the process does.
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise ServerFailed(f"{self.server.name} ended with {self._process.returncode}:\n{self.printed()}")
        raise ServerFailed(f"{self.server.name} does not listen after {START_S:g} s:\n{self.printed()}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
