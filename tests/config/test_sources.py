"""The sources of options: precedence, the origin of each value, and the line that refuses one."""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from asgiws.config.option import OptionError
from asgiws.config.options import OPTIONS, Config
from asgiws.config.sources import Settings


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the current folder, and pyproject.toml is looked for there."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def load(
    *, toml: str = "", pyproject: str = "", env: str = "", environ: dict[str, str] | None = None, **flags: object
) -> Settings:
    """Load settings from the texts of files, which are written and named."""
    if toml:
        flags["config"] = write("asgiws.toml", toml)
    if pyproject:
        write("pyproject.toml", pyproject)
    if env:
        flags["env_file"] = write(".env", env)
    return Settings.load(flags, environ or {})


def refusal(
    *, toml: str = "", pyproject: str = "", env: str = "", environ: dict[str, str] | None = None, **flags: object
) -> str:
    """The line that refuses settings."""
    with pytest.raises(OptionError) as raised:
        load(toml=toml, pyproject=pyproject, env=env, environ=environ, **flags)
    line = str(raised.value)
    assert line.isprintable()
    assert line.isascii()
    return line


# ---- precedence


LAYERS: dict[str, dict[str, object]] = {
    "flag --max-queue": {"max_queue": "5"},
    "environment ASGIWS_MAX_QUEUE": {"environ": {"ASGIWS_MAX_QUEUE": "4"}},
    "ASGIWS_MAX_QUEUE in env file .env": {"env": "ASGIWS_MAX_QUEUE=3"},
    "max_queue in asgiws.toml": {"toml": "max_queue = 2"},
    "default": {},
}


@pytest.mark.parametrize("first", range(len(LAYERS)), ids=list(LAYERS))
def test_flag_goes_before_environment_before_env_file_before_file_before_default(first: int) -> None:
    """With the layers above one left out, that one counts, and is named."""
    given: dict[str, object] = {}
    for layer in list(LAYERS.values())[first:]:
        given |= layer
    settings = load(**given)  # type: ignore[arg-type]  # a layer is one keyword
    assert settings.config.max_queue == [5, 4, 3, 2, Config().max_queue][first]
    assert settings.origins["max_queue"] == list(LAYERS)[first]


@pytest.mark.parametrize(
    ("given", "app", "origin"),
    [
        (
            {"app": "a:a", "environ": {"ASGIWS_APP": "b:b"}, "env": "ASGIWS_APP=c:c", "toml": "app='d:d'"},
            "a:a",
            "argument",
        ),
        (
            {"environ": {"ASGIWS_APP": "b:b"}, "env": "ASGIWS_APP=c:c", "toml": "app='d:d'"},
            "b:b",
            "environment ASGIWS_APP",
        ),
        ({"env": "ASGIWS_APP=c:c", "toml": "app='d:d'"}, "c:c", "ASGIWS_APP in env file .env"),
        ({"toml": "app='d:d'"}, "d:d", "app in asgiws.toml"),
        ({}, "", "default"),
    ],
    ids=["argument", "environment", "env-file", "file", "none"],
)
def test_application_comes_from_the_first_layer_that_names_one(given: dict[str, object], app: str, origin: str) -> None:
    settings = load(**given)  # type: ignore[arg-type]  # a layer is one keyword
    assert (settings.app, settings.origins["app"]) == (app, origin)


def test_each_option_takes_its_own_layer() -> None:
    settings = load(toml="port = 1\nbacklog = 1", environ={"ASGIWS_PORT": "2", "ASGIWS_FD": "2"}, fd="3", host="x")
    config = settings.config
    assert (config.host, config.fd, config.port, config.backlog) == ("x", 3, 2, 1)
    assert config == Config(host="x", fd=3, port=2, backlog=1)


def test_every_option_can_be_given_in_a_file() -> None:
    """Each default, written as TOML, comes back in value and type, and says where it comes from."""
    settings = load(toml=Settings.load({}, {}).listing())
    assert settings.config == Config()
    assert settings.origins == {"app": "default"} | {name: f"{name} in asgiws.toml" for name in OPTIONS}


