"""The commands beside serving: `asgiws top`, `health`, `close` and `drain`.

They use an admin address: the one that is given, or that of the options (`--admin`, `ASGIWS_ADMIN`). A closed standard
output (`asgiws top --once | head -3`) is not an error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from asgiws.admin import top
from asgiws.admin.client import AdminClient, Unreachable
from asgiws.admin.view import Filter
from asgiws.config.addresses import check_address
from asgiws.config.option import OptionError
from asgiws.config.options import Config

__all__ = ["COMMANDS", "run_command"]

_ABOUT: Final = {
    "top": "Show connections, rates and workers of a running server, refreshed each second.",
    "health": "Exit with 0 if a running server is ready, else with 1.",
    "close": "Close many WebSockets of a running server, spread over time, so that clients reconnect elsewhere.",
    "drain": "Replace one worker of a running server: its successor starts, then its WebSockets are closed.",
}
COMMANDS: Final = tuple(_ABOUT)

_FAILED: Final = 1
_USAGE: Final = 2
_SIGNALLED: Final = 128
"""Plus the number of the signal, as in a shell."""


def run_command(name: str, words: Sequence[str], load: Callable[[Mapping[str, object]], Config]) -> int:
    """Run a command; return the exit code. `load` makes the options from flags and the other sources."""
    arguments = _parser(name).parse_args(words)
    given = {"admin": arguments.address or arguments.admin, "admin_token": arguments.admin_token}
    flags = {key: value for key, value in given.items() if value}
    try:
        config = load(flags)
    except OptionError as error:
        return _fail(_USAGE, str(error))
    if not config.admin:
        return _fail(_USAGE, f"no admin address was given: asgiws {name} ADDRESS, --admin or ASGIWS_ADMIN")
    try:
        return _run(name, arguments, AdminClient(config.admin, config.admin_token))
    except Unreachable as error:
        return _fail(_FAILED, str(error))
    except KeyboardInterrupt:
        return 0
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
    else:
        done, text = client.order(f"/workers/{arguments.worker}/drain", {})
    if done or name == "health":
        _print(text)
        return 0 if done else _FAILED
    return _fail(_FAILED, text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"asgiws {name}", description=_ABOUT[name], allow_abbrev=False)
    add = parser.add_argument
    add("address", metavar="ADDRESS", nargs="?", type=_address, help="admin address: HOST:PORT or unix:/path")
    add("--admin", metavar="ADDRESS", type=_address, help="the same")
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
