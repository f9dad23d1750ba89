"""A worker process, `python -m asgiws.workers FD [FD]`. FD: its ends of the channel and of the topic relay.

A fresh interpreter that serves like a process without workers, on listening sockets that it inherits. It takes orders
from the channel and not from signals, which a terminal or a service manager sends to all processes at once. Only
SIGTERM has a meaning for a single worker: it asks for a successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Final

from asgiws.config.addresses import FD, parse_address
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.runner.control import Run
from asgiws.runner.exit_codes import USAGE, fail
from asgiws.runner.process import take_process
from asgiws.runner.run import run_target
from asgiws.runner.signals import existing
from asgiws.runner.watchdog import leave
from asgiws.server.bulk_close import BulkClose
from asgiws.server.server import Server
from asgiws.telemetry.logging_setup import configure, reopen
from asgiws.telemetry.logs import LOG
from asgiws.topics.hub import join_hub, leave_hub
from asgiws.topics.relay_client import RelayClient
from asgiws.workers.channel import Channel, Message, receive_order

__all__ = ["HEARTBEAT_S", "main"]

HEARTBEAT_S: Final = 1.0


class Supervised:
    """The `Control` of a worker: it passes on the orders of the supervisor."""

    def __init__(
        self, pipe: socket.socket, relay: socket.socket | None, worker_timeout_s: float, *, reports: bool
    ) -> None:
        self._pipe = pipe
        self._relay = relay
        """Our end of the pair that carries topics; None with --reload, as there is one worker then."""
        self._reports = reports
        # So often that a late one does not look like a worker that hangs
        self._heartbeat_s = min(HEARTBEAT_S, worker_timeout_s / 4 or HEARTBEAT_S)
        self._run: Run
        self._channel: Channel
        self._server: Server | None = None
        self._heartbeat: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def attach(self, run: Run) -> AsyncIterator[None]:
        """Take orders until the context ends."""
        self._run = run
        loop = asyncio.get_running_loop()
        self._channel = await Channel.connect(self._pipe, self._on_order, self._on_orphaned)
        hub = join_hub(loop)
        hub.on_deaf = self._on_deaf
        client = None if self._relay is None else await RelayClient.connect(self._relay, hub)
        # Until here SIGTERM ends the process, which has nothing to shut down: the supervisor relies on that.
        signal.signal(signal.SIGTERM, lambda number, frame: loop.call_soon_threadsafe(self.on_due, "received SIGTERM"))
        self._channel.send({"is": "imported"})
        try:
            yield
        finally:
            if self._heartbeat is not None:
                self._heartbeat.cancel()
            if client is not None:
                client.close()
            leave_hub(hub)
            self._channel.close()

    def on_ready(self, server: Server) -> None:
        """Report that the server listens, and send heartbeats from now on."""
        self._server = server
        self._channel.send({"is": "ready"})
        self._beat()

    def _on_deaf(self, deaf: bool) -> None:
        """Report whether what is published reaches this worker."""
        self._channel.send({"is": "deaf", "deaf": deaf})

    def on_due(self, why: str) -> None:
        """Ask for a successor; the order to stop comes when that is ready."""
        self._channel.send({"is": "due", "why": why})

    def on_stopping(self) -> None:
        """Do nothing: the supervisor gave the order."""

    def on_stopped(self) -> None:
        """Send the last report; the supervisor sees the process exit."""
        if self._server is not None:
            self._send_alive(self._server)

    def _send_alive(self, server: Server) -> None:
        self._channel.send({"is": "alive", **(server.report() if self._reports else {})})

    def _beat(self) -> None:
        assert self._server is not None
        self._heartbeat = asyncio.get_running_loop().call_later(self._heartbeat_s, self._beat)
        self._send_alive(self._server)

    def _on_order(self, order: Message) -> None:
        if order["do"] == "stop":
            self._run.stop(replaced=order["replaced"])
        elif order["do"] == "force":
            self._run.force()
        elif order["do"] == "reopen":
            reopen()
        elif self._server is not None:
            self._channel.send({"is": "answer", "ask": order["ask"], "value": _answer(self._server, order)})

    def _on_orphaned(self) -> None:
        if not self._run.told_to_stop.is_set():
            LOG.error("the supervisor has exited, so this worker stops")
            self._run.stop()


def _answer(server: Server, order: Message) -> object:
    """Carry out an order that the supervisor waits for; return the answer."""
    if order["do"] == "close":
        return server.close_connection(order["number"], order["code"], order["reason"])
    if order["do"] == "close_many":
        return server.close_websockets(BulkClose(**order["which"]))
    if order["do"] == "find":
        return server.find_websockets(BulkClose(**order["which"]))
    server.stop_accepting()
    return True


def main() -> int:
    """Serve what the supervisor orders; return the exit code."""
    for number in existing("SIGINT", "SIGBREAK", "SIGHUP", "SIGUSR1"):
        # Not SIG_IGN, which programs that the application starts would inherit.
        signal.signal(number, lambda number, frame: None)
    for number in existing("SIGTTIN", "SIGTTOU"):
        signal.signal(number, signal.SIG_IGN)  # their default action would suspend the worker
    # A worker that hangs is aborted and prints its stacks.
    faulthandler.enable()
    pipe, *relays = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    try:
        order = receive_order(pipe)
    except EOFError:
        return 0
    config = Config(**order["config"])
    # Programs that the application starts while it is imported do not inherit them; `Listeners` would be too late.
    for channel in (pipe, *relays):
        channel.set_inheritable(False)
    for address in map(parse_address, config.bind):
        if address.kind == FD:
            os.set_inheritable(address.fd, False)
    try:
        configure(config)
    except OptionError as error:
        return fail(USAGE, str(error))
    control = Supervised(pipe, relays[0] if relays else None, config.worker_timeout, reports=order["reports"])
    take_process()
    return leave(run_target(order["target"], config, control), config.graceful_timeout)
