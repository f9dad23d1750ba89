"""`python -m asgiws.workers FD [FD]`: a worker, started by its supervisor."""

from __future__ import annotations

import sys

from asgiws.workers.worker import main

if __name__ == "__main__":
    sys.exit(main())
