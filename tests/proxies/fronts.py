"""Real nginx and HAProxy processes, configured by the very fragments of deploy/proxies.md.

A fragment is taken as it is there, with what it listens on and what it forwards to replaced, and with the edits that a
test names; each edit has to match. The port is bound here, so that nobody else gets it: HAProxy inherits the socket,
listening, and connections wait in it until the proxy is there; nginx binds it once more and says when it listens.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import trustme

from tests import PATIENCE_S
from tests.programs import edited, find_program, reserved_port
from tests.raw import RawClient
from tests.server_process import ROOT, ServerProcess

_NGINX_MAIN = """\
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr notice;
events {{ worker_connections 256; }}
http {{
access_log off;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{fragment}
}}
"""


class Authority:
    """A certificate for localhost, and clients that trust it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.pem = folder / "both.pem"
        """Certificate and private key in one file, as HAProxy takes them and nginx too."""
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.pem))
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)


class Front:
    """A proxy that runs."""

    def __init__(self, process: ServerProcess, port: int, authority: Authority | None) -> None:
        self.process = process
        self.port = port
        self.authority = authority

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{self.address}" if self.authority is None else f"wss://{self.address}"

    def connect(self, source: str = "127.0.0.2") -> RawClient:
        """Connect from an address that is not the proxy's own, and with TLS where the proxy speaks it."""
        client = RawClient(self.port, source=source)
        if self.authority is not None:
            client.socket = self.authority.context.wrap_socket(client.socket, server_hostname="localhost")
            client.socket.settimeout(PATIENCE_S)
        return client


class StartFront(Protocol):
    """Starts a proxy in front of `upstream`, the address that a server or another proxy says it has."""

    def __call__(
        self, upstream: str, edits: Mapping[str, str] | None = None, *, authority: Authority | None = None
    ) -> Front: ...


class Starter:
    """Starts proxies of a kind, on the list of processes that end with the test."""

    def __init__(self, processes: list[ServerProcess], folder: Path) -> None:
        self._processes = processes
        self._folder = folder

    def nginx(
        self, upstream: str, edits: Mapping[str, str] | None = None, *, authority: Authority | None = None
    ) -> Front:
        """Start nginx."""
        with reserved_port() as port:
            front = self._nginx(upstream, port, edits, authority)
            front.process.wait_stderr("getrlimit")  # the first line behind listening
            return front

    def _nginx(self, upstream: str, port: int, edits: Mapping[str, str] | None, authority: Authority | None) -> Front:
        tls = f" ssl; ssl_certificate {authority.pem}; ssl_certificate_key {authority.pem}" if authority else ""
        folder = self._new_folder("nginx")
        fragment = edited(
            fragments("nginx")[0],
            {"server 127.0.0.1:8000;": f"server {plain(upstream)};", "listen 80;": f"listen 127.0.0.1:{port}{tls};"},
            edits,
        )
        file = folder / "nginx.conf"
        file.write_text(_NGINX_MAIN.format(folder=folder, fragment=fragment))
        command = [find_program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(file)]
        return self._run(command, port, authority)

    def haproxy(
        self, upstream: str, edits: Mapping[str, str] | None = None, *, authority: Authority | None = None
    ) -> Front:
        """Start HAProxy."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            descriptor = listener.fileno()
            tls = f" ssl crt {authority.pem}" if authority else ""
            fragment = edited(
                fragments("haproxy")[0],
                {
                    "server one 127.0.0.1:8000": f"server one {plain(upstream).replace('unix:', 'unix@')}",
                    "bind :80": f"bind fd@{descriptor}{tls}",
                },
                edits,
            )
            file = self._new_folder("haproxy") / "haproxy.cfg"
            file.write_text(fragment)
            command = [find_program("haproxy"), "-db", "-f", str(file)]
            return self._run(command, listener.getsockname()[1], authority, pass_fds=[descriptor])

    def _new_folder(self, name: str) -> Path:
        folder = self._folder / f"{name}{len(self._processes)}"
        folder.mkdir()
        return folder

    def _run(self, command: list[str], port: int, authority: Authority | None, pass_fds: Sequence[int] = ()) -> Front:
        process = ServerProcess(command, pass_fds=pass_fds)
        self._processes.append(process)
        return Front(process, port, authority)


class Site(NamedTuple):
    """A server and the proxy in front of it."""

    server: ServerProcess
    front: Front


def fragments(language: str) -> list[str]:
    """Return the configuration fragments of deploy/proxies.md."""
    text = (ROOT / "deploy" / "proxies.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def plain(address: str) -> str:
    """Give host and port, or unix: and a path, of an address as a server says it."""
    return address.removeprefix("http://")
