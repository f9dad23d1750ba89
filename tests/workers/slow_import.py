"""`whoami`, whose import does not end while the file that SLOW names exists; with "deaf" in it, it ignores SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from tests.runner.apps import tell
from tests.workers.worker_apps import whoami

__all__ = ["app"]

order = Path(os.environ["SLOW"])
if order.exists():
    if order.read_text() == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("importing", os.getpid())
    threading.Event().wait()

app = whoami
