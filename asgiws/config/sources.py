"""The sources of options: flags, environment, files. One call reads them all and records where each value came from.

Precedence: flag, environment, file, default.

* Environment: `ASGIWS_MAX_QUEUE` for `--max-queue`, `ASGIWS_APP` for the application, and below those the variables
  that other servers read too (`Option.variables`). The variables of an `--env-file` count as environment; a variable
  that is already set takes precedence over the file's. python-dotenv reads the file.
* File: the one of `--config` or `ASGIWS_CONFIG`, else `pyproject.toml` in the current folder when it has
  `[tool.asgiws]`. A file of that name is read from that table, any other from its top. Keys are the options, with `_`
  or `-` and in each spelling that a flag has, and `app`. Paths in it are relative to the current folder, as those of
  flags are.

Nothing is changed here: files are read, and the caller gets the variables to set. A value that is not allowed is
refused in every source, even where another source takes precedence.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from asgiws.config.option import OptionError, did_you_mean, spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.protocol.printable import escape

__all__ = ["Settings"]

_APP: Final = "app"
_CONFIG: Final = "ASGIWS_CONFIG"
_DEFAULT: Final = "default"
_PYPROJECT: Final = "pyproject.toml"
_PREFIX: Final = "ASGIWS_"
_VARIABLES: Final = {_PREFIX + name.upper(): name for name in (_APP, *OPTIONS)}
_KEYS: Final = {_APP: _APP} | {
    key.replace("-", "_"): name for name, option in OPTIONS.items() for key in (name, *option.aliases)
}
# Where the origins of a listing begin, when no line is longer
_COLUMN: Final = 36

_Layer = dict[str, tuple[Any, str]]  # for each option that is given: its value, converted, and its origin
_Variables = Mapping[str, tuple[str, str]]  # for each variable: its value and its origin


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective options, and where each came from."""

    config: Config
    app: str
    """The application as module:attribute; empty when none was named."""
    origins: Mapping[str, str]
    """For `app` and each option: "flag --port", "environment ASGIWS_PORT", "port in asgiws.toml", "default"."""
    environment: Mapping[str, str]
    """Variables of the env file that are not set yet: to be set before the application is imported."""
    warnings: tuple[str, ...]
    """Lines for the operator, such as unknown variables."""

    @classmethod
    def load(
        cls, flags: Mapping[str, object], environ: Mapping[str, str], typed: Mapping[str, str] | None = None
    ) -> Settings:
        """Read all sources. Raises OptionError, one line, for a value or file that is not allowed.

        `flags` are the given ones by name, with `app` and `config`; other names are ignored. `typed` maps a name to the
        spelling that was typed. To read the files again later, pass the environment as it was before `environment` was
        set, because variables that are set take precedence over the env file.
        """
        typed = typed or {}
        by_flag = {
            name: _checked(name, flags[name], f"flag {typed.get(name, spelled(name))}")
            for name in OPTIONS if name in flags
        }  # fmt: skip
        if flags.get(_APP):
            by_flag[_APP] = flags[_APP], "argument"
        in_file = _read_config_file(flags, environ)
        variables = {name: (value, f"environment {name}") for name, value in environ.items()}
        before = in_file | _from_environment(variables) | by_flag
        added = _read_env_file(*before["env_file"], environ) if "env_file" in before else {}
        variables |= added
        given = in_file | _from_environment(variables) | by_flag
        app, app_origin = given.pop(_APP, ("", _DEFAULT))
        config = _make_config(given)
        return cls(
            config=config,
            app=app,
            origins={_APP: app_origin} | {name: given[name][1] if name in given else _DEFAULT for name in OPTIONS},
            environment={name: value for name, (value, _) in added.items()},
            warnings=(*_unknown_variables(variables), *_unused(given, config)),
        )

    def listing(self) -> str:
        """Return the application and every option, one per line: `name = value  # origin`, in printable ASCII.

        The lines are those of a TOML file, except for characters above U+FFFF, which JSON writes as two escapes.
        """
        values = {_APP: self.app} if self.app else {}
        for name, option in OPTIONS.items():
            value = getattr(self.config, name)
            values[name] = option.hide(value)
        return "\n".join(
            f"{f'{name} = {json.dumps(value)}':{_COLUMN}}  # {escape(self.origins[name])}".replace("\x7f", "\\u007f")
            for name, value in values.items()
        )


def _checked(name: str, value: object, origin: str) -> tuple[Any, str]:
    """Return a value in its option's type, with its origin."""
    if name == _APP:
        if not isinstance(value, str):
            raise OptionError(f"{escape(origin)}: {value!r} was given, allowed: module:attribute, such as app:app")
        return value, origin
    try:
        return OPTIONS[name].convert(value), origin
    except OptionError as error:
        raise _with_origin(error, origin) from None


def _with_origin(error: OptionError, origin: str) -> OptionError:
    """Prefix an error with the origin of the value; it begins with the flag already."""
    return error if origin.startswith("flag ") else OptionError(f"{escape(origin)}, {error}")


