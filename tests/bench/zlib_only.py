"""`python -m asgiws` as if the extra `fast` were not installed."""

from __future__ import annotations

import sys

# What an import finds as None raises ImportError, as for a package that is not there.
sys.modules["isal"] = sys.modules["zlib_ng"] = None  # type: ignore[assignment]

from asgiws.cli import main  # noqa: E402
from asgiws.protocol.websocket.deflate_engines import IN_USE, ZLIB  # noqa: E402

assert IN_USE == ZLIB
sys.exit(main())
