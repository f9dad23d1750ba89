"""`python -m asgiws.process FD`: a worker, started by its supervisor."""

from __future__ import annotations

import sys

from asgiws.process.worker import main

if __name__ == "__main__":
    sys.exit(main())
