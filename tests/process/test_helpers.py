"""The readers of what a process prints, on which every other test here relies."""

from __future__ import annotations

import sys

import pytest

from tests.process import helpers
from tests.process.helpers import ServerProcess


def test_wait_for_a_line_ends_though_other_lines_come(
    processes: list[ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that does not end fails a test, and does not keep it for ever."""
    process = ServerProcess([sys.executable, "-c", "import time\nwhile True: print('other'); time.sleep(0.001)"])
    processes.append(process)
    process.wait_stdout("other")
    monkeypatch.setattr(helpers, "PATIENCE_S", 0.1)
    with pytest.raises(AssertionError, match="no line 'mine' on stdout"):
        process.wait_stdout("mine")
    monkeypatch.undo()
