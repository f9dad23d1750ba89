"""From the options to a broker."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Final

from asgiws.config.broker_url import BROKER_SCHEMES, redact_broker_url
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.nats.broker import NatsBroker
from asgiws.topics.brokers.nats.url import parse_url as parse_nats_url
from asgiws.topics.brokers.redis.broker import RedisBroker
from asgiws.topics.hub import Hub

__all__ = ["check_broker", "make_broker", "read_password"]

# What to install for a package, and its oldest version
_PACKAGES: Final = {"redis": ("redis", 5), "nats": ("nats-py", 2)}


def check_broker(config: Config) -> None:
    """Check all of `--broker` that can be checked without connecting. Raises OptionError."""
    if not config.broker:
        return
    package = _package_of(config)
    name, oldest = _PACKAGES[package]
    shown = redact_broker_url(config.broker)
    if importlib.util.find_spec(package) is None:
        raise OptionError(f"--broker: {shown} needs {name}, which is not installed; pip install 'asgiws[{package}]'")
    version = importlib.metadata.version(name)
    if int(version.partition(".")[0]) < oldest:
        raise OptionError(
            f"--broker: {shown} needs {name} {oldest} or newer, not {version}; pip install 'asgiws[{package}]'"
        )
    try:
        read_password(config)
    except OSError as error:
        raise OptionError(
            f"--broker-password-file: {config.broker_password_file!r} was given, {error.strerror}; allowed: a file "
            "that this user may read"
        ) from None
    if package == "redis":
        from asgiws.topics.brokers.redis.connection import parse_url

        try:
            parse_url(config.broker)
        except (TypeError, ValueError) as error:
            raise OptionError(f"--broker: {shown} was given with what {name} does not take: {error}") from None
    else:
        try:
            parse_nats_url(config.broker)
        except ValueError as error:
            raise OptionError(f"--broker: {shown} was given, allowed: {error}") from None


def read_password(config: Config) -> str:
    """Return the password in `--broker-password-file`, empty without one. Raises OSError."""
    if not config.broker_password_file:
        return ""
    try:
        return Path(config.broker_password_file).read_text().strip("\r\n")
    except ValueError as error:  # not UTF-8, or a path with a zero byte
        raise OSError(0, str(error)) from None


def make_broker(config: Config, hub: Hub) -> Broker:
    """Return the broker of `--broker`, which was checked. It was not started yet."""
    kind = {"redis": RedisBroker, "nats": NatsBroker}[_package_of(config)]
    name = redact_broker_url(config.broker)
    return kind(hub, name, config.topic_queue, config.broker, lambda: read_password(config))


def _package_of(config: Config) -> str:
    return BROKER_SCHEMES[config.broker.partition(":")[0]]
