"""Where options come from: flags, environment, files. One call reads them all, and says where each value came from.

A flag goes before the environment, the environment before the file, the file before the default.

* Environment: `ASGIWS_MAX_QUEUE` for `--max-queue`, `ASGIWS_APP` for the application, and below those the variables
  that other servers read too (`Option.variables`). What the file of `--env-file` adds counts as environment; a variable
  that is really there goes before it.
* File: that of `--config` or `ASGIWS_CONFIG`, else `pyproject.toml` in the current folder when it has `[tool.asgiws]`.
  A file of that name is read from that table, any other from its top. Keys are the options, with `_` or `-` and in each
  spelling that a flag has, and `app`. Paths in it are relative to the current folder, as those of flags are.

Nothing is changed here: files are read, and what they add to the environment is handed to the caller. A value that is
not allowed is refused wherever it stands, also where another one goes before it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from asgiws.config.envfile import read_env_file
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
# What stands for a byte that is no UTF-8 (`os.fsdecode`)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Where the comments of `as_toml` begin, when no line is longer
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
    """Variables of the env file that the environment has not: to be set before the application is imported."""
    warnings: tuple[str, ...]
    """Lines for the operator."""

    @classmethod
    def load(
        cls, flags: Mapping[str, object], environ: Mapping[str, str], typed: Mapping[str, str] | None = None
    ) -> Settings:
        """Read all layers. Raises OptionError, one line, for what cannot be read or is not allowed.

        `flags` are the given ones by name, with `app` and `config`; other names are left alone. `typed` has the flags
        that were typed for them, where those have other spellings. To read the files again later, give the environment
        as it was before `environment` was set: a variable that is there goes before the env file.
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

    def as_toml(self) -> str:
        """Give the application and every option as a TOML file in printable ASCII, each with its origin behind it."""
        values = {_APP: self.app} if self.app else {}
        for name, option in OPTIONS.items():
            value = getattr(self.config, name)
            values[name] = "***" if option.secret and value else value
        return "\n".join(
            f"{_toml_line(name, value):{_COLUMN}}  # {escape(self.origins[name])}" for name, value in values.items()
        )


def _checked(name: str, value: object, origin: str) -> tuple[Any, str]:
    """Give a value in its option's type, with its origin."""
    if name == _APP:
        if not isinstance(value, str):
            raise OptionError(f"{escape(origin)}: {value!r} was given, allowed: module:attribute, such as app:app")
        return value, origin
    try:
        return OPTIONS[name].convert(value), origin
    except OptionError as error:
        raise _with_origin(error, origin) from None


def _with_origin(error: OptionError, origin: str) -> OptionError:
    """Put the origin before an error that begins with the flag; a flag is its own."""
    return error if origin.startswith("flag ") else OptionError(f"{escape(origin)}, {error}")


def _make_config(given: _Layer) -> Config:
    try:
        return Config(**{name: value for name, (value, _) in given.items()})
    except OptionError as error:
        # Each value is allowed, and they do not go together: name the origins of those that the line names.
        flags = re.findall("--[a-z0-9-]+", str(error))
        origins = [escape(origin) for name, (_, origin) in given.items() if spelled(name) in flags]
        others = [origin for origin in origins if not origin.startswith("flag ")]
        raise OptionError(f"{error} ({', '.join(others)})" if others else str(error)) from None


def _unused(given: _Layer, config: Config) -> Iterator[str]:
    """Give a line for host and port where they are given and something else says what is listened on."""
    instead = [name for name in ("bind", "uds", "fd") if getattr(config, name) not in ((), "", -1)]
    for name in ("host", "port"):
        if instead and name in given:
            line = f"{spelled(name)} is not used: {spelled(instead[0])} names the addresses"
            yield str(_with_origin(OptionError(line), given[name][1]))


# ---- the file


def _read_config_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> _Layer:
    """Give what the file of --config, of ASGIWS_CONFIG, or pyproject.toml says."""
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
    """Give what the env file adds to the environment."""
    try:
        values = read_env_file(path, environ) if path else {}
    except OptionError as error:
        raise _with_origin(OptionError(f"--env-file: {error}"), origin) from None
    added = {name: (value, f"{name} in env file {path}") for name, value in values.items() if name not in environ}
    for name in (_CONFIG, f"{_PREFIX}ENV_FILE"):
        if name in added:
            raise OptionError(f"{escape(added[name][1])}: it is read too late, allowed: a flag or the environment")
    return added


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
    """Give a line for each variable of ours that is no option: a mistake, or another program's, so no error."""
    warnings = []
    for variable, (_, origin) in variables.items():
        if variable.startswith(_PREFIX) and variable not in _VARIABLES and variable != _CONFIG:
            alias = _KEYS.get(variable.removeprefix(_PREFIX).lower())
            meant = variable.upper() if alias is None else _PREFIX + alias.upper()
            hint = did_you_mean(meant, (*_VARIABLES, _CONFIG))
            warnings.append(f"{escape(origin)} is not used, there is no such option; {hint}")
    return tuple(warnings)


# ---- text


def _toml_line(name: str, value: object) -> str:
    """Give a line of the file; a comment when a path has bytes that are no UTF-8, which no TOML file can hold."""
    line = f"{name} = {_toml(value)}"
    text = "".join(value) if isinstance(value, tuple) else str(value)
    return f"# not UTF-8: {line}" if _SURROGATE.search(text) else line


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str):
        return str(value)
    return '"' + "".join(map(_toml_character, value)) + '"'


def _toml_character(character: str) -> str:
    # JSON's escapes are TOML's, but for what JSON writes as a pair of surrogates.
    return json.dumps(character)[1:-1] if character <= "\uffff" else f"\\U{ord(character):08x}"
