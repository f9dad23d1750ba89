"""The commands beside serving: `asgiws top`, `health`, `close`, `drain` and `publish`.

They use an admin address: the one that is given, or that of the options (`--admin`, `ASGIWS_ADMIN`). `publish` takes
the URL of a broker, too. A closed standard output (`asgiws top --once | head -3`) is not an error.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from asgiws.admin import top
from asgiws.admin.client import AdminClient, Unreachable
from asgiws.admin.view import Filter
from asgiws.config.addresses import check_address
from asgiws.config.broker_url import is_broker_url
from asgiws.config.option import OptionError
from asgiws.config.options import Config
from asgiws.protocol.limits import MIB
from asgiws.topics.brokers.factory import check_broker
from asgiws.topics.brokers.publish import publish_once
from asgiws.topics.message import TopicsUnavailable, check_name

__all__ = ["COMMANDS", "run_command"]

_ABOUT: Final = {
    "top": "Show connections, rates and workers of a running server, refreshed each second.",
    "health": "Exit with 0 if a running server is ready, else with 1.",
    "close": "Close many WebSockets of a running server, spread over time, so that clients reconnect elsewhere.",
    "drain": "Replace one worker of a running server: its successor starts, then its WebSockets are closed.",
    "publish": "Publish a message to a topic of a running server: to every subscriber, in all its workers.",
}
COMMANDS: Final = tuple(_ABOUT)

_FAILED: Final = 1
_USAGE: Final = 2
_INPUT_MOST_BYTES: Final = 64 * MIB
_SIGNALLED: Final = 128
"""Plus the number of the signal, as in a shell."""


def run_command(name: str, words: Sequence[str], load: Callable[[Mapping[str, object]], Config]) -> int:
    """Run a command; return the exit code. `load` makes the options from flags and the other sources."""
    parser = _parser(name)
    arguments = parser.parse_args(words)
    given = {"admin": arguments.address or arguments.admin, "admin_token": arguments.admin_token}
    flags = {key: value for key, value in given.items() if value}
    try:
        config = load(flags)
    except OptionError as error:
        return _fail(_USAGE, str(error))
    address = config.admin
    if name == "publish":
        address = _take_message(parser, arguments, address or config.broker)
        if is_broker_url(address) or (address and address == config.broker):
            return _publish_to_broker(config, address, arguments)
    if not address:
        return _fail(_USAGE, f"no admin address was given: asgiws {name} ADDRESS, --admin or ASGIWS_ADMIN")
    try:
        return _run(name, arguments, AdminClient(address, config.admin_token))
    except Unreachable as error:
        return _fail(_FAILED, str(error))
    except KeyboardInterrupt:
        return 0 if name == "top" else _SIGNALLED + signal.SIGINT
    except top.Signalled as signalled:
        return _SIGNALLED + signalled.number


def _run(name: str, arguments: argparse.Namespace, client: AdminClient) -> int:
    if name == "top":
        chosen = Filter(arguments.path, arguments.client)
        if arguments.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _print(top.print_once(client, chosen))
        else:
            top.show(client, chosen)
        return 0
    if name == "health":
        done, text = client.is_ready()
    elif name == "close":
        names = ("path", "client", "percent", "over", "worker", "code")
        query = {each: getattr(arguments, each) for each in names if getattr(arguments, each)}
        done, text = client.order("/connections/close", query)
    elif name == "publish":
        try:
            data = _read_message(arguments)
        except OSError as error:
            return _fail(_FAILED, f"cannot read standard input: {error.strerror}")
        done, text = client.publish(arguments.topic, data, is_text=not arguments.bytes)
    else:
        done, text = client.order(f"/workers/{arguments.worker}/drain", {})
    if done or name == "health":
        _print(text)
        return 0 if done else _FAILED
    return _fail(_FAILED, text)


def _publish_to_broker(config: Config, url: str, arguments: argparse.Namespace) -> int:
    """Publish without a server of ours; return the exit code."""
    try:
        config = dataclasses.replace(config, broker=url)
        check_broker(config)
        data = _read_message(arguments)
        message = data if arguments.bytes else data.decode()
        asyncio.run(publish_once(config, arguments.topic, message))
    except OptionError as error:
        return _fail(_USAGE, str(error))
    except UnicodeDecodeError:
        return _fail(_FAILED, "text that is not UTF-8 was given, allowed: UTF-8; bytes go with --bytes")
    except TopicsUnavailable as error:
        return _fail(_FAILED, str(error))
    except OSError as error:
        return _fail(_FAILED, f"cannot read standard input: {error.strerror}")
    except ValueError as error:
        return _fail(_FAILED, str(error))
    _print(f"published {len(data)} byte{'' if len(data) == 1 else 's'} to {arguments.topic}")
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"asgiws {name}", description=_ABOUT[name], allow_abbrev=False)
    add = parser.add_argument
    if name == "publish":
        parser.usage = "%(prog)s [options] [ADDRESS] TOPIC [TEXT|-]"
        parser.set_defaults(address=None)
        add(
            "words", metavar="WORD", nargs="*", help="ADDRESS is that of --admin, or the URL of a broker as in "
            "--broker; it may be left out where ASGIWS_ADMIN or ASGIWS_BROKER is set; TEXT is the message, or - for "
            "standard input (default: -)",
        )  # fmt: skip
        add("--bytes", action="store_true", help="publish bytes, which arrive as a binary message")
    else:
        add("address", metavar="ADDRESS", nargs="?", type=_address, help="admin address: HOST:PORT or unix:/path")
    add("--admin", metavar="ADDRESS", type=_address, help="admin address: HOST:PORT or unix:/path")
    add("--admin-token", metavar="TOKEN", help="token of the admin address; better in ASGIWS_ADMIN_TOKEN")
    if name in ("top", "close"):
        add("--path", default="", metavar="PATH", help="WebSockets of this path, such as /chat or /chat/*")
        add("--client", default="", metavar="CLIENT", help="of these clients: 192.0.2.7, 10.0.0.0/8 or unix")
    if name == "top":
        add("--once", action="store_true", help="print one view and exit")
    elif name == "close":
        add("--percent", default="", metavar="1..100", help="this share of them (default: 100)")
        add("--over", default="", metavar="SECONDS", help="spread evenly over this time, such as 30s (default: 0)")
        add("--code", default="", metavar="CODE", help="close code (default: 1012, service restart)")
    if name in ("close", "drain"):
        add("--worker", metavar="PID", type=_pid, required=name == "drain", help="process id of the worker")
    return parser


def _take_message(parser: argparse.ArgumentParser, arguments: argparse.Namespace, address: str) -> str:
    """Set `topic` and `text` from the words of `publish`; return the address, empty if there is none."""
    words = list(arguments.words)
    try:
        if words and is_broker_url(words[0]):
            address = words.pop(0)
        elif words and (len(words) == 3 or not address):
            address = _address(words.pop(0))
        if not 1 <= len(words) <= 2:
            parser.error(f"{len(arguments.words)} words were given, allowed: [ADDRESS] TOPIC [TEXT|-]; quote the text")
        arguments.topic, arguments.text = check_name(words[0]), (*words, "-")[1]
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument ADDRESS: {error}")
    except ValueError as error:
        parser.error(f"argument TOPIC: {error}")
    return address


def _read_message(arguments: argparse.Namespace) -> bytes:
    """Return what is to be published. Raises OSError."""
    return _read_input() if arguments.text == "-" else os.fsencode(arguments.text)


def _read_input() -> bytes:
    """Return all of standard input. Raises OSError, also for more than 64 MiB."""
    with open(0, "rb", closefd=False) as stream:
        data = stream.read(_INPUT_MOST_BYTES + 1)
    if len(data) > _INPUT_MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {_INPUT_MOST_BYTES // MIB} MiB")
    return data


def _address(text: str) -> str:
    allowed = check_address(text)
    if allowed is not None or text.startswith("fd:"):
        raise argparse.ArgumentTypeError(f"{text!r} was given, allowed: HOST:PORT, [::1]:PORT or unix:/path")
    return text


def _pid(text: str) -> str:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} was given, allowed: a process id, as asgiws top shows it")
    return text


def _fail(code: int, message: str) -> int:
    print(f"asgiws: {message}", file=sys.stderr)  # noqa: T201
    return code


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201 - the output of a command
    except BrokenPipeError:
        # The rest of the buffer is written at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
