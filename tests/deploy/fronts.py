"""Real nginx, HAProxy and Caddy, run with the very files of deploy/, in front of two servers.

A file is taken as it is, with the port it listens on and the servers it names replaced, and with the edits that a test
names; each edit has to match. Both servers have the same ports, as two containers have, and each its own address.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.programs import edited, find_program, reserved_port
from tests.server_process import ROOT, ServerProcess

DEPLOY: Final = ROOT / "deploy"
FILES: Final = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
ADDRESSES: Final = {"app-1": "127.0.0.11", "app-2": "127.0.0.12"}
"""Of this machine, as all of 127.0.0.0/8 on Linux."""


class Front:
    """A proxy that runs."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port

    def stop(self) -> None:
        """End it, and with it the processes that it has started."""
        self.process.signal(signal.SIGTERM)
        self.process.wait()


class Starter:
    """Starts proxies, on the list of processes that end with the test."""

    def __init__(self, processes: list[ServerProcess], folder: Path) -> None:
        self._processes = processes
        self._folder = folder

    def start(self, kind: str, port: int, admin_port: int, edits: Mapping[str, str] | None = None) -> Front:
        """Start a proxy of a kind in front of servers on `port`, which say on `admin_port` whether they are ready."""
        servers = {f"{name}:8000": f"{address}:{port}" for name, address in ADDRESSES.items()}
        text = edited((DEPLOY / FILES[kind]).read_text(), servers, edits)
        start = {"nginx": self._nginx, "haproxy": self._haproxy, "caddy": self._caddy}[kind]
        return start(find_program(kind), text, admin_port)

    def _nginx(self, program: str, text: str, admin_port: int) -> Front:
        folder = self._folder / "nginx"
        folder.mkdir()
        with reserved_port() as port:
            names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in names)
            text = edited(text, {
                "listen 80;": f"listen 127.0.0.1:{port};",
                "/var/log/nginx/": f"{folder}/",
                "http {\n": f"http {{\n{paths}",
            })  # fmt: skip
            file = folder / "nginx.conf"
            file.write_text(text)
            main = f"daemon off; pid {folder}/nginx.pid; error_log stderr notice;"
            process = self._run([program, "-e", "stderr", "-p", str(folder), "-c", str(file), "-g", main])
            process.wait_stderr("start worker process ")
        return Front(process, port)

    def _haproxy(self, program: str, text: str, admin_port: int) -> Front:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            descriptor = listener.fileno()
            file = self._folder / "haproxy.cfg"
            edits = {"bind :80": f"bind fd@{descriptor}", "port 9000": f"port {admin_port}"}
            # It does not start where it may not have two descriptors for each.
            file.write_text(edited(text, edits | {"maxconn 50000": "maxconn 2000"}))
            process = self._run([program, "-db", "-f", str(file)], pass_fds=[descriptor])
            return Front(process, listener.getsockname()[1])

    def _caddy(self, program: str, text: str, admin_port: int) -> Front:
        with reserved_port() as port:
            ports = {"\n:80 {": f"\n:{port} {{\n\tbind 127.0.0.1", "health_port 9000": f"health_port {admin_port}"}
            file = self._folder / "Caddyfile"
            file.write_text("{\n\tadmin off\n}\n" + edited(text, ports))
            folders = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self._folder))
            command = [program, "run", "--adapter", "caddyfile", "--config", str(file)]
            process = self._run(command, environ=folders)
            process.wait_stderr("serving initial configuration")
        return Front(process, port)

    def _run(
        self, command: list[str], *, environ: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> ServerProcess:
        process = ServerProcess(command, environ=environ, pass_fds=pass_fds)
        self._processes.append(process)
        return process
