"""What tests of the protocol run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asgiws.protocol.websocket.deflate_engines import ZLIB, Engines
from tests.protocol.engines import FAST, MISSING, using


@pytest.fixture(scope="module", params=["zlib", "fast"])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """Each engine of DEFLATE. For the module, so that properties can use it."""
    chosen = ZLIB if request.param == "zlib" else FAST
    if request.param == "fast" and chosen == ZLIB:
        pytest.skip(MISSING)
    with using(chosen):
        yield chosen
