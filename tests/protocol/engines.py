"""The engines of DEFLATE that tests run on: zlib, which is always there, and what the extra `fast` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from asgiws.protocol.websocket import deflate_engines
from asgiws.protocol.websocket.deflate_engines import ZLIB, Engines, installed_engines

FAST: Final = installed_engines()
ALL: Final = (ZLIB,) if FAST == ZLIB else (ZLIB, FAST)
MISSING: Final = "no other engine than zlib is installed: pip install 'asgiws[fast]'"


@contextmanager
def using(engines: Engines) -> Iterator[None]:
    """Compress and inflate with these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deflate_engines, "IN_USE", engines)
        yield
