"""Where the memory of an idle WebSocket goes: `python -m tests.limits.idle_account [asyncio|uvloop]`.

Serves an echo in this process, opens connections, and lists what was allocated for each and is still held: bytes with
the garbage collector's header, number of allocations, and the line that made them. What the clients hold, which run in
the same process, is left out.
"""

from __future__ import annotations

import gc
import linecache
import sys
import tracemalloc
from pathlib import Path
from typing import Final, NamedTuple

from tests.counted import InServer, serve_while
from tests.raw import RawClient, text

COUNT: Final = 200
_WARM: Final = 50
BROWSER_OFFER: Final = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
_ROOT: Final = Path(__file__).parent.parent.parent
_APPLICATION: Final = _ROOT / "tests" / "apps.py"
_PURPOSES: Final = (
    ("create_future", "frames and last message of the application"),
    ("futures.Future", "frames and last message of the application"),
    ("acceptor.py", "transport and socket of the event loop"),
    ("create_task", "task of the application"),
    ("tasks.Task", "task of the application"),
    ("_weakrefset.py", "task of the application"),
    ("scope.py", "scope, addresses"),
    ("ConnectionExtension", "scope, addresses"),
    ("ConnectionTopics", "scope, addresses"),
    ("protocol/http/", "scope, addresses"),
    ("handshake.py", "scope, addresses"),
    ("apps.py", "frames and last message of the application"),
    ("await application", "frames and last message of the application"),
    ("self.receive, self.send", "frames and last message of the application"),
    ("item = payload.decode", "frames and last message of the application"),
    ("websocket.receive", "frames and last message of the application"),
    ("receiver", "receiver of frames"),
    ("Receiver(", "receiver of frames"),
    ("WebSocketSession(", "session, and the coroutine that runs the application"),
    ("set_protocol", "transport and socket of the event loop"),
    ("asgiws/", "connection: state, flow control, deadlines"),
)
"""The first that is part of path or source line says what a line is for."""
_LOOP: Final = "transport and socket of the event loop"


class Row(NamedTuple):
    """What one line has allocated for each connection."""

    purpose: str
    size: float
    """Bytes."""
    blocks: float
    line: str


class Account(NamedTuple):
    """What each idle connection holds, the largest first."""

    idle: list[Row]
    echoed: list[Row]
    """After an echo."""


def account(loop_name: str, *headers: str) -> Account:
    """Open connections, and look what they hold before and after an echo."""
    snapshots: list[tracemalloc.Snapshot] = []

    def play(port: int, in_server: InServer) -> None:
        warm = [_open(port, headers) for _ in range(_WARM)]
        _echo(warm)
        in_server(_begin)
        clients = [_open(port, headers) for _ in range(COUNT)]
        in_server(lambda: snapshots.append(_snapshot()))
        _echo(clients)
        in_server(lambda: snapshots.append(_snapshot()))
        tracemalloc.stop()
        for client in warm + clients:
            client.socket.close()

    serve_while(loop_name, play, ping_interval=0)
    return Account(*map(_rows, snapshots))


def _rows(snapshot: tracemalloc.Snapshot) -> list[Row]:
    rows = []
    for statistic in snapshot.statistics("lineno"):
        frame = statistic.traceback[0]
        path = Path(frame.filename)
        if statistic.count < COUNT * 0.9 or (_ROOT / "tests" in path.parents and path != _APPLICATION):
            continue
        line = linecache.getline(frame.filename, frame.lineno).strip()
        name = path.relative_to(_ROOT) if _ROOT in path.parents else Path(*path.parts[-2:])
        rows.append(Row(_purpose(f"{name} {line}"), statistic.size / COUNT, statistic.count / COUNT, f"{name}: {line}"))
    return rows


def _open(port: int, headers: tuple[str, ...]) -> RawClient:
    client = RawClient(port)
    client.open_websocket("/", *headers)
    return client


def _echo(clients: list[RawClient]) -> None:
    for client in clients:
        client.send(text("hello"))
        assert client.read_text() == "hello"


def _begin() -> None:
    gc.collect()
    tracemalloc.start(1)


def _snapshot() -> tracemalloc.Snapshot:
    gc.collect()
    return tracemalloc.take_snapshot()


def _purpose(where: str) -> str:
    return next((purpose for part, purpose in _PURPOSES if part in where), _LOOP)


def main(loop_name: str) -> None:
    """Print the rows, and the sums by purpose."""
    rows = account(loop_name).echoed
    for row in rows:
        print(f"{row.size:6.0f} {row.blocks:5.1f}  {row.line[:110]}")  # noqa: T201
    print()  # noqa: T201
    for purpose in sorted({row.purpose for row in rows}):
        print(f"{sum(row.size for row in rows if row.purpose == purpose):6.0f}  {purpose}")  # noqa: T201
    print(f"{sum(row.size for row in rows):6.0f}  in all")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "asyncio")
