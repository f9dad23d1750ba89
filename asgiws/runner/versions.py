"""What this installation consists of: the answer to `asgiws --version --verbose`, and a line for a missing C module."""

from __future__ import annotations

import importlib.metadata
import platform
import ssl
import sys
import sysconfig
import zlib
from typing import Final

from asgiws._version import __version__
from asgiws.protocol.websocket.deflate_engines import IN_USE
from asgiws.protocol.websocket.masking import UNMASK_IN_C
from asgiws.telemetry.logs import LOG

__all__ = ["describe_installation", "report_missing_c_module"]

_EXTRAS: Final = {
    "uvloop": "asyncio is the event loop",
    "watchfiles": "--reload checks the files itself",
    "prometheus-client": "/metrics is off",
    "python-dotenv": "--env-file is refused",
    "isal": "zlib compresses all messages; pip install 'asgiws[fast]'",
    "zlib-ng": "zlib inflates; pip install 'asgiws[fast]'",
}
"""Optional packages, and what holds without each."""

_NO_C: Final = "the C module is not built: large messages from clients cost more CPU; reinstall with a C compiler"


def describe_installation() -> str:
    """Return the version, what the server runs on, and which optional parts were found."""
    versions = {name: _version_of(name) for name in _EXTRAS}
    rows = {
        "asgiws": __version__,
        "Python": f"{platform.python_version()} ({_interpreter()}), {platform.platform()}",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "event loop": "uvloop" if versions["uvloop"] else "asyncio",
        "compression": str(IN_USE),
        "unmasking": "C module" if UNMASK_IN_C else f"Python, {_NO_C}",
    }
    rows |= {name: versions[name] or f"not installed: {without}" for name, without in _EXTRAS.items()}
    return "\n".join(f"{name:18} {value}" for name, value in rows.items())


def report_missing_c_module() -> None:
    """Log that the C module is missing, if it is: an installation without a compiler succeeds silently."""
    if not UNMASK_IN_C:
        LOG.info("%s", _NO_C)


def _interpreter() -> str:
    """Return its name, and whether the GIL is on where it need not be: a package may have switched it on."""
    name = platform.python_implementation()
    if sys.version_info >= (3, 13) and sysconfig.get_config_var("Py_GIL_DISABLED"):
        name += f", free-threaded, GIL {'on' if sys._is_gil_enabled() else 'off'}"
    return name


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
