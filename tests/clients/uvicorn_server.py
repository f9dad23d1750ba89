"""uvicorn in a thread, for comparison."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tests import PATIENCE_S


@contextlib.contextmanager
def serve_with_uvicorn(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application and give the port. The socket listens before, so that nobody has to ask when it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "uvicorn did not stop"
