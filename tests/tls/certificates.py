"""Certificates for tests, and clients that use them."""

from __future__ import annotations

import contextlib
import ssl
import struct
from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.raw import RawClient

PASSWORD = "correct horse"


class Issued:
    """A certificate and its key, as files."""

    def __init__(
        self,
        authority: trustme.CA,
        folder: Path,
        name: str,
        organization: str | None,
        common_name: str | None,
        not_after: datetime | None,
    ) -> None:
        issued = authority.issue_cert(
            name, organization_name=organization, common_name=common_name, not_after=not_after
        )
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.both = folder / f"{name}-both.pem"
        self.pem = issued.cert_chain_pems[0].bytes().decode()
        self.certificate.write_text(self.pem)
        self.key.write_bytes(issued.private_key_pem.bytes())
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.both))

    @property
    def options(self) -> dict[str, str]:
        """The options of a server that shows it."""
        return {"ssl_certfile": str(self.certificate), "ssl_keyfile": str(self.key)}

    @property
    def flags(self) -> list[str]:
        return ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]

    def encrypted_key(self) -> Path:
        """The key, encrypted with PASSWORD."""
        key = load_pem_private_key(self.key.read_bytes(), None)
        path = self.key.with_suffix(".encrypted")
        encryption = BestAvailableEncryption(PASSWORD.encode())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return path

    def replace_with(self, other: Issued) -> None:
        """Put another certificate and its key into these files, one after the other, as programs do that renew them."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


class Authority:
    """A certificate authority of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self,
        name: str,
        folder: Path | None = None,
        *,
        organization: str | None = None,
        common_name: str | None = None,
        not_after: datetime | None = None,
    ) -> Issued:
        return Issued(self._ca, folder or self.folder, name, organization, common_name, not_after)

    def client_context(self, client: Issued | None = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority, and shows a certificate of its own if it has one."""
        context = ssl.create_default_context(cafile=str(self.file))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context


class TLSClient(RawClient):
    """A raw client over TLS; the end of what it reads has to be a close_notify, not a mere end of the TCP stream."""

    socket: ssl.SSLSocket

    def __init__(
        self, port: int, context: ssl.SSLContext, *, before: bytes = b"", receive_buffer: int | None = None
    ) -> None:
        """`before` goes out as it is, before the handshake."""
        super().__init__(port, receive_buffer=receive_buffer)
        try:
            self.send(before)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost", suppress_ragged_eofs=False)
        except OSError:
            self.socket.close()
            raise


class HandmadeTLS:
    """A TLS client whose bytes go through our hands: they can be split, held back or left out."""

    def __init__(
        self, below: RawClient, context: ssl.SSLContext, *, piece_bytes: int = 65536, before: bytes = b""
    ) -> None:
        """`before` goes out as it is, together with the first bytes of the handshake."""
        self.below = below
        self._before = before
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._piece_bytes = piece_bytes

    def flush(self) -> None:
        data, self._before = self._before + self._outgoing.read(), b""
        for begin in range(0, len(data), self._piece_bytes):
            self.below.send(data[begin : begin + self._piece_bytes])

    def begin(self) -> None:
        """Say hello, and wait until the server has begun to answer."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self._wait()

    def shake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._wait()
            else:
                self.flush()
                return

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def end_sending(self) -> None:
        """Send close_notify; the other direction stays open."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()

    def read_until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            try:
                data += self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._wait()
        return data

    def _wait(self) -> None:
        self.flush()
        data = self.below.socket.recv(65536)
        if not data:
            raise EOFError("the server closed")
        self._incoming.write(data)


def hello(context: ssl.SSLContext) -> bytes:
    """The first bytes of a handshake (a ClientHello) of a client that says nothing more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    data = outgoing.read()
    # RFC 8446 §5.1: handshake, version, length
    assert data[0] == 0x16
    assert len(data) == 5 + struct.unpack("!H", data[3:5])[0]
    return data
