"""Certificates: the `ssl.SSLContext` of new connections, made from files, and made again when the files change.

A connection keeps the context that it started with, so a reload disturbs none. The sweep checks the files once a
second: three calls of stat(2), about 5 us. inotify would have to watch folders and follow symbolic links (which is how
Kubernetes and certbot replace files), exists only on Linux, and is not in the standard library.

The `tls` extension of ASGI is made here, too (checklist E8).
"""

from __future__ import annotations

import os
import re
import ssl
import time
from typing import Any, Final, cast

from asgiws.config.options import Config
from asgiws.protocol.printable import escape
from asgiws.server.sockets.listeners import CannotListen
from asgiws.server.tls.distinguished_name import Name, encode_name
from asgiws.server.tls.expiry import expiry_of
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

_DAY_S: Final = 24 * 3600.0
_WARNING_DAYS: Final = 14

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The certificates of one server."""

    __slots__ = (
        "_ciphers", "_config", "_expires_s", "_fault", "_is_logged", "_paths", "_server_cert", "_stamp", "_warned_days",
        "context", "failed_reloads",
    )  # fmt: skip

    def __init__(self, config: Config) -> None:
        """Load the files. Raises CannotListen when that is not possible."""
        self._config = config
        self._paths = [path for path in (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs) if path]
        self._fault = ""
        """Why the last load failed; empty when it did not."""
        self._is_logged = False
        """Whether the log has it."""
        self._expires_s: float | None = None
        self._warned_days: int | None = None
        self.failed_reloads = 0
        """Faults that were logged."""
        self._stamp: _Stamp = ()
        self._ciphers: dict[str, int] = {}
        self._server_cert = ""
        self.context: ssl.SSLContext
        """For new connections."""
        self._load()

    @property
    def days_left(self) -> float | None:
        """Days until the certificate expires, negative after that; None if that cannot be read."""
        return None if self._expires_s is None else (self._expires_s - time.time()) / _DAY_S

    def reload(self) -> None:
        """Load the files again. If that fails, log why and keep the previous certificates."""
        self._load_again()
        self._log_fault()

    def on_second(self) -> None:
        """Reload if the files have changed, and warn each day when the certificate expires soon.

        A certificate and its key are replaced one after the other, and between the two they do not match. So a fault is
        logged once, and only if it is still there a second later; until then it is tried again each second.
        """
        self._warn_of_expiry()
        if not self._fault and _stamp_of(self._paths) == self._stamp:
            return
        before = self._fault
        self._load_again()
        if self._fault != before:
            self._is_logged = False
        elif not self._is_logged:
            self._log_fault()

    def _warn_of_expiry(self) -> None:
        left = self.days_left
        if left is None or left >= _WARNING_DAYS or self._warned_days == int(left):
            return
        self._warned_days = int(left)
        when = f"expires in {int(left)} days" if left >= 0 else "has expired"
        LOG.warning("certificate %s %s", escape(self._config.ssl_certfile), when)

    def _load_again(self) -> None:
        try:
            self._load()
        except CannotListen as fault:
            self._fault = str(fault)
        else:
            self._fault = ""
            LOG.info("certificates reloaded from %s", escape(self._config.ssl_certfile))

    def _log_fault(self) -> None:
        if self._fault:
            self._is_logged = True
            self.failed_reloads += 1
            LOG.error("certificates were not reloaded, the previous ones stay in use: %s", self._fault)

    def _load(self) -> None:
        # Before the files are read: a change in between is found the next time.
        stamp = _stamp_of(self._paths)
        self._stamp = stamp
        context, server_cert = _make_context(self._config)
        self._server_cert = server_cert
        self._expires_s, self._warned_days = expiry_of(server_cert), None
        self._ciphers = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
        self.context = context

    def extension(self, tls: ssl.SSLObject) -> dict[str, Any]:
        """Return the `tls` extension for a connection whose handshake is done."""
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
    """Return OpenSSL's reason in words; certificates have a second one."""
    words = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"{words}: {error.verify_message}"
    return words


def _stamp_of(paths: list[str]) -> _Stamp:
    """Return what changes when a file does, also when a symbolic link to it is replaced."""
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
    """Return the context, and the certificate that it presents. Raises CannotListen."""
    # No compression and the server's order of ciphers are defaults of this protocol.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.ssl_min_version]
    # Else a client of TLS 1.2 could make the server repeat the costly part of a handshake.
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
        # Without a password of ours, OpenSSL asks the terminal.
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
    except (OSError, ValueError) as error:  # a file was removed meanwhile; a password of over 1,024 bytes
        raise CannotListen(f"{key_option}: {key_path}: {error}") from None
    return certificate[0]


def _read(option: str, path: str) -> str:
    try:
        with open(path, encoding="latin-1") as file:
            return file.read()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CannotListen(f"{option}: {path}: {why}") from None