def test_variable_of_other_servers_is_taken_after_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as environment and takes precedence over a file, but not over a variable of asgiws."""
    row = dataclasses.replace(OPTIONS["max_queue"], variables=("OTHERS",))
    monkeypatch.setitem(OPTIONS, "max_queue", row)
    settings = load(toml="max_queue = 2", environ={"OTHERS": "7"})
    assert (settings.config.max_queue, settings.origins["max_queue"]) == (7, "environment OTHERS")
    settings = load(toml="max_queue = 2", environ={"OTHERS": "7", "ASGIWS_MAX_QUEUE": "8"})
    assert (settings.config.max_queue, settings.origins["max_queue"]) == (8, "environment ASGIWS_MAX_QUEUE")
    settings = load(env="ASGIWS_MAX_QUEUE=9", environ={"OTHERS": "7"})
    assert settings.config.max_queue == 9
    assert load(env="OTHERS=9").config.max_queue == 9
    assert refusal(environ={"OTHERS": "x"}).startswith("environment OTHERS, --max-queue: 'x' was given, allowed: ")


# ---- the file


def test_file_takes_units_and_types_and_both_dashes() -> None:
    config = load(
        toml='max-message-size = "64k"\ngraceful_timeout = "5m"\nping-interval = 1.5\naccess_log = false\n'
        'header = ["A: b, c", "D: e"]\nallowed-origins = "https://a.example, *.b.example"\nport = "80"'
    ).config
    assert config == Config(
        max_message_size=65536, graceful_timeout=300, ping_interval=1.5, access_log=False, header=("A: b, c", "D: e"),
        allowed_origins=("https://a.example", "*.b.example"), port=80,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "name"), [(alias, name) for name, option in OPTIONS.items() for alias in option.aliases]
)
def test_other_spelling_is_a_key_too(key: str, name: str) -> None:
    """What was a flag of uvicorn becomes a key as it is."""
    value = getattr(Config(), name)
    text = "[]" if value == () else f"'{value}'"
    for spelling in (key, key.replace("-", "_")):
        assert load(toml=f"{spelling} = {text}").origins[name] == f"{spelling} in asgiws.toml"


def test_pyproject_of_the_current_folder_is_taken() -> None:
    settings = load(pyproject="[project]\nname = 'x'\n[tool.other]\nport = 1\n[tool.asgiws]\nport = 2\n")
    assert (settings.config.port, settings.origins["port"]) == (2, "port in pyproject.toml [tool.asgiws]")


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'", "[tool.other]\nport = 1", "[tool.asgiws]"])
def test_pyproject_without_our_table_says_nothing(text: str) -> None:
    write("pyproject.toml", text)
    assert Settings.load({}, {}).config == Config()


def test_file_that_is_named_goes_instead_of_pyproject() -> None:
    """One file: what counts stands in one place."""
    write("pyproject.toml", "[tool.asgiws]\nport = 1\nbacklog = 2")
    assert load(toml="port = 3").config == Config(port=3)
    write("variable.toml", "port = 4")
    assert load(environ={"ASGIWS_CONFIG": "variable.toml"}).config == Config(port=4)
    assert load(toml="port = 3", environ={"ASGIWS_CONFIG": "variable.toml"}).config == Config(port=3)
    assert load(environ={"ASGIWS_CONFIG": ""}).config == Config(port=1, backlog=2)


def test_named_pyproject_of_another_folder_is_read_from_its_table(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    write("site/pyproject.toml", "[tool.asgiws]\nport = 5")
    settings = load(config="site/pyproject.toml")
    assert (settings.config.port, settings.origins["port"]) == (5, "port in site/pyproject.toml [tool.asgiws]")


def test_file_is_read_again_at_each_call() -> None:
    """What a reload of the options needs."""
    flags = {"config": write("asgiws.toml", "port = 1"), "env_file": write(".env", "A=1")}
    before = Settings.load(flags, {})
    write("asgiws.toml", "port = 2")
    write(".env", "A=2")
    after = Settings.load(flags, {})
    assert (before.config.port, before.environment) == (1, {"A": "1"})
    assert (after.config.port, after.environment) == (2, {"A": "2"})


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("prot = 1", "prot in asgiws.toml: there is no such option; did you mean port?"),
        ("max-mesage-size = 1", "max-mesage-size in asgiws.toml: there is no such option; did you mean max_message_si"),
        ("ws_max_sise = 1", "ws_max_sise in asgiws.toml: there is no such option; did you mean ws_max_size?"),
        ("http = 'h11'", "http in asgiws.toml: there is no such option; leave it out: there is one HTTP parser"),
        ("App = 'a:a'", "App in asgiws.toml: there is no such option; did you mean app?"),
        ("qqq = 1", "qqq in asgiws.toml: there is no such option; asgiws --help all lists the options"),
        ('"caf\xe9\\n" = 1', "caf\\xe9\\n in asgiws.toml: there is no such option"),
        ("[limits]\nmax_queue = 1", "limits in asgiws.toml: there is no such option; "),
        ("max_queue = 1\nws-max-queue = 2", "ws-max-queue in asgiws.toml: max_queue is the same option, allowed: one"),
        ("max_queue = 1\nmax-queue = 2", "max-queue in asgiws.toml: max_queue is the same option"),
        ("port = 'http'", "port in asgiws.toml, --port: 'http' was given, allowed: a number such as 32"),
        ("port = true", "port in asgiws.toml, --port: True was given, allowed: a number"),
        ("ws-max-size = '1x'", "ws-max-size in asgiws.toml, --max-message-size: '1x' was given, allowed: a number"),
        ("factory = 1", "factory in asgiws.toml, --factory: 1 was given, allowed: true or false"),
        ("loop = 'uvlop'", "loop in asgiws.toml, --loop: 'uvlop' was given, allowed: auto, asyncio, uvloop, module"),
        ("host = 1", "host in asgiws.toml, --host: 1 was given, allowed: text"),
        ("host = 1979-05-27", "host in asgiws.toml, --host: datetime.date(1979, 5, 27) was given, allowed: text"),
        ("max_queue = nan", "max_queue in asgiws.toml, --max-queue: nan was given, allowed: 1 or more"),
        ("header = [1]", "header in asgiws.toml, --header: 1 was given, allowed: text"),
        ("app = 1", "app in asgiws.toml: 1 was given, allowed: module:attribute, such as app:app"),
        ("port = \n", "--config: 'asgiws.toml' is not a TOML file: Invalid value (at line 1, column 8)"),
        ("port = 1\nport = 2\n", "--config: 'asgiws.toml' is not a TOML file: Cannot overwrite a value (at line 2"),
    ],
)  # fmt: skip
def test_fault_of_the_file_is_one_line_with_file_and_key(toml: str, said: str) -> None:
    assert refusal(toml=toml).startswith(said)


def test_fault_of_the_file_is_refused_although_a_flag_is_given() -> None:
    """A mistake in the file does not wait for the day on which the flag goes."""
    assert refusal(toml="port = 'x'", port="1").startswith("port in asgiws.toml, --port: 'x' was given")


def test_file_that_cannot_be_read_is_named_with_who_named_it(tmp_path: Path) -> None:
    assert refusal(config="no.toml") == "--config: cannot read 'no.toml': No such file or directory"
    assert refusal(environ={"ASGIWS_CONFIG": "no.toml"}) == (
        "environment ASGIWS_CONFIG, --config: cannot read 'no.toml': No such file or directory"
    )
    assert refusal(config=str(tmp_path)).endswith("Is a directory")
    (tmp_path / "binary").write_bytes(b"\xff")
    assert refusal(config="binary").startswith("--config: 'binary' is not a TOML file: 'utf-8' codec can't decode")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.asgiws]\nprot = 1", "prot in pyproject.toml [tool.asgiws]: there is no such option; did you mean port"),
        ("[tool.asgiws]\nport = -1", "port in pyproject.toml [tool.asgiws], --port: -1 was given, allowed: 0 to 65535"),
        ("[tool]\nasgiws = 1", "asgiws in pyproject.toml: 1 was given, allowed: a table"),
        ("tool = 1", "tool in pyproject.toml: 1 was given, allowed: a table"),
        ("[tool", "'pyproject.toml' is not a TOML file: "),
    ],
)  # fmt: skip
def test_fault_of_pyproject_is_one_line(text: str, said: str) -> None:
    """Even when no flag names the file: to serve without its options would be worse."""
    assert refusal(pyproject=text).startswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"toml": "drain_spread = '31s'"}, " (drain_spread in asgiws.toml)"),
        (
            {"toml": "graceful_timeout = 1", "environ": {"ASGIWS_DRAIN_SPREAD": "2"}},
            " (graceful_timeout in asgiws.toml, environment ASGIWS_DRAIN_SPREAD)",
        ),
        ({"toml": "max_queue = 1", "drain_spread": "31s"}, ", which is 30 s"),
    ],
)
def test_options_that_do_not_go_together_are_named_with_their_origins(given: dict[str, object], said: str) -> None:
    """A default has no origin, and the line names the flags already."""
    line = refusal(**given)  # type: ignore[arg-type]  # a layer is one keyword
    assert line.startswith("--drain-spread: ")
    assert line.endswith(said)


# ---- the env file


@pytest.mark.parametrize("named_by", ["flag", "environment", "file"])
def test_env_file_can_be_named_in_each_layer(named_by: str) -> None:
    write("my.env", "SITE=1\nASGIWS_PORT=9")
    settings = {
        "flag": lambda: load(env_file="my.env"),
        "environment": lambda: load(environ={"ASGIWS_ENV_FILE": "my.env"}),
        "file": lambda: load(toml="env_file = 'my.env'"),
    }[named_by]()
    assert settings.environment == {"SITE": "1", "ASGIWS_PORT": "9"}
    assert settings.config.port == 9
    assert settings.config.env_file == "my.env"
    assert settings.origins["port"] == "ASGIWS_PORT in env file my.env"


def test_environment_goes_before_the_env_file() -> None:
    environ = {"SITE": "real", "ASGIWS_PORT": "1"}
    settings = load(env="SITE=file\nMORE=${SITE}\nASGIWS_PORT=2", environ=environ)
    assert settings.environment == {"MORE": "real"}
    assert settings.config.port == 1
    assert environ == {"SITE": "real", "ASGIWS_PORT": "1"}


def test_env_file_of_a_flag_goes_instead_of_others() -> None:
    write("other.env", "SITE=other")
    assert load(env="SITE=1", toml="env_file = 'other.env'").environment == {"SITE": "1"}
    assert load(env_file="", toml="env_file = 'other.env'").environment == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"env_file": "no.env"}, "--env-file: cannot read 'no.env': No such file or directory"),
        ({"environ": {"ASGIWS_ENV_FILE": "no.env"}}, "environment ASGIWS_ENV_FILE, --env-file: cannot read 'no.env':"),
        ({"toml": "env_file = 'no.env'"}, "env_file in asgiws.toml, --env-file: cannot read 'no.env': No such file"),
        ({"env": "A=1\n\n B='x\n"}, "--env-file: '.env', line 3 is not allowed; allowed: NAME=value, a comment"),
        ({"env": "ASGIWS_PORT=x"}, "ASGIWS_PORT in env file .env, --port: 'x' was given, allowed: a number such as 32"),
        ({"env": "ASGIWS_CONFIG=x"}, "ASGIWS_CONFIG in env file .env: it is read too late, allowed: a flag or the env"),
        ({"env": "ASGIWS_ENV_FILE=x"}, "ASGIWS_ENV_FILE in env file .env: it is read too late, allowed: a flag or the"),
    ],
)  # fmt: skip
def test_fault_of_the_env_file_is_one_line(given: dict[str, object], said: str) -> None:
    assert refusal(**given).startswith(said)  # type: ignore[arg-type]  # a layer is one keyword


def test_env_file_that_the_environment_was_made_from_is_taken() -> None:
    """Compose and systemd can read the same file: then its lines about files are already obeyed."""
    write("asgiws.toml", "port = 3")
    write(".env", "ASGIWS_CONFIG=asgiws.toml\nASGIWS_ENV_FILE=.env")
    settings = load(environ={"ASGIWS_CONFIG": "asgiws.toml", "ASGIWS_ENV_FILE": ".env"})
    assert (settings.config.port, settings.environment) == (3, {})


ENV_FILES = [
    ("", {}),
    ("\n \n# A=1\n", {}),
    ("A=1\r\nB='2'\r\n", {"A": "1", "B": "2"}),
    ("\ufeffA=1", {"A": "1"}),
    ("export A=b # c\nB=b#c", {"A": "b", "B": "b#c"}),
    ("A='one\ntwo'\nB=\"a\\tb\"", {"A": "one\ntwo", "B": "a\tb"}),
    ("A=1\nB=${A}${REAL}${NONE:-x}", {"A": "1", "B": "1yx"}),
    ("REAL=2\nB=${REAL}", {"B": "y"}),
    ("A=1\nA=2\nNAME", {"A": "2"}),
]


@pytest.mark.parametrize(("text", "added"), ENV_FILES, ids=[repr(text) for text, _ in ENV_FILES])
def test_env_file_has_the_rules_of_python_dotenv(text: str, added: dict[str, str]) -> None:
    """Variables that are set already win, in `${NAME}` too."""
    Path("rules.env").write_bytes(text.encode())
    assert load(env_file="rules.env", environ={"REAL": "y"}).environment == added


@pytest.mark.parametrize("text", ["A=1\nB='secret\n", 'A=1\nB="secret', "A=1\nB=sec\0ret"])
def test_bad_line_of_an_env_file_is_named_and_not_shown(text: str) -> None:
    """It may hold a password."""
    line = refusal(env=text)
    assert line.startswith("--env-file: '.env', line 2 is not allowed; allowed: NAME=value, a comment, an empty line")
    assert "secret" not in line


def test_env_file_without_python_dotenv_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(sys.modules, "dotenv", raising=False)
    assert refusal(env="A=1") == (
        "--env-file: '.env' needs python-dotenv, which is not installed; pip install python-dotenv"
    )


# ---- lists


@pytest.mark.parametrize("layer", ["environment", "env file", "file"])
def test_headers_in_one_text_are_separated_by_line_feeds(layer: str) -> None:
    """Commas belong to them."""
    text = "Cache-Control: no-store, private\nVary: Origin\n"
    settings = {
        "environment": lambda: load(environ={"ASGIWS_HEADER": text}),
        "env file": lambda: load(env=f"ASGIWS_HEADER='{text}'"),
        "file": lambda: load(toml=f'header = """{text}"""'),
    }[layer]()
    assert settings.config.header == ("Cache-Control: no-store, private", "Vary: Origin")


def test_other_lists_in_one_text_are_separated_by_commas() -> None:
    environ = {"ASGIWS_ALLOWED_ORIGINS": "https://a.example, null", "ASGIWS_RELOAD_DIR": "src,lib"}
    config = load(environ=environ).config
    assert (config.allowed_origins, config.reload_dir) == (("https://a.example", "null"), ("src", "lib"))


# ---- variables that are no option


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ASGIWS_MAX_CONECTIONS", "did you mean ASGIWS_MAX_CONNECTIONS?"),
        ("ASGIWS_port", "did you mean ASGIWS_PORT?"),
        ("ASGIWS_APPS", "did you mean ASGIWS_APP?"),
        ("ASGIWS_CONFG", "did you mean ASGIWS_CONFIG?"),
        ("ASGIWS_WS_MAX_SIZE", "did you mean ASGIWS_MAX_MESSAGE_SIZE?"),
        ("ASGIWS_0123456789", "asgiws --help all lists the options"),
    ],
)
def test_unknown_variable_is_a_warning_with_the_nearest_name(variable: str, hint: str) -> None:
    """No error: it may be another program's, and nothing that is served depends on it."""
    settings = load(environ={variable: "1", "ASGIWS_PORT": "2", "ASGIWS_CONFIG": "", "OTHER": "3"})
    assert settings.warnings == (f"environment {variable} is not used: there is no such option; {hint}",)
    assert settings.config.port == 2


