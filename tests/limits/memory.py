"""The memory of a server process, and clients that flood it."""

from __future__ import annotations

import select
from pathlib import Path

from tests.raw import RawClient
from tests.server_process import ServerProcess

MIB = 1024 * 1024
SLACK_BYTES = 6 * MIB
"""What the allocator and the interpreter take and keep by themselves: arenas, code paths run for the first time."""
STALL_S = 1.0
"""A server that takes nothing for so long has stopped reading."""


class Memory:
    """How much more memory a process took at its peak since this was made."""

    def __init__(self, process: ServerProcess) -> None:
        self._folder = Path(f"/proc/{process.pid}")
        # 5: begin the peak anew (proc(5), clear_refs)
        (self._folder / "clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def growth(self) -> int:
        """Bytes of resident memory at the peak, above those at the beginning."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
        raise AssertionError(f"no {name} in the status of the process")


def push(client: RawClient, data: bytes, most_bytes: int) -> int:
    """Send `data` again and again until the server stops reading, ends the connection, or `most_bytes` are sent."""
    client.socket.setblocking(False)
    view = memoryview(data * max(1, 65536 // len(data)))
    sent = at = 0
    try:
        while sent < most_bytes:
            _, writable, _ = select.select([], [client.socket], [], STALL_S)
            if not writable:
                break
            count = client.socket.send(view[at:])
            at = (at + count) % len(view)
            sent += count
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        client.socket.settimeout(20)
    return sent


def get(port: int, path: str) -> bytes:
    """One GET on a connection of its own."""
    with RawClient(port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = client.read_answer()
        assert answer.status == 200
        return answer.body
