"""Listening sockets: made from the options, or inherited from the process that started this one.

    --bind, --uds, --fd     each a socket, or two for a name with an IPv4 and an IPv6 address
    none of them            --host and --port

With several workers, each has TCP sockets of its own on the same address (SO_REUSEPORT): the kernel spreads the
connections evenly, and what waits in a socket's backlog stays there while its worker is replaced. Unix sockets, and
sockets that were inherited, are shared.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any, Final, Self

from asgiws.config.addresses import FD, TCP, UNIX, Address, parse_address
from asgiws.config.options import Config
from asgiws.config.posix import POSIX

with contextlib.suppress(ImportError):  # not POSIX: Unix sockets, which alone have owners, are refused there
    import grp
    import pwd

__all__ = ["CannotListen", "Listeners", "check_addresses"]

_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_AF_UNIX: Final = getattr(socket, "AF_UNIX", None)
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, _AF_UNIX)
# Elsewhere the option exists and does not spread connections.
_REUSE_PORT: Final = sys.platform == "linux"


class CannotListen(Exception):  # noqa: N818 - what happened
    """A listening socket cannot be made; the message is one line that says what to do."""

    def of(self, option: str) -> CannotListen:
        """Return the same error for an address that came from `option` instead of --bind."""
        return CannotListen(str(self).replace("--bind", option))


class Listeners:
    """The listening sockets of one process, or of one worker's slot."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._files: list[tuple[str, int]] = []
        """Unix sockets that were made here: the path, and the inode, by which a replaced file is recognized."""
        self._own: list[socket.socket] = []
        self._own_addresses: list[tuple[int, tuple[object, ...]]] = []
        """Family and address of each of them, also while they are closed."""
        self._shared: list[socket.socket] = []

    @classmethod
    def open(cls, config: Config, *, reuse_port: bool = False) -> Self:
        """Bind and listen. Raises CannotListen; nothing stays open then.

        With `reuse_port`, `again` can make more sockets on the same addresses.
        """
        listeners = cls(config)
        try:
            for option, address in _addresses(config):
                listeners._open_one(option, address, reuse_port=reuse_port and _REUSE_PORT)
        except BaseException:
            listeners.close()
            raise
        return listeners

    def again(self) -> Listeners:
        """Return the sockets of another slot: its own on the same TCP addresses, and the shared ones."""
        more = Listeners(self._config)
        more._shared = self._shared
        more._own_addresses = self._own_addresses
        more.open_own()
        return more

    def open_own(self) -> None:
        """Open the slot's own sockets, if they are closed. Raises CannotListen."""
        if self._own:
            return
        try:
            for family, address in self._own_addresses:
                self._own.append(_listen(family, address, self._config.backlog, reuse_port=True))
        except OSError as error:
            self.close_own()
            raise CannotListen(f"cannot listen for another worker: {_why(error)}") from None

    @property
    def sockets(self) -> list[socket.socket]:
        """All sockets to accept from."""
        return self._own + self._shared

    @property
    def port(self) -> int:
        """The first TCP port; 0 when there is none."""
        names = [listener.getsockname() for listener in self.sockets]
        return next((name[1] for name in names if isinstance(name, tuple)), 0)

    def urls(self) -> list[str]:
        """Return the address of each socket as a URL, for people."""
        scheme = "https" if self._config.ssl_certfile else "http"
        return list(dict.fromkeys(_url(listener, scheme) for listener in self.sockets))

    def close_own(self) -> None:
        """Close the sockets that are not shared: new connections go to those of the other slots."""
        for listener in self._own:
            listener.close()
        self._own.clear()

    def close(self) -> None:
        """Close all, and remove the files of Unix sockets that were made here."""
        # The files first: once the socket is closed, another new file may get its inode.
        for path, inode in self._files:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._files.clear()
        for listener in self.sockets:
            listener.close()

    def _open_one(self, option: str, address: Address, *, reuse_port: bool) -> None:
        if address.kind == FD:
            self._shared.append(_inherited(option, address.fd))
        elif address.kind == UNIX:
            listener = _unix(option, address.path, self._config)
            self._shared.append(listener)
            self._files.append((address.path, os.stat(address.path).st_ino))
        else:
            made = _internet(option, address.host, address.port, self._config.backlog, reuse_port=reuse_port)
            (self._own if reuse_port else self._shared).extend(made)
            if reuse_port:
                self._own_addresses += [(listener.family, listener.getsockname()) for listener in made]


def check_addresses(config: Config) -> None:
    """Check for what `Listeners.open` would refuse before it binds: look up names and owners. Raises CannotListen.

    Descriptors are not checked: this process has not inherited those of the server.
    """
    for option, address in _addresses(config):
        if address.kind == TCP:
            _resolve(option, address.host, address.port)
        elif address.kind == UNIX and config.uds_owner:
            _owner(config.uds_owner)


def _addresses(config: Config) -> list[tuple[str, Address]]:
    """Return each address with the option that it comes from."""
    addresses = [("--bind", parse_address(text)) for text in config.bind]
    if config.uds:
        addresses.append(("--uds", Address(UNIX, path=config.uds)))
    if config.fd >= 0:
        addresses.append(("--fd", Address(FD, fd=config.fd)))
    for place, (option, address) in enumerate(addresses):
        # Port 0 is another one each time.
        if (address.kind != TCP or address.port) and address in (before for _, before in addresses[:place]):
            raise CannotListen(f"{option}: {address} was given twice, allowed: once")
    return addresses or [("--host", Address(TCP, host=config.host, port=config.port))]