def test_unknown_variable_of_the_env_file_is_a_warning_with_the_file() -> None:
    assert load(env="ASGIWS_PRT=1").warnings == (
        "ASGIWS_PRT in env file .env is not used: there is no such option; did you mean ASGIWS_PORT?",
    )


# ---- options that are not used


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": "1", "bind": ["127.0.0.1:9"]}, ["--port is not used: --bind names the addresses"]),
        ({"host": "::1", "uds": "/a"}, ["--host is not used: --uds names the addresses"]),
        ({"toml": "fd = 3", "environ": {"ASGIWS_HOST": "::1", "ASGIWS_PORT": "1"}}, [
            "environment ASGIWS_HOST, --host is not used: --fd names the addresses",
            "environment ASGIWS_PORT, --port is not used: --fd names the addresses",
        ]),
        ({"toml": "port = 1", "env": "ASGIWS_UDS=/a"}, [
            "port in asgiws.toml, --port is not used: --uds names the addresses"
        ]),
        ({"host": "::1", "port": "1"}, []),
        ({"bind": ["127.0.0.1:9"], "uds": "/a", "fd": "3"}, []),
        ({"port": "1", "bind": [], "uds": "", "fd": "-1"}, []),
    ],
    ids=["bind", "uds", "fd", "layers", "used", "not-given", "empty"],
)  # fmt: skip
def test_host_and_port_beside_other_addresses_are_a_warning(given: dict[str, object], said: list[str]) -> None:
    assert load(**given).warnings == tuple(said)  # type: ignore[arg-type]  # a layer is one keyword


