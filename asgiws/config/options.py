"""The one table of options: `Config`, whose fields are the options.

A field's name is its spelling everywhere: `max_message_size` is the flag `--max-message-size`, the environment
variable `ASGIWS_MAX_MESSAGE_SIZE`, the key of a TOML file, the keyword of `asgiws.run` and `asgiws.serve`, and the row
of `--help` and of the table in this folder's README. Its metadata, an `Option` of `asgiws.config.option`, holds kind,
unit, help and the other spellings that are taken. `asgiws.config.sources` reads the places where values come from.

To add an option, add a field: everything else derives from it. `common=True` puts it on the first page of the help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from asgiws.config.addresses import check_address
from asgiws.config.broker_url import check_broker_url, redact_broker_url
from asgiws.config.cpus import usable_cpus
from asgiws.config.option import (
    YES_NO,
    Option,
    OptionError,
    check_header,
    check_limit_by,
    check_loop,
    check_mode,
    check_origin,
    check_owner,
    check_path,
    check_token,
    check_topic_prefix,
    did_you_mean,
    parse_limit_by,
    spelled,
)
from asgiws.config.posix import TCP_ALONE, beyond_platform
from asgiws.protocol.http.forwarded import FOR, FORWARDED, FORWARDED_FIELDS, PREFIX, PROTO
from asgiws.protocol.limits import KIB, MIB, Limits
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
_deadline: Final = partial(_option, "seconds", group="Deadlines", unset="off")
_limit: Final = partial(_option, group="Limits")
_topics: Final = partial(_option, group="Topics")

_DEFAULTS: Final = Limits()
_DEFLATE: Final = DeflateSettings()
# as zlib and other servers do: 15 and 8, 12 and 5
_WINDOW_OVER_MEMORY: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective options of a server. Raises OptionError for a value that is not allowed."""

    # ---- Serving
    host: str = _serving("text", "127.0.0.1", "Listen on this address or name", metavar="HOST", common=True)
    port: int = _serving("count", 8000, "Listen on this TCP port; 0: on a free one", metavar="PORT", most=65535,
                         common=True)  # fmt: skip
    bind: tuple[str, ...] = _serving(
        "list", (), "Listen on HOST:PORT, [::1]:PORT, unix:/path or fd:3",
        metavar="ADDRESS", check=check_address, unset="--host and --port", common=True,
    )  # fmt: skip
    uds: str = _serving("text", "", "Listen on a Unix socket at this path", metavar="FILE", common=True)
    uds_mode: str = _serving("text", "", "File mode of the Unix sockets, such as 660", metavar="MODE",
                             unset="from the umask", check=check_mode)  # fmt: skip
    uds_owner: str = _serving("text", "", "Owner of the Unix sockets", metavar="USER:GROUP", unset="the server's user",
                              check=check_owner)  # fmt: skip
    fd: int = _serving("count", -1, "Listen on the inherited socket with this file descriptor", metavar="FD", least=-1)
    backlog: int = _serving("count", 2048, "Connections that the kernel queues until they are accepted", least=1)
    app_dir: str = _serving("text", "", "Import the application from this folder", metavar="FOLDER",
                            unset="current", common=True)  # fmt: skip
    factory: bool = _serving("flag", False, "Call module:attribute to get the application", common=True)
    env_file: str = _serving("text", "", "Read environment variables from this file", metavar="FILE",
                             common=True)  # fmt: skip
    lifespan: str = _serving("choice", "auto", "Run ASGI lifespan events; auto: if the application supports them",
                             choices=("auto", "on", "off"))  # fmt: skip
    loop: str = _serving("choice", "auto", "Event loop; auto: uvloop if installed, else asyncio; or that of a factory",
                         metavar="auto|asyncio|uvloop|MODULE:FACTORY", choices=("auto", "asyncio", "uvloop"),
                         check=check_loop)  # fmt: skip
    root_path: str = _serving("text", "", "Path under which a proxy serves the application (ASGI root_path)",
                              metavar="PATH")  # fmt: skip
    server_header: bool = _serving("flag", True, "Send the Server header")
    date_header: bool = _serving("flag", True, "Send the Date header")
    header: tuple[str, ...] = _serving(
        "list", (), "Send this header with every response; in a variable, one header per line",
        metavar="'NAME: VALUE'", aliases=("headers",), separator="\n", check=check_header,
    )  # fmt: skip
    sendfile: bool = _serving("flag", False, "Let applications send files by name or descriptor "
                              "(http.response.pathsend, zerocopysend); all middleware has to support it")  # fmt: skip
    allowed_origins: tuple[str, ...] = _serving(
        "list", (), "Accept WebSockets only from these origins", metavar="ORIGIN", unset="all",
        check=check_origin, common=True,
    )  # fmt: skip
    shutdown_code: int = _serving("count", 1012, "Close code that WebSockets receive when the server stops",
                                  metavar="CODE", least=1000, most=4999)  # fmt: skip

    # ---- Workers
    workers: int = _workers("count", 0, "Worker processes; auto: one per CPU",
                            metavar="COUNT|auto", most=1024, unset="no supervisor",
                            words={"auto": usable_cpus}, variables=("WEB_CONCURRENCY",), common=True)  # fmt: skip
    worker_timeout: float = _workers("seconds", 30, "Replace a worker that has not responded for this long",
                                     unset="off", aliases=("timeout-worker-healthcheck",))  # fmt: skip
    worker_start_timeout: float = _workers("seconds", 120, "Give up on a worker that has not started after this long",
                                           unset="off")  # fmt: skip
    worker_memory: int = _workers("bytes", 0, "Replace a process whose resident memory exceeds this", unset="off")
    worker_lifetime: float = _workers("seconds", 0, "Replace each process after this long, +/-10 % at random",
                                      unset="off")  # fmt: skip
    max_requests: int = _workers("count", 0, "Replace a process after this many requests and WebSockets", unset="off",
                                 aliases=("limit-max-requests",))  # fmt: skip
    max_requests_jitter: int = _workers("count", 0, "Add up to this many requests to --max-requests at random",
                                        aliases=("limit-max-requests-jitter",))  # fmt: skip

    # ---- Logs
    log_level: str = _logs("choice", "info", "Minimum level to log, critical to debug", metavar="LEVEL",
                           choices=("critical", "error", "warning", "info", "debug"),
                           also={"trace": "debug"}, common=True)  # fmt: skip
    access_log: bool = _logs("flag", True, "Log requests and WebSockets", common=True)
    log_format: str = _logs("choice", "text", "Log lines, or JSON objects", choices=("text", "json"),
                            common=True)  # fmt: skip
    use_colors: str = _logs("choice", "auto", "Color text logs; auto: on a terminal, unless NO_COLOR is set",
                            choices=("auto", "yes", "no"),
                            also={word: "yes" if yes else "no" for word, yes in YES_NO.items()})  # fmt: skip
    log_file: str = _logs("text", "", "Append logs to this file; SIGUSR1 reopens it", metavar="FILE",
                          unset="standard error")  # fmt: skip
    log_config: str = _logs("text", "", "Configure logging from a TOML or JSON file (dictConfig) instead of the "
                                        "options above", metavar="FILE",
                            allowed="the path of a TOML or JSON file; a program that calls asgiws.run may leave it "
                                    "out, and call logging.config.dictConfig before")  # fmt: skip

    # ---- TLS
    ssl_certfile: str = _tls("text", "", "Certificate chain (PEM); serves https and wss", metavar="FILE", common=True)
    ssl_keyfile: str = _tls("text", "", "Private key (PEM)", metavar="FILE", unset="in --ssl-certfile", common=True)
    ssl_keyfile_password: str = _tls("text", "", "Password of the private key; safer in ASGIWS_SSL_KEYFILE_PASSWORD",
                                     metavar="PASSWORD", secret=True)  # fmt: skip
    ssl_ca_certs: str = _tls("text", "", "Authorities (PEM) that may sign client certificates", metavar="FILE")
    ssl_client_cert: str = _tls("choice", "none", "Ask clients for a certificate",
                                choices=("none", "optional", "required"), aliases=("ssl-cert-reqs",),
                                also={"0": "none", "1": "optional", "2": "required"})  # fmt: skip
    ssl_ciphers: str = _tls("text", "", "Ciphers of TLS 1.2, in OpenSSL's notation", metavar="CIPHERS",
                            unset="Python's choice")  # fmt: skip
    ssl_min_version: str = _tls("choice", "1.2", "Lowest TLS version to accept", choices=("1.2", "1.3"))

    # ---- Proxies
    proxy_headers: bool = _proxies("flag", True, "Take client address and scheme from X-Forwarded-* of trusted proxies")
    forwarded_allow_ips: tuple[str, ...] = _proxies(
        "list", ("127.0.0.1", "::1", "unix"), "Trusted proxies: addresses, networks, unix for Unix sockets, or * for "
        "all", metavar="IP", check=check_network, variables=("FORWARDED_ALLOW_IPS",), common=True,
    )  # fmt: skip
    forwarded_fields: tuple[str, ...] = _proxies(
        "list", (FOR.decode(), PROTO.decode()), "Headers to trust; your proxy must overwrite each one. Also allowed: "
        "x-forwarded-host, x-forwarded-prefix, and forwarded instead of the others but the prefix",
        metavar="HEADER", check=_check_forwarded_fields,
    )  # fmt: skip
    proxy_protocol: bool = _proxies("flag", False, "Require a PROXY protocol header (v1 or v2) on every connection")
    proxy_protocol_allow_ips: tuple[str, ...] = _proxies(
        "list", ("127.0.0.1", "::1"), "Addresses allowed to send PROXY protocol headers, as in --forwarded-allow-ips",
        metavar="IP", check=check_network,
    )  # fmt: skip

    # ---- Compression
    compression: str = _compression(
        "choice", _DEFLATE.mode, "permessage-deflate: one compressor for all WebSockets, one for each, or none",
        choices=("shared", "dedicated", "off"), aliases=("ws-per-message-deflate",),
        also={word: "shared" if yes else "off" for word, yes in YES_NO.items()},
    )  # fmt: skip
    compression_level: int = _compression("count", _DEFLATE.level, "Compression effort: 1 is fastest, 9 is smallest",
                                          most=9)  # fmt: skip
    compression_min_size: int = _compression("bytes", _DEFLATE.min_size_bytes, "Send shorter messages uncompressed")
    compression_window_bits: int = _compression(
        "count", _DEFLATE.window_bits, "Compression window of 2^N bytes; dedicated compressors take 2^(N+3) bytes "
        "per WebSocket", least=9, most=15,
    )  # fmt: skip

    # ---- Deadlines
    graceful_timeout: float = _deadline(
        30, "Wait this long for open requests and WebSockets on shutdown, then cancel them", unset="",
        aliases=("timeout-graceful-shutdown",), common=True,
    )  # fmt: skip
    drain_delay: float = _deadline(0, "After SIGTERM, keep accepting for this long while /readyz already returns 503")
    drain_spread: float = _deadline(0, "Close WebSockets evenly over this long on shutdown, not all at once")
    drain_notice: float = _deadline(0, "Let the application know this long before a WebSocket is closed on shutdown "
                                    "or by asgiws close")  # fmt: skip
    retry_hint: float = _deadline(0, "Ask clients that a shutdown disconnects to return after a random time of up to "
                                  "this: retry-after=7 in the reason of the Close")  # fmt: skip
    head_timeout: float = _deadline(10, "Drop a client whose TLS handshake, or whose request line and headers, take "
                                        "longer than this")  # fmt: skip
    body_timeout: float = _deadline(30, "Drop a client that sends nothing of a request body for this long while the "
                                        "application waits for it")  # fmt: skip
    keep_alive_timeout: float = _deadline(5, "Close an HTTP connection that has been idle for this long",
                                          aliases=("timeout-keep-alive",))  # fmt: skip
    handshake_timeout: float = _deadline(30, "Refuse a WebSocket that the application has not accepted after this long")
    close_timeout: float = _deadline(10, "Wait this long for the client's Close reply, then drop the connection",
                                     least=0.01)  # fmt: skip
    write_timeout: float = _deadline(30, "Drop a client that has not read for this long while data waits for it")
    answer_timeout: float = _deadline(1, "After a Close or a protocol error, let the application finish earlier "
                                         "messages for this long", unset="")  # fmt: skip
    idle_timeout: float = _deadline(0, "Close a WebSocket without a message in either direction for this long")
    max_lifetime: float = _deadline(0, "Close each WebSocket (1001) after this long, +/-10 % at random")
    ping_interval: float = _deadline(20, "Ping a client that is silent for this long",
                                     aliases=("ws-ping-interval",), common=True)  # fmt: skip
    ping_timeout: float = _deadline(20, "Close a WebSocket (1011) that is silent for this long after a ping; where a "
                                    "proxy loses pongs, see --ping-misses",
                                    aliases=("ws-ping-timeout",))  # fmt: skip
    ping_misses: int = _option("count", 1, "Close it only after this many unanswered pings in a row, each with the "
                               "time of --ping-timeout", least=1, group="Deadlines")  # fmt: skip

    # ---- Limits
    max_head_size: int = _limit("bytes", _DEFAULTS.head_bytes, "Largest request line with its headers", least=256,
                                aliases=("h11-max-incomplete-event-size",))  # fmt: skip
    max_headers: int = _limit("count", _DEFAULTS.header_count, "Most headers of a request", least=1)
    max_body_size: int = _limit("bytes", _DEFAULTS.body_bytes, "Largest request body", unset="off")
    max_message_size: int = _limit("bytes", _DEFAULTS.message_bytes, "Largest WebSocket message, decompressed", least=1,
                                   aliases=("ws-max-size",), common=True)  # fmt: skip
    max_frame_size: int = _limit("bytes", _DEFAULTS.frame_bytes, "Largest WebSocket frame",
                                 unset="--max-message-size")  # fmt: skip
    max_inflate_ratio: int = _limit("count", _DEFAULTS.inflate_ratio, "Refuse messages over 1 MiB that decompress to "
                                    "more than N times their size (zip bombs)", metavar="N", unset="off")  # fmt: skip
    max_queue: int = _limit("count", _DEFAULTS.inbox_messages, "Messages of a WebSocket that wait for the application "
                            "before reading pauses", least=1, aliases=("ws-max-queue",))  # fmt: skip
    max_queue_bytes: int = _limit("bytes", _DEFAULTS.inbox_bytes, "Size of the messages of a WebSocket that wait for "
                                  "the application before reading pauses", least=1)  # fmt: skip
    max_control_rate: int = _limit("count", _DEFAULTS.control_rate, "Most control frames per second from one client",
                                   unset="off")  # fmt: skip
    max_message_rate: int = _limit("count", 0, "Most messages per second from one client", unset="off")
    max_byte_rate: int = _limit("bytes", 0, "Most bytes per second from one client", unset="off")
    write_high_water: int = _limit("bytes", 64 * KIB, "Unsent data of a connection above which send() waits until a "
                                   "quarter of it is left")  # fmt: skip
    max_connections: int = _limit("count", 0, "Most open connections per process", unset="off",
                                  aliases=("limit-concurrency",), common=True)  # fmt: skip
    max_connections_per_address: int = _limit("count", 0, "Most open connections from one client address", unset="off")
    handshake_rate: int = _limit("count", 0, "Most WebSocket handshakes per second from one client address",
                                 unset="off")  # fmt: skip
    max_connections_by: str = _limit(
        "text", "", "Most WebSockets per process for each value of a header that a trusted proxy sets, such as "
        "header:x-tenant=500", metavar="header:NAME=COUNT", check=check_limit_by,
    )  # fmt: skip
    max_opening: int = _limit("count", 0, "Most WebSocket handshakes that are with the application at once; others "
                              "wait in order, up to --handshake-timeout", unset="off")  # fmt: skip
    shed_lag: float = _limit("seconds", 0, "Refuse WebSocket handshakes while the event loop lags more than this, "
                             "smoothed, until it lags less than half of it", unset="off")  # fmt: skip
    shed_memory: int = _limit("bytes", 0, "Refuse WebSocket handshakes while the process takes more resident memory "
                              "than this, until it takes 5 % less", unset="off")  # fmt: skip
    shed_requests: bool = _limit("flag", False, "Refuse HTTP requests too while --shed-lag or --shed-memory refuses, "
                                 "except at --health-path")  # fmt: skip
    shed_readiness: bool = _limit("flag", False, "Report not ready while --shed-lag or --shed-memory refuses")
    refusal: str = _limit("choice", "http", "Refuse a WebSocket that exceeds a limit with an HTTP status, or accept "
                          "and close it (1013), which pages in browsers see", choices=("http", "close"))  # fmt: skip
    retry_after: float = _limit("seconds", 10, "Ask refused clients to return after a random time of up to this, in "
                                "whole seconds", least=1)  # fmt: skip

    # ---- Topics
    broker: str = _topics("text", "", "Share topics with other machines through this Redis or NATS server",
                          metavar="URL", unset="this machine only", secret=True, check=check_broker_url,
                          redact=redact_broker_url)  # fmt: skip
    broker_password_file: str = _topics("text", "", "Read the broker's password from this file, for each connection",
                                        metavar="FILE", unset="as in --broker")  # fmt: skip
    broker_required: bool = _topics("flag", False, "Do not start without the broker, instead of waiting for it")
    topic_gap: str = _topics("choice", "close", "Close subscribers (1012) that may have missed messages, or only "
                             "count them", choices=("close", "ignore"))  # fmt: skip
    topic_backlog: int = _topics("bytes", MIB, "Drop a subscriber for which more than this waits unsent")
    topic_history: int = _topics("bytes", 64 * MIB, "Memory for the messages that topics with history keep")
    topic_prefix: str = _topics("text", "", "Prefix of the name of every topic", metavar="PREFIX", unset="none",
                                check=check_topic_prefix)  # fmt: skip
    topic_queue: int = _topics("bytes", 8 * MIB, "Let a worker miss messages when more than this waits for it",
                               least=1)  # fmt: skip
    max_publish_size: int = _topics("bytes", 512 * KIB, "Largest message that may be published", least=1)

    # ---- Admin
    admin: str = _admin("text", "", "Serve metrics, health and the live view", metavar="HOST:PORT",
                        check=_check_admin, common=True)  # fmt: skip
    admin_token: str = _admin("text", "", "Bearer token that allows seeing and closing connections on the admin "
                              "address", metavar="TOKEN", check=check_token, secret=True)  # fmt: skip
    health_path: str = _admin("text", "", "Answer health checks at this path of the public port", metavar="PATH",
                              check=check_path)  # fmt: skip

    # ---- Development
    reload: bool = _development("flag", False, "Restart when a source file changes", common=True)
    reload_dir: tuple[str, ...] = _development("list", (), "Watch this folder", metavar="FOLDER",
                                               unset="--app-dir", aliases=("reload-dirs",))  # fmt: skip
    reload_include: tuple[str, ...] = _development(
        "list", (), "Also watch files that match this pattern, such as *.html or conf/*.yaml",
        metavar="PATTERN", aliases=("reload-includes",),
    )  # fmt: skip
    reload_exclude: tuple[str, ...] = _development("list", (), "Ignore files and folders of this pattern",
                                                   metavar="PATTERN", aliases=("reload-excludes",))  # fmt: skip
    reload_delay: float = _development("seconds", 0.25, "Check files this often if watchfiles is not installed",
                                       least=0.01)  # fmt: skip

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.convert(getattr(self, name)))
        self._check_drain()
        for name in ("log_file", "log_format"):
            if self.log_config and getattr(self, name) not in ("", "text"):
                raise OptionError(
                    f"{spelled(name)}: {getattr(self, name)!r} was given with --log-config, allowed: one of the two; "
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

        for name in ("broker_password_file", "broker_required"):
            if getattr(self, name) and not self.broker:
                raise OptionError(f"{spelled(name)} was given without --broker, allowed: together with it")
        if self.max_connections_by and not (self.proxy_headers and self.forwarded_allow_ips):
            raise OptionError(
                f"--max-connections-by: {self.max_connections_by} was given and no proxy is trusted, allowed: with "
                "--proxy-headers and --forwarded-allow-ips, because a client could send any value"
            )
        self._check_tls()
        if beyond := beyond_platform(self.workers, self.uds, self.fd, self.admin, self.bind):
            raise OptionError(f"{spelled(beyond[0])}: {beyond[1]!r} was given, allowed on this platform: {TCP_ALONE}")

    def _check_drain(self) -> None:
        """Refuse a drain in which WebSockets would be cut before their Close. Raises OptionError."""
        most = f"allowed: at most --graceful-timeout, which is {self.graceful_timeout:g} s"
        for name in ("drain_spread", "drain_notice"):
            if (given_s := getattr(self, name)) > self.graceful_timeout:
                raise OptionError(f"{spelled(name)}: {given_s:g} s was given, {most}")
        if self.drain_spread + self.drain_notice > self.graceful_timeout:
            raise OptionError(
                f"--drain-notice: {self.drain_notice:g} s was given with --drain-spread {self.drain_spread:g} s, "
                f"{most}, for both together"
            )

    def _check_tls(self) -> None:
        """Refuse TLS options that would have no effect. Raises OptionError."""
        if not self.ssl_certfile:
            for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_client_cert", "ssl_ciphers"):
                if getattr(self, name) not in ("", "none"):
                    raise OptionError(f"{spelled(name)} was given without --ssl-certfile, allowed: together with it")
        elif self.ssl_client_cert == "none" and self.ssl_ca_certs:
            raise OptionError(
                "--ssl-ca-certs was given but no client certificates are asked for, allowed: with --ssl-client-cert "
                "optional or required; the server's own chain belongs in --ssl-certfile"
            )
        elif self.ssl_client_cert != "none" and not self.ssl_ca_certs:
            raise OptionError(
                f"--ssl-client-cert {self.ssl_client_cert} was given without --ssl-ca-certs, allowed: with the file of "
                "the authorities that they come from"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Config:
        """Return a Config made from keywords. Raises OptionError for an unknown one too."""
        for name in options:
            if name not in OPTIONS:
                raise unknown_option(name)
        return cls(**{name: OPTIONS[name].convert(value) for name, value in options.items()})

    def limits(self) -> Limits:
        """Return the limits that the parsers check."""
        return Limits(
            request_line_bytes=self.max_head_size,
            head_bytes=self.max_head_size,
            header_count=self.max_headers,
            body_bytes=self.max_body_size,
            message_bytes=self.max_message_size,
            frame_bytes=self.max_frame_size,
            inbox_messages=self.max_queue,
            inbox_bytes=self.max_queue_bytes,
            inflate_ratio=self.max_inflate_ratio,
            control_rate=self.max_control_rate,
            message_rate=self.max_message_rate,
            byte_rate=self.max_byte_rate,
        )

    def forwarded_names(self) -> frozenset[bytes]:
        """Return the names of the fields that are trusted when a trusted proxy sends them."""
        return frozenset(name for value in self.forwarded_fields for name in _names(value))

    def limit_by(self) -> tuple[bytes, int]:
        """Return the name of the header that names tenants, and the most WebSockets of each; empty and 0 without."""
        return parse_limit_by(self.max_connections_by)

    def deflate_settings(self) -> DeflateSettings:
        """Return the settings of permessage-deflate."""
        return DeflateSettings(
            mode=self.compression,
            level=self.compression_level,
            min_size_bytes=self.compression_min_size,
            window_bits=self.compression_window_bits,
            memory_level=self.compression_window_bits - _WINDOW_OVER_MEMORY,
        )


OPTIONS: Final[Mapping[str, Option]] = {
    item.name: dataclasses.replace(item.metadata["option"], name=item.name) for item in dataclasses.fields(Config)
}


def unknown_option(name: str) -> OptionError:
    """Return the error for an unknown option, with the nearest known one."""
    flag = name.lower().replace("_", "-")
    meant = next((known for known, option in OPTIONS.items() if flag in option.aliases), flag.replace("-", "_"))
    return OptionError(f"{name}: there is no such option; {did_you_mean(meant, OPTIONS)}")
