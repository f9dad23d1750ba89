"""The built-in demonstration: `asgiws asgiws.demo:app`."""

from asgiws.demo.app import app

__all__ = ["app"]