# ---- the listing


def test_listing_is_a_toml_file_that_gives_the_same() -> None:
    """Every kind of value, and text that has to be escaped."""
    given = load(
        app="a:b", header=["A: \xe9, \"b\"", "C:\td"], root_path="/\u20ac\\\x7f\n", graceful_timeout="0.5", fd="3",
        access_log=False, compression="off", allowed_origins=["null"],
    )  # fmt: skip
    text = given.listing()
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    again = load(toml=text)
    assert (again.config, again.app) == (given.config, given.app)
    assert list(tomllib.loads(text)) == ["app", *OPTIONS]


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])  # the folder is empty
@hypothesis.given(st.text())
def test_any_text_is_one_printable_line_of_the_listing(text: str) -> None:
    lines = Settings.load({"root_path": text}, {}).listing().split("\n")
    assert len(lines) == len(OPTIONS)
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_listing_has_the_origin_of_each_value() -> None:
    lines = (
        load(toml="port = 1\nws_max_queue = 2\nidle_timeout = '5m'", environ={"ASGIWS_BACKLOG": "3"}, fd="4")
        .listing()
        .splitlines()
    )
    for line in (
        'host = "127.0.0.1"                    # default',
        "port = 1                              # port in asgiws.toml",
        "max_queue = 2                         # ws_max_queue in asgiws.toml",
        "idle_timeout = 300.0                  # idle_timeout in asgiws.toml",
        "backlog = 3                           # environment ASGIWS_BACKLOG",
        "fd = 4                                # flag --fd",
    ):
        assert line in lines
    assert len(lines) == len(OPTIONS)


def test_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the options are printed, and not where the value is refused; but that there is one."""
    for name in ("root_path", "max_queue"):
        row = dataclasses.replace(OPTIONS[name], secret=True)
        monkeypatch.setitem(OPTIONS, name, row)
    settings = load(root_path="hunter2")
    assert settings.config.root_path == "hunter2"
    assert tomllib.loads(settings.listing())["root_path"] == "***"
    assert tomllib.loads(load().listing())["root_path"] == ""
    assert refusal(environ={"ASGIWS_MAX_QUEUE": "hunter2"}) == (
        "environment ASGIWS_MAX_QUEUE, --max-queue: *** was given, allowed: a number such as 32"
    )
