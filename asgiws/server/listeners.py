"""Listening sockets: made from the options, or inherited from whoever started the process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from asgiws.config import Config

__all__ = ["CannotListen", "address_of", "close_listeners", "make_listeners"]


_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class CannotListen(Exception):  # noqa: N818 - what happened
    """A socket cannot be made; the message is one line that says what to do."""


def make_listeners(config: Config) -> list[socket.socket]:
    """Bind and listen. Raises CannotListen; nothing stays open then."""
    if config.fd >= 0:
        return [_inherited(config.fd)]
    if config.uds:
        return [_unix(config.uds, config.backlog)]
    return _internet(config.host, config.port, config.backlog)


def address_of(listener: socket.socket) -> str:
    """Give the URL that a listener answers, for people."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def close_listeners(listeners: list[socket.socket], config: Config) -> None:
    """Close listeners, and remove the file of a Unix socket that was made here; that of an inherited one stays."""
    for listener in listeners:
        listener.close()
    if listeners and config.uds and config.fd < 0:
        with contextlib.suppress(OSError):
            Path(config.uds).unlink()


def _internet(host: str, port: int, backlog: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        # UnicodeError: an empty label, or one of more than 63 characters
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise CannotListen(f"--host: {host!r} is no address of this machine ({why})") from None
    listeners: list[socket.socket] = []
    # A machine may name itself ::1 and have no IPv6; its other address will do. So IPv6 comes last.
    for family, _, _, _, address in sorted(dict.fromkeys(found), key=lambda entry: entry[0] == socket.AF_INET6):
        # With port 0 a name that has two addresses gets one port for both.
        bound = listeners[0].getsockname()[1] if port == 0 and listeners else port
        try:
            listeners.append(_listen(family, (address[0], bound, *address[2:]), backlog))
        except OSError as error:
            if listeners and family == socket.AF_INET6 and error.errno in _NO_SUCH_FAMILY:
                continue
            for opened in listeners:
                opened.close()
            raise CannotListen(
                f"cannot listen on {host} port {port}: {_why(error)}; "
                "choose another with --host and --port, or stop what has it"
            ) from None
    return listeners


def _listen(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _unix(path: str, backlog: int) -> socket.socket:
    try:
        if stat.S_ISSOCK(Path(path).stat().st_mode) and not _answers(path):
            Path(path).unlink()  # left over from a process that was killed
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CannotListen(f"--uds: {path}: {_why(error)}; choose another path") from None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise CannotListen(f"--uds: {path}: {_why(error)}; choose another path") from None
    return listener


def _answers(path: str) -> bool:
    """Tell whether a process listens; one whose backlog is full does, and gives another error than a refusal."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    finally:
        probe.close()
    return True


def _inherited(fd: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(f"--fd: {fd} is no socket ({_why(error)})") from None
    if not listening:
        listener.detach()
        raise CannotListen(f"--fd: {fd} is a socket that does not listen, allowed: a listening one")
    listener.setblocking(False)
    return listener


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