def _url(listener: socket.socket, scheme: str) -> str:
    name = listener.getsockname()
    if listener.family == _AF_UNIX:
        # One in the abstract namespace (unix(7)) comes as bytes.
        return f"unix:{name}" if isinstance(name, str) else f"unix:@{os.fsdecode(name[1:])}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}"


# ---- TCP


def _resolve(option: str, host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Return the family and the socket address of each address of a host name."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        # UnicodeError: an empty label, or one of more than 63 characters
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise CannotListen(f"{option}: {host!r} is no address of this machine ({why})") from None
    # A machine may name itself ::1 and have no IPv6; its other address will do. So IPv6 comes last.
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    return sorted(addresses, key=lambda entry: entry[0] == socket.AF_INET6)


def _internet(option: str, host: str, port: int, backlog: int, *, reuse_port: bool) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    for family, address in _resolve(option, host, port):
        # With port 0 a name that has two addresses gets one port for both.
        bound = listeners[0].getsockname()[1] if port == 0 and listeners else port
        try:
            if reuse_port and bound:
                # Another server with SO_REUSEPORT on this address would not be noticed, and get half the connections.
                _bind(family, (address[0], bound, *address[2:])).close()
            listeners.append(_listen(family, (address[0], bound, *address[2:]), backlog, reuse_port=reuse_port))
        except OSError as error:
            if listeners and family == socket.AF_INET6 and error.errno in _NO_SUCH_FAMILY:
                continue
            for opened in listeners:
                opened.close()
            where = f"{host or 'all addresses'} port {port}"
            raise CannotListen(f"cannot listen on {where}: {_why(error)}; {_advice(option, error)}") from None
    return listeners


def _advice(option: str, error: OSError) -> str:
    """Return what to do about an address that cannot be bound."""
    if error.errno == errno.EADDRNOTAVAIL:
        one = "--bind" if option == "--bind" else "--host"
        return f"choose an address of this machine with {one}: 127.0.0.1 for clients on it, 0.0.0.0 for all clients"
    other = f"choose another with {'--bind' if option == '--bind' else '--host and --port'}"
    if error.errno == errno.EACCES:
        return f"{other}, or allow it: ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return f"{other}, or stop what has it" if error.errno == errno.EADDRINUSE else other


def _bind(family: int, address: tuple[object, ...], *, reuse_port: bool = False) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if POSIX:  # elsewhere it would let another program take the address
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _listen(family: int, address: tuple[object, ...], backlog: int, *, reuse_port: bool = False) -> socket.socket:
    listener = _bind(family, address, reuse_port=reuse_port)
    try:
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


# ---- Unix


def _unix(option: str, path: str, config: Config) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)  # left over from a process that was killed
        listener.bind(path)
        try:
            # No client can connect before it listens, so none can use the file before it has its rights.
            _set_rights(path, config)
            listener.listen(config.backlog)
        except BaseException:
            os.unlink(path)
            raise
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = f"{_why(error)}; choose another path"
        if os.path.islink(path) and not os.path.exists(path):
            # Not removed: it may be there for the socket to be made at its target.
            why = f"is a symbolic link to {os.readlink(path)!r}, which is not there; remove it, or choose another path"
        raise CannotListen(f"{option}: {path}: {why}") from None
    except CannotListen:
        listener.close()
        raise
    return listener


def _is_stale(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode) and not _answers(path)
    except FileNotFoundError:
        return False


def _answers(path: str) -> bool:
    """Return whether a process listens; one whose backlog is full does, with another error than a refusal."""
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


def _set_rights(path: str, config: Config) -> None:
    if config.uds_mode:
        os.chmod(path, int(config.uds_mode, 8))
    if not config.uds_owner:
        return
    uid, gid = _owner(config.uds_owner)
    try:
        os.chown(path, uid, gid)
    except OSError as error:
        raise CannotListen(f"--uds-owner: {config.uds_owner}: {_why(error)}; only root may change the owner") from None


def _owner(text: str) -> tuple[int, int]:
    """Return the numbers of user and group; -1 for one that is not named. Raises CannotListen."""
    user, _, group = text.partition(":")
    try:
        uid = _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid if user else -1
        gid = _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        raise CannotListen(f"--uds-owner: {text} is not known here, allowed: user:group, user or :group") from None
    return uid, gid


def _number(text: str) -> int:
    """Return the number of a user or group. Raises KeyError for one out of range; the highest means "unchanged"."""
    if int(text) >= 2**32 - 1:
        raise KeyError(text)
    return int(text)


# ---- inherited


def _inherited(option: str, fd: int) -> socket.socket:
    try:
        if fd >= 2**31:  # Python would use its lower bits
            raise OSError(errno.EBADF, "")
        listener = socket.socket(fileno=fd)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(f"{option}: {fd} is no socket ({_why(error)})") from None
    if not listening or listener.type != socket.SOCK_STREAM or listener.family not in _FAMILIES:
        fault = "is a socket of another kind" if listening else "is a socket that does not listen"
        listener.detach()
        raise CannotListen(f"{option}: {fd} {fault}, allowed: a listening TCP or Unix stream socket")
    # Programs that the application starts have no part in it (sd_listen_fds(3) does the same).
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
