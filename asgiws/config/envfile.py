r"""The file of `--env-file`: variables for the application, set before it is imported.

The rules are those that shells, Docker Compose and python-dotenv have in common:

    # a comment; empty lines
    NAME=value                  up to the end of the line, without the spaces around it
    NAME=value # comment        with a space before the #
    export NAME=value           so that a shell can read the file too
    NAME='as it stands'         nothing is replaced; may go over several lines
    NAME="a\tb"                 \n, \r, \t, \\, \" and \$ are replaced; may go over several lines
    NAME=${OTHER}/x             OTHER of the environment, or of a line above; ${OTHER:-text} when there may be none

Of two lines with one name the last counts. An error names the line and never shows it: it may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from asgiws.config.option import OptionError

__all__ = ["parse_env_file", "read_env_file"]

_EMPTY: Final = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_NAME: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=")
_QUOTED: Final = re.compile(r"""[ \t]*(?:'([^']*)'|"((?:[^"\\]|\\.)*)")""", re.DOTALL)
_PLAIN: Final = re.compile(r"[^\n]*")
_COMMENT: Final = re.compile(r"[ \t]#")
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.-]*)(?::-([^}]*))?\}")
_ESCAPE_OR_REFERENCE: Final = re.compile(rf"\\([nrt\\\"$])|{_REFERENCE.pattern}")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}


def read_env_file(path: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of a file; `environ` is for ${NAME}. Raises OptionError for one that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a zero byte
        raise OptionError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return parse_env_file(text, environ)
    except OptionError as error:
        raise OptionError(f"{path!r}, {error}") from None


def parse_env_file(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of a file's text; lines end with a line feed. Raises OptionError with the number of a line."""
    values: dict[str, str] = {}
    position, line = 0, 1
    while position < len(text):
        found = _EMPTY.match(text, position)
        if found is None:
            try:
                name, value, end = _parse_assignment(text, position, environ, values)
            except OptionError as error:
                raise OptionError(f"line {line}: {error}") from None
            values[name] = value
        else:
            end = found.end()
        line += text.count("\n", position, end)
        position = end
    return values


def _parse_assignment(
    text: str, position: int, environ: Mapping[str, str], values: Mapping[str, str]
) -> tuple[str, str, int]:
    """Give name and value, and where the next line begins."""
    head = _NAME.match(text, position)
    if head is None:
        raise OptionError("it is no variable, allowed: NAME=value, or a comment that begins with #")
    plain = _PLAIN.match(text, head.end())
    assert plain is not None
    end = min(plain.end() + 1, len(text))
    if not plain[0].lstrip(" \t").startswith(("'", '"')):
        value = _replace(_REFERENCE, _COMMENT.split(plain[0], 1)[0].strip(" \t"), environ, values)
    else:
        quoted = _QUOTED.match(text, head.end())
        if quoted is None:
            raise OptionError(f"the quote that begins the value of {head[1]} has no end")
        rest = _EMPTY.match(text, quoted.end())
        if rest is None:
            raise OptionError(f"text stands behind the quoted value of {head[1]}, allowed: a comment")
        end = rest.end()
        literal = quoted[1]
        value = _replace(_ESCAPE_OR_REFERENCE, quoted[2], environ, values) if literal is None else literal
    if "\0" in value:
        raise OptionError(f"the value of {head[1]} holds a zero byte, which no variable can")
    return head[1], value, end


def _replace(pattern: re.Pattern[str], text: str, environ: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Replace escapes, when the pattern has them, and references."""

    def replacement(found: re.Match[str]) -> str:
        *escape, name, default = found.groups()
        if name is None:
            return _ESCAPES[escape[0]]
        # The environment before the file, as it is for the variables themselves.
        value = environ.get(name, values.get(name, default))
        if value is None:
            raise OptionError(
                f"${{{name}}} is not set, allowed: a variable of the environment or of a line above, or "
                f"${{{name}:-text}}; in single quotes nothing is replaced"
            )
        return value

    return pattern.sub(replacement, text)
