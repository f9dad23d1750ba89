"""One option: what it takes, and its value from whatever was given.

Every value passes through `Option.convert`, wherever it came from, so that each is checked in one place and refused in
one line.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asgiws.protocol.http.fields import is_token
from asgiws.protocol.limits import KIB, MIB

__all__ = [
    "YES_NO", "Option", "OptionError", "check_header", "check_mode", "check_origin", "check_owner", "check_path",
    "check_token", "did_you_mean", "spelled",
]  # fmt: skip

_UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "bytes": {"": 1, "b": 1, "k": KIB, "kb": KIB, "kib": KIB, "m": MIB, "mb": MIB, "mib": MIB, "g": KIB * MIB,
              "gb": KIB * MIB, "gib": KIB * MIB},
    "seconds": {"": 1, "s": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600, "d": 86400},
}  # fmt: skip
_EXAMPLES: Final = {"bytes": "65536, 64k or 16MiB", "seconds": "30, 30s, 500ms, 5m or 1h"}
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
    """What is known of one option beside its name and default."""

    kind: str
    """text, choice, flag, count, bytes, seconds, or list (of text; see `separator`)."""
    help: str
    least: float = 0
    most: float = 2**62
    choices: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    """For a choice: other values that are taken, in lower case, and the choice that each means."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the flag and of the key in a file: those of uvicorn, and short ones."""
    variables: tuple[str, ...] = ()
    """Environment variables that other servers read too; each is taken where ASGIWS_* does not name the option."""
    separator: str = ","
    """For a list: what stands between two values where they are given as one text, as in an environment variable."""
    secret: bool = False
    """The value is shown to nobody."""
    check: Callable[[str], str | None] | None = None
    """For text: says what is wrong with a value, or None."""
    allowed: str = "text"
    """For text: what is allowed, to who gives something that is none."""
    group: str = ""
    name: str = ""

    @property
    def negatable(self) -> bool:
        """Whether the flag stands alone, for yes, and has a `--no-` beside it."""
        return self.kind == "flag" or "yes" in self.choices

    def convert(self, value: object) -> Any:
        """Give `value` in the option's type. Raises OptionError."""
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
        shown = "***" if self.secret else reprlib.repr(value) if isinstance(value, Mapping) else repr(value)
        return OptionError(f"{spelled(self.name)}: {shown} was given, allowed: {allowed}")

    def _flag(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in YES_NO:
            return YES_NO[value.lower()]
        raise self._error(value, "true or false")

    def _number(self, value: object) -> float:
        number: float
        if isinstance(value, str):
            units = _UNITS.get(self.kind, {"": 1})
            match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", value.strip().lower())
            if match is None or match[2] not in units:
                raise self._error(value, f"a number such as {_EXAMPLES.get(self.kind, '32')}")
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
            nearest = difflib.get_close_matches(value, self.choices, 1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise self._error(value, ", ".join(self.choices) + hint)
        fault = self.check(value) if self.check is not None and value else None
        if fault is not None:
            raise self._error(value, fault)
        return value


def check_header(value: str) -> str | None:
    """Say what is allowed instead of a response field, or nothing."""
    name, colon, text = value.partition(":")
    # RFC 9110 §5.5: tab, visible characters and spaces, and what is above ASCII as bytes
    if colon and is_token(name.encode()) and re.fullmatch("[\t -~\x80-\xff]*", text):
        return None
    return "Name: value, without line ends, in Latin-1"


def check_mode(value: str) -> str | None:
    """Say what is allowed instead of a file mode, or nothing."""
    return None if re.fullmatch("0?[0-7]{3}", value) else "an octal file mode such as 660"


def check_path(value: str) -> str | None:
    """Say what is allowed instead of a path of a URL, or nothing."""
    return None if re.fullmatch(r"/[!-~]*", value) and not set(value) & set("?#%") else "a path such as /healthz"


def check_token(value: str) -> str | None:
    """Say what is allowed instead of a token, or nothing."""
    return None if re.fullmatch("[!-~]{16,256}", value) else "16 to 256 visible ASCII characters, without spaces"


def check_owner(value: str) -> str | None:
    """Say what is allowed instead of the owner of a file, or nothing."""
    return None if re.fullmatch(r"[\w.-]+(?::[\w.-]+)?|:[\w.-]+", value) else "user:group, user or :group"


def check_origin(value: str) -> str | None:
    """Say what is allowed instead of a pattern of origins, or nothing."""
    if re.fullmatch(r"\*|null|\*\.[^/*:]+|[a-z][a-z0-9+.-]*://[^/*]+/?", value, re.IGNORECASE):
        return None
    return "an origin such as https://example.com, or *.example.com for every host below it"


# ---- names


def spelled(name: str) -> str:
    """Give the flag of an option."""
    return "--" + name.replace("_", "-")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Give the end of an error: the name among `known` that was probably meant, or where to find it."""
    nearest = difflib.get_close_matches(name, known, 1)
    return f"did you mean {nearest[0]}?" if nearest else "asgiws --help lists the options"
