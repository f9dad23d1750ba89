"""The one table of options: `Config`, whose fields are the options.

A field's name is its spelling everywhere: `max_message_size` is the flag `--max-message-size`, the environment
variable `ASGIWS_MAX_MESSAGE_SIZE`, the key of a TOML file, the keyword of `asgiws.run` and `asgiws.serve`, and the row
of `--help` and of the README's table. Its metadata, an `Option` of `asgiws.config.option`, holds kind, unit, help and
the other spellings that are taken. `asgiws.config.sources` reads the places where values come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from asgiws.config.addresses import check_address
from asgiws.config.option import (
    YES_NO,
    Option,
    OptionError,
    check_header,
    check_mode,
    check_origin,
    check_owner,
    check_path,
    check_token,
    did_you_mean,
    spelled,
)
from asgiws.protocol.http.forwarded import FOR, FORWARDED, FORWARDED_FIELDS, PREFIX, PROTO
from asgiws.protocol.limits import KIB, Limits
from asgiws.protocol.trusted_networks import check_network
from asgiws.protocol.websocket.closing import is_close_code
from asgiws.protocol.websocket.deflate import DeflateSettings

__all__ = ["OPTIONS", "Config", "unknown_option"]


def _check_forwarded_fields(value: str) -> str | None:
    if set(_names(value)) <= set(FORWARDED_FIELDS):
        return None
    return ", ".join(name.decode() for name in FORWARDED_FIELDS)


def _names(value: str) -> list[bytes]:
    return [name.strip().lower().encode() for name in value.split(",") if name.strip()]


def _check_admin(value: str) -> str | None:
    return "HOST:PORT, [::1]:PORT or unix:/path" if value.startswith("fd:") or check_address(value) else None


def _option(kind: str, default: Any, text: str, **known: Any) -> Any:
    return field(default=default, repr="secret" not in known, metadata={"option": Option(kind, text, **known)})


_serving: Final = partial(_option, group="Serving")
_logs: Final = partial(_option, group="Logs")
_tls: Final = partial(_option, group="TLS")
_proxies: Final = partial(_option, group="Proxies")
_workers: Final = partial(_option, group="Workers")
_admin: Final = partial(_option, group="Admin")
_development: Final = partial(_option, group="Development")
_compression: Final = partial(_option, group="Compression")
_deadline: Final = partial(_option, "seconds", group="Deadlines")
_limit: Final = partial(_option, group="Limits")

_DEFAULTS: Final = Limits()
_DEFLATE: Final = DeflateSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective options of a server. Raises OptionError for a value that is not allowed."""

    # ---- Serving
    host: str = _serving("text", "127.0.0.1", "address or name to listen on")
    port: int = _serving("count", 8000, "TCP port; 0 takes a free one", most=65535)
    bind: tuple[str, ...] = _serving(
        "list", (), "host:port, [::]:port, unix:/path or fd:3 to listen on, instead of host and port; may be repeated",
        check=check_address,
    )  # fmt: skip
    uds: str = _serving("text", "", "path of a Unix socket to listen on, instead of host and port")
    uds_mode: str = _serving("text", "", "mode of the Unix sockets, such as 660; none: as the umask has it",
                             check=check_mode)  # fmt: skip
    uds_owner: str = _serving("text", "", "user:group that the Unix sockets are given to", check=check_owner)
    fd: int = _serving("count", -1, "file descriptor of a listening socket, instead of host and port", least=-1)
    backlog: int = _serving("count", 2048, "connections that the kernel holds until they are accepted", least=1)
    app_dir: str = _serving("text", "", "folder to import the application from; none: the current one")
    factory: bool = _serving("flag", False, "the attribute is a function that makes the application")
    env_file: str = _serving("text", "", "file of NAME=value lines, for the application and for ASGIWS_ variables")
    lifespan: str = _serving("choice", "auto", "lifespan events of ASGI", choices=("auto", "on", "off"))
    loop: str = _serving("choice", "auto", "event loop; auto takes uvloop when it is installed",
                         choices=("auto", "asyncio", "uvloop"))  # fmt: skip
    root_path: str = _serving("text", "", "path under which a proxy serves the application (ASGI root_path)")
    server_header: bool = _serving("flag", True, "send Server")
    date_header: bool = _serving("flag", True, "send Date")
    header: tuple[str, ...] = _serving(
        "list", (), "Name: value to send with every response; may be repeated; in a variable each on its own line",
        aliases=("headers",), separator="\n", check=check_header,
    )  # fmt: skip
    allowed_origins: tuple[str, ...] = _serving(
        "list", (), "origins whose pages may open a WebSocket, exact or *.example.com; empty: all", check=check_origin
    )
    shutdown_code: int = _serving("count", 1012, "close code for WebSockets when the server stops",
                                  least=1000, most=4999)  # fmt: skip

    # ---- Workers
    workers: int = _workers("count", 0, "worker processes, under a supervisor; 0: one process and no supervisor",
                            most=1024, variables=("WEB_CONCURRENCY",))  # fmt: skip
    worker_timeout: float = _workers("seconds", 30, "without a heartbeat until a worker is replaced; 0: for ever",
                                     aliases=("timeout-worker-healthcheck",))  # fmt: skip
    worker_start_timeout: float = _workers("seconds", 120, "for a worker to start, until it is ended; 0: for ever")
    worker_memory: int = _workers("bytes", 0, "resident memory at which a process is replaced; 0: no limit")
    worker_lifetime: float = _workers("seconds", 0, "until a process is replaced, spread by a tenth; 0: no limit")
    max_requests: int = _workers("count", 0, "requests and WebSockets after which a process is replaced; 0: no limit",
                                 aliases=("limit-max-requests",))  # fmt: skip
    max_requests_jitter: int = _workers("count", 0, "added to --max-requests at random, at most this many",
                                        aliases=("limit-max-requests-jitter",))  # fmt: skip

    # ---- Logs
    log_level: str = _logs("choice", "info", "least level that is logged",
                           choices=("critical", "error", "warning", "info", "debug"),
                           also={"trace": "debug"})  # fmt: skip
    access_log: bool = _logs("flag", True, "a line for each HTTP response, and for each WebSocket's begin and end")
    log_format: str = _logs("choice", "text", "lines for reading, or JSON objects", choices=("text", "json"))
    use_colors: str = _logs("choice", "auto", "colours in text; auto: on a terminal, and without NO_COLOR",
                            choices=("auto", "yes", "no"),
                            also={word: "yes" if yes else "no" for word, yes in YES_NO.items()})  # fmt: skip
    log_file: str = _logs("text", "", "file to append to instead of standard error; SIGUSR1 opens it again")
    log_config: str = _logs("text", "", "TOML or JSON file with a dictConfig of Python's logging, in place of the "
                                        "format, file and colours above",
                            allowed="the path of a TOML or JSON file; a program that calls asgiws.run may leave it "
                                    "out, and call logging.config.dictConfig before")  # fmt: skip

    # ---- TLS
    ssl_certfile: str = _tls("text", "", "PEM file of the certificate and its chain; makes every address https and wss")
    ssl_keyfile: str = _tls("text", "", "PEM file of its private key; none: in the same file")
    ssl_keyfile_password: str = _tls("text", "", "password of the private key", secret=True)
    ssl_ca_certs: str = _tls("text", "", "PEM file of the authorities that client certificates come from")
    ssl_client_cert: str = _tls("choice", "none", "client certificates", choices=("none", "optional", "required"),
                                aliases=("ssl-cert-reqs",), also={"0": "none", "1": "optional", "2": "required"},
                                )  # fmt: skip
    ssl_ciphers: str = _tls("text", "", "ciphers of TLS 1.2, as OpenSSL writes them; none: Python's choice")
    ssl_min_version: str = _tls("choice", "1.2", "least version of TLS", choices=("1.2", "1.3"))
    ssl_handshake_timeout: float = _tls("seconds", 10, "for a TLS handshake, from the connection", least=0.01)

    # ---- Proxies
    proxy_headers: bool = _proxies("flag", True, "believe trusted proxies where a request comes from")
    forwarded_allow_ips: tuple[str, ...] = _proxies(
        "list", ("127.0.0.1", "::1", "unix"),
        "trusted proxies: addresses and networks, unix for Unix sockets, * for everybody", check=check_network,
        variables=("FORWARDED_ALLOW_IPS",),
    )  # fmt: skip
    forwarded_fields: tuple[str, ...] = _proxies(
        "list", (FOR.decode(), PROTO.decode()), "fields that are believed, because every proxy sets or removes "
        "them; also x-forwarded-host and x-forwarded-prefix, and forwarded in place of all but the prefix",
        check=_check_forwarded_fields,
    )  # fmt: skip
    proxy_protocol: bool = _proxies("flag", False, "every connection begins with a PROXY protocol header (v1 or v2)")
    proxy_protocol_allow_ips: tuple[str, ...] = _proxies(
        "list", ("127.0.0.1", "::1"), "proxies that may connect with it: addresses, networks, unix, or * for all",
        check=check_network,
    )  # fmt: skip

    # ---- Compression
    compression: str = _compression(
        "choice", _DEFLATE.mode, "permessage-deflate: one compressor for all, one for each connection, or none",
        choices=("shared", "dedicated", "off"), aliases=("ws-per-message-deflate",),
        also={word: "shared" if yes else "off" for word, yes in YES_NO.items()},
    )  # fmt: skip
    compression_level: int = _compression("count", _DEFLATE.level, "effort of zlib", most=9)
    compression_min_size: int = _compression("bytes", _DEFLATE.min_size_bytes, "shorter messages are sent as they are")
    compression_window_bits: int = _compression("count", _DEFLATE.window_bits, "window of 2^n bytes", least=9, most=15)
    compression_memory_level: int = _compression("count", _DEFLATE.memory_level, "memory of zlib", least=1, most=9)

    # ---- Deadlines
    graceful_timeout: float = _deadline(30, "for open requests and WebSockets to end when the server stops",
                                        aliases=("timeout-graceful-shutdown",))  # fmt: skip
    drain_delay: float = _deadline(0, "on which the server still accepts when told to stop, for a balancer to notice")
    drain_spread: float = _deadline(0, "over which WebSockets are closed when the server stops")
    head_timeout: float = _deadline(10, "for a whole request head, from its first byte or the connection; 0: none")
    body_timeout: float = _deadline(30, "between two pieces of a request body the application waits for; 0: none")
    keep_alive_timeout: float = _deadline(5, "for the next request on a connection; 0: none",
                                          aliases=("timeout-keep-alive",))  # fmt: skip
    handshake_timeout: float = _deadline(30, "for the application to accept or refuse a WebSocket; 0: none")
    close_timeout: float = _deadline(10, "for the answer to a Close, and for the end of a connection", least=0.01)
    write_timeout: float = _deadline(30, "for a client that stopped reading while data waits; 0: none")
    answer_timeout: float = _deadline(1, "for a busy application to answer what came before a Close or a violation")
    idle_timeout: float = _deadline(0, "without a message in either direction; 0: none")
    max_lifetime: float = _deadline(0, "of a WebSocket, then closed with 1001, spread by a tenth; 0: none")
    ping_interval: float = _deadline(20, "without a byte from the client until a ping; 0: no pings",
                                     aliases=("ws-ping-interval",))  # fmt: skip
    ping_timeout: float = _deadline(20, "for a byte from the client after a ping; 0: for ever",
                                    aliases=("ws-ping-timeout",))  # fmt: skip

    # ---- Limits
    max_request_line: int = _limit("bytes", _DEFAULTS.request_line_bytes, "of a request line", least=64)
    max_head_size: int = _limit("bytes", _DEFAULTS.head_bytes, "of a request head", least=256,
                                aliases=("h11-max-incomplete-event-size",))  # fmt: skip
    max_headers: int = _limit("count", _DEFAULTS.header_count, "fields in a request head", least=1)
    max_body_size: int = _limit("bytes", _DEFAULTS.body_bytes, "of a request body; 0: no limit")
    max_message_size: int = _limit("bytes", _DEFAULTS.message_bytes, "of a WebSocket message, inflated", least=1,
                                   aliases=("ws-max-size",))  # fmt: skip
    max_frame_size: int = _limit("bytes", _DEFAULTS.frame_bytes, "of a WebSocket frame; 0: as a message")
    max_fragments: int = _limit("count", _DEFAULTS.fragment_count, "fragments of a message", least=1)
    max_empty_fragments: int = _limit("count", _DEFAULTS.empty_fragment_count, "empty fragments of a message")
    max_inflate_ratio: int = _limit(
        "count", _DEFAULTS.inflate_ratio, "to 1, of a compressed message over 1 MiB; 0: none"
    )
    max_queue: int = _limit("count", _DEFAULTS.inbox_messages, "messages that wait for the application", least=1,
                            aliases=("ws-max-queue",))  # fmt: skip
    max_queue_bytes: int = _limit("bytes", _DEFAULTS.inbox_bytes, "of messages that wait for the application", least=1)
    max_control_rate: int = _limit("count", _DEFAULTS.control_rate, "control frames a second from one client; 0: none")
    max_message_rate: int = _limit("count", 0, "messages a second from one client; 0: no limit")
    max_byte_rate: int = _limit("bytes", 0, "a second from one client; 0: no limit")
    write_high_water: int = _limit("bytes", 64 * KIB, "unsent data at which send() begins to wait")
    write_low_water: int = _limit("bytes", 16 * KIB, "unsent data at which send() goes on")
    max_connections: int = _limit("count", 0, "open connections, WebSockets counted; 0: no limit",
                                  aliases=("limit-concurrency",))  # fmt: skip
    max_connections_per_address: int = _limit("count", 0, "open connections of one client address; 0: no limit")
    handshake_rate: int = _limit("count", 0, "WebSocket handshakes a second from one address; 0: no limit")

    # ---- Admin
    admin: str = _admin("text", "", "HOST:PORT or unix:/path for metrics, health and the live view; none: nowhere",
                        check=_check_admin)  # fmt: skip
    admin_token: str = _admin("text", "", "who presents it there as a bearer token may see and close connections",
                              check=check_token, secret=True)  # fmt: skip
    health_path: str = _admin("text", "", "path on the public port that tells whether the server is ready; none: no",
                              check=check_path)  # fmt: skip

    # ---- Development
    reload: bool = _development("flag", False, "start the application anew when its files change")
    reload_dir: tuple[str, ...] = _development("list", (), "folder to watch; may be repeated; none: --app-dir",
                                               aliases=("reload-dirs",))  # fmt: skip
    reload_include: tuple[str, ...] = _development(
        "list", (), "pattern of files to watch beside *.py, such as *.html or conf/*.yaml; may be repeated",
        aliases=("reload-includes",),
    )  # fmt: skip
    reload_exclude: tuple[str, ...] = _development("list", (), "pattern of files and folders that are not watched",
                                                   aliases=("reload-excludes",))  # fmt: skip
    reload_delay: float = _development("seconds", 0.25, "between two looks at the files, without watchfiles",
                                       least=0.01)  # fmt: skip

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.convert(getattr(self, name)))
        if self.write_low_water > self.write_high_water:
            raise OptionError(
                f"--write-low-water: {self.write_low_water} was given, allowed: at most --write-high-water, "
                f"which is {self.write_high_water}"
            )
        if self.drain_spread > self.graceful_timeout:
            raise OptionError(
                f"--drain-spread: {self.drain_spread:g} s was given, allowed: at most --graceful-timeout, "
                f"which is {self.graceful_timeout:g} s"
            )
        for name in ("log_file", "log_format"):
            if self.log_config and getattr(self, name) not in ("", "text"):
                raise OptionError(
                    f"{spelled(name)}: {getattr(self, name)!r} was given beside --log-config, allowed: one of the two; "
                    "the file says where lines go and what they look like"
                )
        if not is_close_code(self.shutdown_code):
            raise OptionError(
                f"--shutdown-code: {self.shutdown_code} was given, allowed: 1000-1003, 1007-1014, 3000-4999"
            )
        names = self.forwarded_names()
        if FORWARDED in names and not names <= {FORWARDED, PREFIX}:
            raise OptionError(
                f"--forwarded-fields: {', '.join(self.forwarded_fields)} was given, allowed: either forwarded or "
                "x-forwarded-for, -proto and -host, because a client can send the ones that its proxy does not set"
            )

        self._check_tls()

    def _check_tls(self) -> None:
        """Refuse what would not be in force. Raises OptionError."""
        if not self.ssl_certfile:
            for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_client_cert", "ssl_ciphers"):
                if getattr(self, name) not in ("", "none"):
                    raise OptionError(f"{spelled(name)} was given without --ssl-certfile, allowed: with it, for TLS")
        elif self.ssl_client_cert == "none" and self.ssl_ca_certs:
            raise OptionError(
                "--ssl-ca-certs was given but no client certificates are asked for, allowed: with --ssl-client-cert "
                "optional or required; the server's own chain belongs into --ssl-certfile"
            )
        elif self.ssl_client_cert != "none" and not self.ssl_ca_certs:
            raise OptionError(
                f"--ssl-client-cert {self.ssl_client_cert} was given without --ssl-ca-certs, allowed: with the file of "
                "the authorities that they come from"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Config:
        """Make a Config from keywords. Raises OptionError for an unknown one too."""
        for name in options:
            if name not in OPTIONS:
                raise unknown_option(name)
        return cls(**{name: OPTIONS[name].convert(value) for name, value in options.items()})

    def limits(self) -> Limits:
        """Give the limits of the protocol floor."""
        return Limits(
            request_line_bytes=self.max_request_line,
            head_bytes=self.max_head_size,
            header_count=self.max_headers,
            body_bytes=self.max_body_size,
            message_bytes=self.max_message_size,
            frame_bytes=self.max_frame_size,
            fragment_count=self.max_fragments,
            empty_fragment_count=self.max_empty_fragments,
            inbox_messages=self.max_queue,
            inbox_bytes=self.max_queue_bytes,
            inflate_ratio=self.max_inflate_ratio,
            control_rate=self.max_control_rate,
            message_rate=self.max_message_rate,
            byte_rate=self.max_byte_rate,
        )

    def forwarded_names(self) -> frozenset[bytes]:
        """Give the names of the fields that are believed when a trusted proxy sends them."""
        return frozenset(name for value in self.forwarded_fields for name in _names(value))

    def deflate_settings(self) -> DeflateSettings:
        """Give the settings of permessage-deflate."""
        return DeflateSettings(
            mode=self.compression,
            level=self.compression_level,
            min_size_bytes=self.compression_min_size,
            window_bits=self.compression_window_bits,
            memory_level=self.compression_memory_level,
        )


OPTIONS: Final[Mapping[str, Option]] = {
    item.name: dataclasses.replace(item.metadata["option"], name=item.name) for item in dataclasses.fields(Config)
}


def unknown_option(name: str) -> OptionError:
    """Give the error for a name that is no option, with the nearest one that is."""
    flag = name.lower().replace("_", "-")
    meant = next((known for known, option in OPTIONS.items() if flag in option.aliases), flag.replace("-", "_"))
    return OptionError(f"{name}: there is no such option; {did_you_mean(meant, OPTIONS)}")
