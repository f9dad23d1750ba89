"""The demonstration with several worker processes: one chat."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests import PATIENCE_S
from tests.server_process import ServerProcess, Start, assert_no_traceback

DEMO = ("asgiws.demo:app", "--workers", "2", "--drain-spread", "0")


class Member:
    """One client of the chat."""

    def __init__(self, client: ClientConnection, name: str) -> None:
        self.client = client
        self.tell(type="join", name=name)
        self.process: int = self.hear("welcome")["process"]

    def tell(self, **command: str) -> None:
        self.client.send(json.dumps(command))

    def hear(self, kind: str, process: int | None = None) -> dict[str, Any]:
        """Return the next event of a kind, from a process or from any."""
        seen: list[dict[str, Any]] = []
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            event = json.loads(self.client.recv(PATIENCE_S))
            seen.append(json.loads(event["data"]) if "at" in event else event)
            if seen[-1]["type"] == kind and process in (None, seen[-1]["process"]):
                return seen[-1]
        raise AssertionError(f"no {kind} of process {process}, only {seen}")


def members_of(server: ServerProcess, ends: ExitStack) -> list[Member]:
    """Open clients until each of two workers has one; return one of each."""
    members: dict[int, Member] = {}
    while len(members) < 2:
        client = ends.enter_context(connect(f"ws://127.0.0.1:{server.port}/ws/chat", proxy=None))
        member = Member(client, f"guest {len(members)}")
        members.setdefault(member.process, member)
    return list(members.values())


def test_members_of_two_workers_hear_each_other_and_how_many_there_are(start: Start) -> None:
    server = start(*DEMO)
    with ExitStack() as ends:
        ada, bob = members_of(server, ends)
        for author, other in ((ada, bob), (bob, ada)):
            author.tell(type="message", text=f"hello from {author.process}")
            event = other.hear("message", author.process)
            assert event["text"] == f"hello from {author.process}"
            # A process says how many it serves when nobody joins or speaks, too.
            assert other.hear("here", author.process)["online"] >= 1
    server.terminate()
    assert server.wait() == 0
    assert_no_traceback(server)
