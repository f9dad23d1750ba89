"""`python -m asgiws`, the same as `asgiws`."""

from asgiws.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