def _make_config(given: _Layer) -> Config:
    try:
        return Config(**{name: value for name, (value, _) in given.items()})
    except OptionError as error:
        # Each value is allowed, but not this combination: name the origins of the options that the line names.
        flags = re.findall("--[a-z0-9-]+", str(error))
        origins = [escape(origin) for name, (_, origin) in given.items() if spelled(name) in flags]
        others = [origin for origin in origins if not origin.startswith("flag ")]
        raise OptionError(f"{error} ({', '.join(others)})" if others else str(error)) from None


def _unused(given: _Layer, config: Config) -> Iterator[str]:
    """Yield a warning for host and port where they are given together with other addresses."""
    instead = [name for name in ("bind", "uds", "fd") if getattr(config, name) not in ((), "", -1)]
    for name in ("host", "port"):
        if instead and name in given:
            line = f"{spelled(name)} is not used: {spelled(instead[0])} names the addresses"
            yield str(_with_origin(OptionError(line), given[name][1]))


# ---- the file


def _read_config_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> _Layer:
    """Return the options in the file of --config, of ASGIWS_CONFIG, or in pyproject.toml."""
    if flags.get("config"):
        named, blame = str(flags["config"]), "--config: "
    else:
        named = environ.get(_CONFIG, "")
        blame = f"environment {_CONFIG}, --config: " if named else ""
    path = named or _PYPROJECT
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not named:
            return {}
        raise OptionError(f"{blame}cannot read {path!r}: {error.strerror}") from None
    except ValueError as error:  # not TOML, not UTF-8, or a path with a zero byte
        raise OptionError(f"{blame}{path!r} is not a TOML file: {escape(str(error))}") from None
    if Path(path).name != _PYPROJECT:
        return _from_table(table, path)
    for key in ("tool", "asgiws"):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise OptionError(f"{key} in {escape(path)}: {table!r} was given, allowed: a table")
    return _from_table(table, f"{path} [tool.asgiws]")


def _from_table(table: Mapping[str, object], where: str) -> _Layer:
    given: _Layer = {}
    keys: dict[str, str] = {}
    for key, value in table.items():
        name = _KEYS.get(key.replace("-", "_"))
        origin = f"{key} in {where}"
        if name is None:
            hint = did_you_mean(key.lower().replace("-", "_"), _KEYS)
            raise OptionError(f"{escape(origin)}: there is no such option; {hint}")
        if name in given:
            raise OptionError(f"{escape(origin)}: {keys[name]} is the same option, allowed: one of the two")
        given[name] = _checked(name, value, origin)
        keys[name] = key
    return given


# ---- the environment


def _read_env_file(path: str, origin: str, environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the variables that the env file adds to the environment, with their origins."""
    try:
        values = _parse_env_file(path, environ) if path else {}
    except OptionError as error:
        raise _with_origin(OptionError(f"--env-file: {error}"), origin) from None
    added = {name: (value, f"{name} in env file {path}") for name, value in values.items() if name not in environ}
    for name in (_CONFIG, f"{_PREFIX}ENV_FILE"):
        if name in added:
            raise OptionError(f"{escape(added[name][1])}: it is read too late, allowed: a flag or the environment")
    return added


def _parse_env_file(path: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a .env file; `environ` takes precedence in `${NAME}`. An error shows no value."""
    if importlib.util.find_spec("dotenv") is None:
        raise OptionError(f"{path!r} needs python-dotenv, which is not installed; pip install python-dotenv")
    from dotenv.parser import parse_stream  # optional: the extra dotenv
    from dotenv.variables import parse_variables

    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a zero byte
        raise OptionError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from None
    values: dict[str, str] = {}
    for binding in bindings:
        if binding.error or "\0" in binding.original.string:
            text, line = binding.original
            line += text[: len(text) - len(text.lstrip())].count("\n")  # the text begins with the empty lines before
            raise OptionError(f"{path!r}, line {line} is not allowed; allowed: NAME=value, a comment, an empty line")
        if binding.key and binding.value is not None:
            known = {**values, **environ}
            values[binding.key] = "".join(atom.resolve(known) for atom in parse_variables(binding.value))
    return values


def _from_environment(variables: _Variables) -> _Layer:
    given: _Layer = {}
    for name, option in OPTIONS.items():
        for variable in option.variables:
            if variable in variables:
                given[name] = _checked(name, *variables[variable])
    for variable, name in _VARIABLES.items():
        if variable in variables:
            given[name] = _checked(name, *variables[variable])
    return given


def _unknown_variables(variables: _Variables) -> tuple[str, ...]:
    """Return a warning for each unknown ASGIWS_ variable: it may belong to another program, so it is no error."""
    warnings = []
    for variable, (_, origin) in variables.items():
        if variable.startswith(_PREFIX) and variable not in _VARIABLES and variable != _CONFIG:
            alias = _KEYS.get(variable.removeprefix(_PREFIX).lower())
            meant = variable.upper() if alias is None else _PREFIX + alias.upper()
            hint = did_you_mean(meant, (*_VARIABLES, _CONFIG))
            warnings.append(f"{escape(origin)} is not used: there is no such option; {hint}")
    return tuple(warnings)
