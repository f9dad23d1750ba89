"""Takes away from this Python what Windows lacks. Python imports it at its start when its folder is on PYTHONPATH.

A simulation: modules, signals, kinds of sockets and methods of the event loop are as missing as there, so whatever
needs one fails. How Windows does what it has in another way is not shown by it.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import os
import signal
import socket
import subprocess  # noqa: F401 - the standard library may keep what it imports itself
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {"curses", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty", "uvloop"}
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU", "SIGKILL", "SIGCHLD", "SIGPIPE", "SIGQUIT", "SIGALRM")
OF_OS = (
    "fork", "getuid", "geteuid", "getgid", "chown", "pread", "register_at_fork", "getloadavg",
    "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY",
)  # fmt: skip


class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} (without POSIX)", name=name)
        return None


def socketpair(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
    """Return two connected sockets, as Python on Windows makes them."""
    with socket.socket(family, kind, proto) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = socket.socket(family, kind, proto)
        one.connect(listener.getsockname())
        return one, listener.accept()[0]


def bind(self: socket.socket, address: Any) -> None:
    """Bind as Windows does, where connections that have just ended do not keep an address taken."""
    self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    super(socket.socket, self).bind(address)


class Loop(asyncio.SelectorEventLoop):
    """An event loop with what the Proactor loop of Windows has; asyncio itself may call what it needs for that."""

    def remove_reader(self, fd: Any) -> bool:
        assert sys._getframe(1).f_globals["__name__"].startswith("asyncio."), "not on Windows"
        return super().remove_reader(fd)

    def remove_writer(self, fd: Any) -> bool:
        assert sys._getframe(1).f_globals["__name__"].startswith("asyncio."), "not on Windows"
        return super().remove_writer(fd)


for name in ("add_reader", "add_writer", "add_signal_handler", "remove_signal_handler", "create_unix_connection",
             "create_unix_server"):  # fmt: skip
    setattr(Loop, name, getattr(asyncio.AbstractEventLoop, name))  # raises NotImplementedError


class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return Loop()


asyncio.new_event_loop = Loop
if sys.version_info < (3, 14):
    asyncio.set_event_loop_policy(Policy())
else:
    asyncio.runners.events.new_event_loop = Loop
sys.meta_path.insert(0, Missing())
for name in MODULES:
    sys.modules.pop(name, None)
for name in SIGNALS:
    delattr(signal, name)
for name in OF_OS:
    if hasattr(os, name):
        delattr(os, name)
for name in ("AF_UNIX", "SO_REUSEPORT"):
    delattr(socket, name)
setattr(socket, "socketpair", socketpair)  # noqa: B010 - for mypy
setattr(socket.socket, "bind", bind)  # noqa: B010 - for mypy
