"""`python -m asgiws` as if the C module had not been built."""

from __future__ import annotations

import sys

# What an import finds as None raises ImportError, as for a module that is not there.
sys.modules["asgiws.protocol.websocket._masking"] = None  # type: ignore[assignment]

from asgiws.cli import main  # noqa: E402
from asgiws.protocol.websocket.masking import UNMASK_IN_C  # noqa: E402

assert not UNMASK_IN_C
sys.exit(main())
