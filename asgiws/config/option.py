"""One option: the values that it takes, and how they are checked, converted and shown.

Every value passes through `Option.convert`, wherever it came from. A value that is not allowed is refused in one line.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asgiws.config.other_servers import instead_of
from asgiws.protocol.http.fields import is_token
from asgiws.protocol.limits import KIB, MIB

__all__ = [
    "YES_NO", "Option", "OptionError", "check_header", "check_limit_by", "check_loop", "check_mode", "check_origin",
    "check_owner", "check_path", "check_token", "check_topic_prefix", "did_you_mean", "parse_limit_by", "spelled",
]  # fmt: skip

_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "bytes": {"": 1, "b": 1, "k": KIB, "kb": KIB, "kib": KIB, "m": MIB, "mb": MIB, "mib": MIB, "g": KIB * MIB,
              "gb": KIB * MIB, "gib": KIB * MIB},
    "seconds": {"": 1, "s": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600, "d": 86400},
}  # fmt: skip
_EXAMPLES: Final = {"bytes": "65536, 64k or 16MiB", "seconds": "30, 30s, 500ms, 5m or 1h"}
_METAVARS: Final = {"count": "COUNT", "bytes": "SIZE", "seconds": "SECONDS"}
YES_NO: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


class OptionError(ValueError):
    """A value that an option does not take; the message is one line that says what was seen and what is allowed."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table of options, without its default."""

    kind: str
    """text, choice, flag, count, bytes, seconds, or list (of text; see `separator`)."""
    help: str
    """A full phrase; what an unset option does is in `unset`."""
    metavar: str = ""
    """The placeholder of the value in help texts; empty: derived from kind, bounds and choices."""
    unset: str = ""
    """What an empty text, an empty list, -1 for a descriptor or, where this is not empty, 0 means."""
    common: bool = False
    """Whether `--help` shows the option; `--help all` shows every one."""
    least: float = 0
    most: float = 2**62
    choices: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    """For a choice: further accepted values, in lower case, and the choice that each means."""
    words: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    """For a number: accepted words, and the function that returns the number for each."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the flag and of the key in a file, mostly those of uvicorn."""
    variables: tuple[str, ...] = ()
    """Environment variables that other servers read too; each is used where no ASGIWS_* variable sets the option."""
    separator: str = ","
    """For a list: what separates values that are given as one text, as in an environment variable."""
    secret: bool = False
    """Whether the value is never shown."""
    redact: Callable[[str], str] | None = None
    """For a secret: returns what of it may be shown all the same."""
    check: Callable[[str], str | None] | None = None
    """For text, and for a choice that is open: returns what is allowed instead of a value, or None."""
    allowed: str = "text"
    """For text: what is allowed, for the error about a value of another type."""
    group: str = ""
    name: str = ""

    @property
    def negatable(self) -> bool:
        """Whether the flag takes no value and has a `--no-` form."""
        return self.kind == "flag" or "yes" in self.choices

    @property
    def placeholder(self) -> str:
        """The placeholder of the value in help texts; empty for a flag that takes no value."""
        if self.negatable:
            return ""
        if self.metavar or self.choices:
            return self.metavar or "|".join(self.choices)
        if self.kind == "count" and self.most < 2**62:
            return f"{self.least:g}..{self.most:g}"
        return _METAVARS[self.kind]

    def describe_default(self, value: Any) -> str:
        """Return the default `value` as text, and what 0 means where it turns the option off."""
        if value in ("", -1, ()) or (value == 0 and self.unset):
            return self.unset or "off"
        shown = _shown(value, self.kind)
        return f"{shown}; 0: {self.unset}" if self.unset and self.kind in _METAVARS and self.least == 0 else shown

    def hide(self, value: Any) -> Any:
        """Return what may be shown of a value: all of it unless it is secret."""
        if not self.secret or value == "":
            return value
        return self.redact(value) if self.redact is not None and isinstance(value, str) else "***"

    def convert(self, value: object) -> Any:
        """Return `value` in the option's type. Raises OptionError."""
        if self.kind == "flag":
            return self._flag(value)
        if self.kind in ("count", "bytes", "seconds"):
            return self._number(value)
        if self.kind == "list":
            parts = [part.strip() for part in value.split(self.separator)] if isinstance(value, str) else value
            if not isinstance(parts, list | tuple):
                raise self._error(value, "a list of text")
            return tuple(self._text(part) for part in parts if part != "")
        return self._text(value)

    def _error(self, value: object, allowed: str) -> OptionError:
        value = self.hide(value)
        shown = reprlib.repr(value) if isinstance(value, Mapping) else str(value) if self.secret else repr(value)
        return OptionError(f"{spelled(self.name)}: {shown} was given, allowed: {allowed}")

    def _flag(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in YES_NO:
            return YES_NO[value.lower()]
        raise self._error(value, "true or false")

    def _number(self, value: object) -> float:
        number: float
        if isinstance(value, str) and value in self.words:
            return self.words[value]()
        if isinstance(value, str):
            units = _UNITS.get(self.kind, {"": 1})
            match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", value.strip().lower())
            if match is None or match[2] not in units:
                words = "".join(f", or {word}" for word in self.words)
                raise self._error(value, f"a number such as {_EXAMPLES.get(self.kind, '32')}{words}")
            number = float(match[1]) * units[match[2]]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = value
        else:
            raise self._error(value, "a number")
        if not self.least <= number <= self.most:
            most = f" to {self.most:g}" if self.most < 2**62 else " or more"
            raise self._error(value, f"{self.least:g}{most}")
        if self.kind != "seconds" and number != int(number):
            raise self._error(value, "a whole number")
        return number if self.kind == "seconds" else int(number)

    def _text(self, value: object) -> str:
        if isinstance(value, int) and str(value).lower() in self.also:  # in a TOML file: true and false, 0 and 1
            value = str(value).lower()
        if not isinstance(value, str):
            raise self._error(value, self.allowed)
        if self.kind == "choice" and value not in self.choices:
            if value.lower() in self.also:
                return self.also[value.lower()]
            more = "" if self.check is None else self.check(value)
            if more is None:
                return value
            nearest = difflib.get_close_matches(value, self.choices, 1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise self._error(value, ", ".join(filter(None, (*self.choices, more))) + hint)
        fault = self.check(value) if self.check is not None and value and self.kind != "choice" else None
        if fault is not None:
            raise self._error(value, fault)
        return value


def check_header(value: str) -> str | None:
    """Return what is allowed instead of a response field, or None."""
    name, colon, text = value.partition(":")
    # RFC 9110 §5.5: tab, visible characters and spaces, and what is above ASCII as bytes
    if colon and is_token(name.encode()) and re.fullmatch("[\t -~\x80-\xff]*", text):
        return None
    return "Name: value, without line ends, in Latin-1"


def check_loop(value: str) -> str | None:
    """Return what is allowed instead of the name of a factory of event loops, or None."""
    return None if re.fullmatch(r"[\w.]+:[\w.]+", value) else "module:factory"


def check_mode(value: str) -> str | None:
    """Return what is allowed instead of a file mode, or None."""
    return None if re.fullmatch("0?[0-7]{3}", value) else "an octal file mode such as 660"


def check_path(value: str) -> str | None:
    """Return what is allowed instead of a path of a URL, or None."""
    return None if re.fullmatch(r"/[!-~]*", value) and not set(value) & set("?#%") else "a path such as /healthz"


def check_token(value: str) -> str | None:
    """Return what is allowed instead of a token, or None."""
    return None if re.fullmatch("[!-~]{16,256}", value) else "16 to 256 visible ASCII characters, without spaces"


def check_topic_prefix(value: str) -> str | None:
    """Return what is allowed instead of a prefix of topics, or None: with a name of 200 it fits into a frame's 255."""
    return None if re.fullmatch("[!-~]{0,50}", value) else "up to 50 visible ASCII characters, without spaces"


def check_limit_by(value: str) -> str | None:
    """Return what is allowed instead of a limit by the value of a header, or None."""
    return None if all(parse_limit_by(value)) else "header:NAME=COUNT, such as header:x-tenant=500"


def parse_limit_by(value: str) -> tuple[bytes, int]:
    """Return the name in lower case and the count of `header:NAME=COUNT`; empty and 0 for anything else."""
    match = re.fullmatch(r"header:([^=]+)=([0-9]{1,9})", value.replace(" ", ""))
    name = match[1].lower().encode() if match is not None else b""
    return (name, int(match[2])) if match is not None and is_token(name) else (b"", 0)


def check_owner(value: str) -> str | None:
    """Return what is allowed instead of the owner of a file, or None."""
    return None if re.fullmatch(r"[\w.-]+(?::[\w.-]+)?|:[\w.-]+", value) else "user:group, user or :group"


def check_origin(value: str) -> str | None:
    """Return what is allowed instead of a pattern of origins, or None."""
    if re.fullmatch(r"\*|null|\*\.[^/*:]+|[a-z][a-z0-9+.-]*://[^/*]+/?", value, re.IGNORECASE):
        return None
    return "an origin such as https://example.com, or *.example.com for every host below it"


def _shown(value: Any, kind: str) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value)
    if kind == "seconds":
        return f"{value:g}s"
    if kind == "bytes" and value and value % KIB == 0:
        return f"{value // MIB}MiB" if value % MIB == 0 else f"{value // KIB}KiB"
    return str(value)


# ---- names


def spelled(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error: what to write instead of an unknown name, or where to find it.

    For a name of another server that is what to write here, else the nearest name among `known`.
    """
    if instead := instead_of(spelled(name)):
        return instead
    nearest = difflib.get_close_matches(name, known, 1)
    return f"did you mean {nearest[0]}?" if nearest else "asgiws --help all lists the options"
