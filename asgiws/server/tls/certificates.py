"""Certificates: the `ssl.SSLContext` of new connections, made from files, and made again when the files change.

A connection keeps the context with which it began, so a reload disturbs none. The files are looked at once a second by
the sweep: three calls of stat(2), about 5 us. inotify would have to watch folders and follow symbolic links (which is
how Kubernetes and certbot replace files), does not exist elsewhere, and is not in the standard library.

What the `tls` extension of ASGI tells of a connection is made here too (checklist E8).
"""

from __future__ import annotations

import os
import re
import ssl
from typing import Any, Final, cast

from asgiws.config.options import Config
from asgiws.protocol.printable import escape
from asgiws.server.sockets.listeners import CannotListen
from asgiws.server.tls.distinguished_name import Name, encode_name
from asgiws.telemetry.logs import LOG

__all__ = ["Certificates", "reason_of"]

_CERTIFICATE: Final = re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----.*?-----END [A-Z0-9 ]+-----\n?", re.S)
_KEY: Final = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_CLIENT_CERTIFICATES: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# RFC 8446 §4.2.1, as `ssl` names them
_VERSION_NUMBERS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The certificates of one server."""

    __slots__ = ("_ciphers", "_config", "_fault", "_is_told", "_paths", "_server_cert", "_stamp", "context")

    def __init__(self, config: Config) -> None:
        """Load the files. Raises CannotListen when that is not possible."""
        self._config = config
        self._paths = [path for path in (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs) if path]
        self._fault = ""
        """Why the files could not be loaded the last time; empty when they were."""
        self._is_told = False
        """Whether the log has it."""
        self._stamp: _Stamp = ()
        self._ciphers: dict[str, int] = {}
        self._server_cert = ""
        self.context: ssl.SSLContext
        """For new connections."""
        self._load()

    def reload(self) -> None:
        """Load the files again; when that is not possible, say why and go on with what there is."""
        self._load_again()
        self._tell_fault()

    def on_second(self) -> None:
        """Reload if the files have changed.

        A certificate and its key are replaced one after the other, and between the two they do not match. So a fault is
        told once, and only when it is still there a second later; meanwhile each second tries again.
        """
        if not self._fault and _stamp_of(self._paths) == self._stamp:
            return
        before = self._fault
        self._load_again()
        if self._fault != before:
            self._is_told = False
        elif not self._is_told:
            self._tell_fault()

    def _load_again(self) -> None:
        try:
            self._load()
        except CannotListen as fault:
            self._fault = str(fault)
        else:
            self._fault = ""
            LOG.info("certificates reloaded from %s", escape(self._config.ssl_certfile))

    def _tell_fault(self) -> None:
        if self._fault:
            self._is_told = True
            LOG.error("certificates were not reloaded, those of before stay: %s", self._fault)

    def _load(self) -> None:
        # Before the files are read: a change that comes between is found the next time.
        stamp = _stamp_of(self._paths)
        self._stamp = stamp
        context, server_cert = _make_context(self._config)
        self._server_cert = server_cert
        self._ciphers = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
        self.context = context

    def extension(self, tls: ssl.SSLObject) -> dict[str, Any]:
        """Give the `tls` extension for a connection whose handshake is done."""
        leaf = tls.getpeercert(binary_form=True)
        chain: list[bytes] = []
        if leaf is not None:
            # Python 3.13; a session that was resumed has no chain
            verified = getattr(tls, "get_verified_chain", None)
            chain = (verified() if verified is not None else None) or [leaf]
        cipher, version = tls.cipher(), tls.version()
        subject = (tls.getpeercert() or {}).get("subject")
        return {
            "server_cert": self._server_cert,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain],
            "client_cert_name": None if leaf is None else encode_name(cast("Name", subject or ())),
            "tls_version": _VERSION_NUMBERS.get(version or ""),
            "cipher_suite": self._ciphers.get(cipher[0]) if cipher is not None else None,
        }


def reason_of(error: ssl.SSLError) -> str:
    """Give OpenSSL's reason as words; certificates have a second one."""
    words = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"{words}: {error.verify_message}"
    return words


def _stamp_of(paths: list[str]) -> _Stamp:
    """Give what changes when a file does: also when a symbolic link to it is turned."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)


def _make_context(config: Config) -> tuple[ssl.SSLContext, str]:
    """Make the context, and give the certificate that it shows. Raises CannotListen."""
    # No compression and the server's order of ciphers are what this protocol has by itself.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.ssl_min_version]
    # A client could make the server repeat the costly part of a handshake of TLS 1.2 again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if config.ssl_ciphers:
        try:
            context.set_ciphers(config.ssl_ciphers)
        except ssl.SSLError:
            raise CannotListen(
                f"--ssl-ciphers: {config.ssl_ciphers!r} names no cipher of TLS 1.2, "
                "allowed: OpenSSL's cipher lists such as ECDHE+AESGCM"
            ) from None
    server_cert = _load_certificate(context, config)
    if config.ssl_ca_certs:
        if _CERTIFICATE.search(_read("--ssl-ca-certs", config.ssl_ca_certs)) is None:
            raise CannotListen(f"--ssl-ca-certs: {config.ssl_ca_certs} has no certificate in PEM form")
        try:
            context.load_verify_locations(config.ssl_ca_certs)
        except ssl.SSLError as error:
            raise CannotListen(f"--ssl-ca-certs: {config.ssl_ca_certs}: {reason_of(error)}") from None
        context.verify_mode = _CLIENT_CERTIFICATES[config.ssl_client_cert]
    return context, server_cert


def _load_certificate(context: ssl.SSLContext, config: Config) -> str:
    certificate_path, key_path = config.ssl_certfile, config.ssl_keyfile or config.ssl_certfile
    key_option = "--ssl-keyfile" if config.ssl_keyfile else "--ssl-certfile"
    certificate = _CERTIFICATE.search(_read("--ssl-certfile", certificate_path))
    if certificate is None:
        raise CannotListen(f"--ssl-certfile: {certificate_path} has no certificate in PEM form")
    if _KEY.search(_read(key_option, key_path)) is None:
        hint = "" if config.ssl_keyfile else "; name its file with --ssl-keyfile"
        raise CannotListen(f"{key_option}: {key_path} has no private key in PEM form{hint}")
    asked = False

    def password() -> str:
        # Without this, OpenSSL asks the terminal.
        nonlocal asked
        asked = True
        return config.ssl_keyfile_password

    try:
        context.load_cert_chain(certificate_path, config.ssl_keyfile or None, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"{key_path} is not the key of {certificate_path}"
        elif asked and not config.ssl_keyfile_password:
            why = f"{key_path} is encrypted; give its password with --ssl-keyfile-password"
        elif asked:
            why = f"{key_path}: --ssl-keyfile-password is not its password"
        else:
            why = f"{certificate_path}, {key_path}: {reason_of(error)}"
        raise CannotListen(f"{key_option}: {why}") from None
    except (OSError, ValueError) as error:  # the files went meanwhile; a password of over 1,024 bytes
        raise CannotListen(f"{key_option}: {key_path}: {error}") from None
    return certificate[0]


def _read(option: str, path: str) -> str:
    try:
        with open(path, encoding="latin-1") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CannotListen(f"{option}: {path}: {why}") from None
