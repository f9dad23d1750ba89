"""The table of options: each one's default, its bounds, its units, and the line that refuses what it does not take."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from asgiws.config.option import OptionError, spelled
from asgiws.config.options import OPTIONS, Config, unknown_option
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.deflate import DeflateSettings

NUMBERS = [name for name, option in OPTIONS.items() if option.kind in ("count", "bytes", "seconds")]
COUNTS = [name for name in NUMBERS if OPTIONS[name].kind != "seconds"]
BOUNDED = [name for name in NUMBERS if OPTIONS[name].most < 2**62]
OF_KIND = {
    kind: [name for name, option in OPTIONS.items() if option.kind == kind]
    for kind in ("text", "choice", "flag", "count", "bytes", "seconds", "list")
}

# The documented bounds, apart from the table: a change of one is a change of a promise.
LEAST = {
    "fd": -1, "backlog": 1, "shutdown_code": 1000, "compression_window_bits": 9,
    "close_timeout": 0.01, "max_head_size": 256, "max_headers": 1, "max_message_size": 1, "ping_misses": 1,
    "max_publish_size": 1, "max_queue": 1, "max_queue_bytes": 1, "reload_delay": 0.01, "retry_after": 1,
    "topic_queue": 1,
}  # fmt: skip
MOST = {
    "port": 65535, "shutdown_code": 4999, "compression_level": 9, "compression_window_bits": 15,
    "workers": 1024,
}  # fmt: skip


def least(name: str) -> float:
    return LEAST.get(name, 0)


def alone(name: str, value: object) -> dict[str, object]:
    """Options in which one value is at its bound, and the one bound to it makes room."""
    if name == "ssl_client_cert" and value != "none":
        return {"ssl_certfile": "server.pem", "ssl_ca_certs": "ca.pem", name: value}
    bound: dict[str, dict[str, object]] = {
        "drain_spread": {"graceful_timeout": 2**62},
        "drain_notice": {"graceful_timeout": 2**62},
        "broker_required": {"broker": "redis://localhost"},
    }
    return {**bound.get(name, {}), name: value}


def given(name: str, value: object) -> Any:
    """The value that the option has after it was given."""
    return getattr(Config.from_options(alone(name, value)), name)


def refusal(name: str, value: object) -> str:
    """The line that refuses a value."""
    with pytest.raises(OptionError) as raised:
        Config.from_options(alone(name, value))
    line = str(raised.value)
    assert "\n" not in line
    return line


# ---- the table


def test_every_field_is_an_option() -> None:
    """A field without its row would be an option without a flag."""
    assert list(OPTIONS) == [item.name for item in dataclasses.fields(Config)]
    assert {option.name for option in OPTIONS.values()} == set(OPTIONS)


def test_every_option_has_help_a_group_and_a_known_kind() -> None:
    for option in OPTIONS.values():
        assert option.help
        assert option.group
        assert option.kind in OF_KIND
        assert bool(option.choices) == (option.kind == "choice")


def test_no_spelling_is_taken_twice() -> None:
    spellings = [spelled(name) for name in OPTIONS]
    spellings += [f"--{alias}" for option in OPTIONS.values() for alias in option.aliases]
    assert len(spellings) == len(set(spellings))


def test_other_values_of_a_choice_mean_a_choice_of_it() -> None:
    for option in OPTIONS.values():
        assert set(option.also.values()) <= set(option.choices)
        assert {word for word in option.also if word in option.choices and option.also[word] != word} == set()


@pytest.mark.parametrize("name", OPTIONS)
def test_default_is_a_value_that_the_option_takes(name: str) -> None:
    """It passes its own check unchanged, in value and in type."""
    default = getattr(Config(), name)
    assert given(name, default) == default
    assert type(given(name, default)) is type(default)


@pytest.mark.parametrize("name", NUMBERS)
def test_least_value_is_taken_and_one_below_is_refused(name: str) -> None:
    """Limits at N and N - 1."""
    step = 0.001 if OPTIONS[name].kind == "seconds" else 1
    assert given(name, least(name)) == least(name)
    line = refusal(name, least(name) - step)
    assert line.startswith(f"{spelled(name)}: {least(name) - step!r} was given, allowed: {least(name):g} ")


@pytest.mark.parametrize("name", NUMBERS)
def test_most_value_is_taken_and_one_above_is_refused(name: str) -> None:
    """Limits at N and N + 1; what has no documented bound takes as much as a machine can count."""
    most = MOST.get(name, 2**62)
    assert given(name, most) == most
    assert refusal(name, most + 1 if most < 2**62 else most * 2).startswith(f"{spelled(name)}: ")


def test_bounds_of_the_table_are_the_documented_ones() -> None:
    assert {name: OPTIONS[name].least for name in NUMBERS if OPTIONS[name].least != 0} == LEAST
    assert {name: OPTIONS[name].most for name in BOUNDED} == MOST


# ---- units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536), ("0", 0), ("64b", 64), ("64k", 65536), ("64kb", 65536), ("64KiB", 65536), ("64 KiB", 65536),
        ("16m", 16 * 2**20), ("16MB", 16 * 2**20), ("16MiB", 16 * 2**20), ("1g", 2**30), ("1GiB", 2**30),
        ("0.5k", 512), ("1.5MiB", 3 * 2**19), (" 64k ", 65536),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["max_body_size", "max_byte_rate"])
def test_size_takes_units(name: str, text: str, size: int) -> None:
    """Units are of 1024, in any case, with or without a space."""
    value = given(name, text)
    assert value == size
    assert type(value) is int


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("5min", 300), ("1h", 3600), ("2d", 172800), ("0", 0),
        ("1.5s", 1.5), ("0.5 h", 1800), ("30S", 30),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["graceful_timeout", "max_lifetime"])
def test_duration_takes_units(name: str, text: str, seconds: float) -> None:
    assert given(name, text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("name", NUMBERS)
def test_text_that_is_no_number_is_refused(name: str) -> None:
    """The line names the option, what was given, and a number that it takes."""
    for text in ("", " ", "x", "1x", "1 2", "1,5", "1e3", "0x10", "--1", "+1", "1.", ".5", "nan", "inf", "٣"):
        line = refusal(name, text)
        assert line.startswith(f"{spelled(name)}: {text!r} was given, allowed: a number such as ")


@pytest.mark.parametrize("name", OF_KIND["count"])
def test_count_takes_no_unit(name: str) -> None:
    for text in ("1k", "1s", "1m"):
        assert "allowed: a number such as 32" in refusal(name, text)


@pytest.mark.parametrize("name", COUNTS)
def test_number_that_is_not_whole_or_not_finite_is_refused(name: str) -> None:
    """Also what Python cannot make an int of."""
    for value in ("1500.5", 1500.5, math.nan, math.inf, -math.inf, "9" * 400):
        assert refusal(name, value).startswith(f"{spelled(name)}: ")


@pytest.mark.parametrize("name", OF_KIND["seconds"])
def test_duration_that_is_not_finite_is_refused(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf, "9" * 400):
        assert refusal(name, value).startswith(f"{spelled(name)}: ")


@pytest.mark.parametrize("name", NUMBERS)
def test_value_of_another_type_is_no_number(name: str) -> None:
    """True is not 1: it was meant for another option."""
    for value in (None, True, b"1", [1], {"1": 1}):
        assert refusal(name, value) == f"{spelled(name)}: {value!r} was given, allowed: a number"


# ---- the other kinds


@pytest.mark.parametrize("name", OF_KIND["flag"])
def test_flag_takes_the_usual_words(name: str) -> None:
    for word in (True, "true", "True", "yes", "on", "1"):
        assert given(name, word) is True
    for word in (False, "false", "FALSE", "no", "off", "0"):
        assert given(name, word) is False


@pytest.mark.parametrize("name", OF_KIND["flag"])
def test_flag_refuses_other_words(name: str) -> None:
    for value in ("", "2", "enabled", 1, 0, None):
        assert refusal(name, value) == f"{spelled(name)}: {value!r} was given, allowed: true or false"


@pytest.mark.parametrize("name", OF_KIND["choice"])
def test_choice_takes_each_of_its_values(name: str) -> None:
    for choice in OPTIONS[name].choices:
        assert given(name, choice) == choice


@pytest.mark.parametrize("name", OF_KIND["choice"])
def test_choice_refuses_other_values_and_lists_its_own(name: str) -> None:
    for value in ("", "no-such", "AUTO"):
        line = refusal(name, value)
        assert line.startswith(f"{spelled(name)}: {value!r} was given, allowed: {', '.join(OPTIONS[name].choices)}")


def test_choice_suggests_the_nearest_value() -> None:
    assert refusal("log_level", "warn").endswith(", debug (did you mean warning?)")


@pytest.mark.parametrize(
    ("value", "mode"),
    [("true", "shared"), ("TRUE", "shared"), ("on", "shared"), ("1", "shared"), ("false", "off"), ("off", "off"),
     ("0", "off"), ("no", "off"), (True, "shared"), (False, "off"), (1, "shared"), (0, "off")],
)  # fmt: skip
def test_compression_takes_yes_and_no(value: object, mode: str) -> None:
    """uvicorn's --ws-per-message-deflate is a yes or no, and in a TOML file that has a type of its own."""
    assert given("compression", value) == mode


@pytest.mark.parametrize("name", [*OF_KIND["text"], *OF_KIND["choice"]])
@pytest.mark.parametrize("value", [None, 12, b"x", ["x"]])
def test_value_of_another_type_is_no_text(name: str, value: object) -> None:
    shown = "***" if OPTIONS[name].secret else repr(value)
    assert refusal(name, value) == f"{spelled(name)}: {shown} was given, allowed: {OPTIONS[name].allowed}"


@pytest.mark.parametrize("token", ["short", "fifteen letters", "0123456789abcdef\n", "x" * 257, "é" * 16])
def test_admin_token_that_is_short_or_odd_is_refused_and_not_shown(token: str) -> None:
    line = refusal("admin_token", token)
    assert line == "--admin-token: *** was given, allowed: 16 to 256 visible ASCII characters, without spaces"


@pytest.mark.parametrize("prefix", ["p" * 51, "blue green:", "grün:"])
def test_topic_prefix_that_no_frame_has_room_for_is_refused(prefix: str) -> None:
    """With a name of 200 characters, the relay between workers takes 255 bytes."""
    line = refusal("topic_prefix", prefix)
    assert line.endswith("was given, allowed: up to 50 visible ASCII characters, without spaces")
    assert Config.from_options({"topic_prefix": "p" * 50}).topic_prefix == "p" * 50


def test_admin_token_is_not_shown_with_the_options() -> None:
    assert "0123456789abcdef" not in repr(Config(admin_token="0123456789abcdef"))


@pytest.mark.parametrize("address", ["9000", "fd:3", "unix:", "localhost", "a b:1"])
def test_admin_address_is_a_host_and_port_or_a_unix_socket(address: str) -> None:
    assert refusal("admin", address).endswith("allowed: HOST:PORT, [::1]:PORT or unix:/path")


@pytest.mark.parametrize("path", ["healthz", "/a b", "/a?b", "/a#b", "/%41"])
def test_health_path_is_a_plain_path(path: str) -> None:
    assert refusal("health_path", path) == f"--health-path: {path!r} was given, allowed: a path such as /healthz"


@pytest.mark.parametrize("name", OF_KIND["list"])
@pytest.mark.parametrize("value", [None, 1, {"a": "b"}, b"x"])
def test_value_of_another_type_is_no_list(name: str, value: object) -> None:
    assert refusal(name, value) == f"{spelled(name)}: {value!r} was given, allowed: a list of text"


@pytest.mark.parametrize(
    "header", ["X: y", "X:", "X:y", "x-frame-options: DENY", "Cache-Control: no-store, private", "X: caf\xe9"]
)
def test_header_is_a_name_a_colon_and_a_value(header: str) -> None:
    """RFC 9110 §5.1 and §5.5."""
    assert given("header", [header]) == (header,)


@pytest.mark.parametrize(
    "header",
    [
        "X", ": y", " X: y", "X : y", "X\t: y", "X Y: z", "X: y\r\nZ: a", "X: y\nZ: a", "X: \0", "X: \x7f", "é: y",
        "X: €",
    ],
)  # fmt: skip
def test_bad_header_is_refused(header: str) -> None:
    """What would break the response, or smuggle a second field into it, or cannot be encoded."""
    assert refusal("header", [header]).startswith(f"--header: {header!r} was given, allowed: Name: value")


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com", "http://localhost:3000", "*.example.com", "null", "*", "https://example.com:8443",
        "https://Example.com/", "http://[::1]:8000", "chrome-extension://abcdef",
    ],
)  # fmt: skip
def test_origin_is_a_scheme_and_a_host_or_a_pattern(origin: str) -> None:
    """RFC 6454 §6.2."""
    assert given("allowed_origins", [origin]) == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "example.com", "*.example.com/path", "*.example.com:80", "*example.com", "localhost:3000", "https://", "://x",
        "https://example.com/path", "https://*.example.com", "*.",
    ],
)  # fmt: skip
def test_bad_origin_is_refused(origin: str) -> None:
    """One that no Origin field can ever equal."""
    assert refusal("allowed_origins", [origin]).startswith(f"--allowed-origins: {origin!r} was given, allowed: an ori")


@pytest.mark.parametrize("name", OF_KIND["list"])
def test_list_drops_what_is_empty(name: str) -> None:
    """A variable that is set to nothing is an empty list."""
    assert given(name, "") == ()
    assert given(name, f" {OPTIONS[name].separator} ") == ()
    assert given(name, ()) == ()


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4999])
def test_shutdown_code_is_one_that_a_close_frame_can_carry(code: int) -> None:
    """RFC 6455 §7.4."""
    assert given("shutdown_code", code) == code


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_shutdown_code_that_no_close_frame_can_carry_is_refused(code: int) -> None:
    assert refusal("shutdown_code", code).startswith(f"--shutdown-code: {code} was given, allowed: 1000")


# ---- the whole


def test_spread_of_a_drain_may_be_as_long_as_the_graceful_timeout_and_no_longer() -> None:
    """Every WebSocket gets its Close before the server ends what is left."""
    assert Config(graceful_timeout=10, drain_spread=10).drain_spread == 10
    with pytest.raises(OptionError) as raised:
        Config(graceful_timeout=10, drain_spread="10.1s")  # type: ignore[arg-type]  # a Config converts what it is given
    assert str(raised.value) == "--drain-spread: 10.1 s was given, allowed: at most --graceful-timeout, which is 10 s"


def test_notice_and_spread_of_a_drain_fit_into_the_graceful_timeout_together() -> None:
    """Otherwise the last ones would be cut instead of getting their Close."""
    assert Config(graceful_timeout=10, drain_spread=4, drain_notice=6).drain_notice == 6
    for options, said in (
        ({"drain_notice": 11}, "--drain-notice: 11 s was given, allowed: at most --graceful-timeout, which is 10 s"),
        (
            {"drain_spread": 4, "drain_notice": 6.5},
            "--drain-notice: 6.5 s was given with --drain-spread 4 s, allowed: at most --graceful-timeout, which is "
            "10 s, for both together",
        ),
    ):
        with pytest.raises(OptionError) as raised:
            Config.from_options({"graceful_timeout": 10, **options})
        assert str(raised.value) == said


def test_config_is_checked_however_it_is_made() -> None:
    """The constructor converts as the command line does."""
    config = Config(max_queue="7", close_timeout="500ms", header=["a: b"])  # type: ignore[arg-type]  # as users do
    assert (config.max_queue, config.close_timeout, config.header) == (7, 0.5, ("a: b",))
    with pytest.raises(OptionError, match="--port: 70000 was given, allowed: 0 to 65535"):
        Config(port=70000)
    with pytest.raises(OptionError, match="--port: 70000 was given, allowed: 0 to 65535"):
        dataclasses.replace(Config(), port=70000)


def test_config_is_frozen() -> None:
    """Made once; what holds it can rely on it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]  # the test's subject
    assert Config() == Config()
    assert hash(Config()) == hash(Config())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prot", "did you mean port?"),
        ("max-queue", "did you mean max_queue?"),
        ("MAX_QUEUE", "did you mean max_queue?"),
        ("max_mesage_size", "did you mean max_message_size?"),
        ("ws", "leave it out: WebSocket is built in, in one implementation"),
        ("certfile", "use --ssl-certfile"),
        ("zzz", "asgiws --help all lists the options"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(OptionError) as raised:
        Config.from_options({name: 1})
    assert str(raised.value) == f"{name}: there is no such option; {hint}"
    assert str(unknown_option(name)) == str(raised.value)


@pytest.mark.parametrize(
    ("alias", "name"), [(alias, name) for name, option in OPTIONS.items() for alias in option.aliases]
)
def test_other_spelling_as_a_keyword_is_refused_with_the_option_of_that_spelling(alias: str, name: str) -> None:
    """`uvicorn.run(app, ws_max_size=...)` becomes `asgiws.run(app, max_message_size=...)`: the error says so."""
    with pytest.raises(OptionError) as raised:
        Config.from_options({alias.replace("-", "_"): 1})
    assert str(raised.value).endswith(f"there is no such option; did you mean {name}?")


def test_limits_are_the_options() -> None:
    """Every limit of the protocol floor that is an option has that option's value."""
    config = Config(
        max_head_size=301, max_headers=3, max_body_size=4, max_message_size=5, max_frame_size=6, max_queue=9,
        max_queue_bytes=10, max_inflate_ratio=11, max_control_rate=12, max_message_rate=13, max_byte_rate=14,
    )  # fmt: skip
    assert config.limits() == Limits(
        request_line_bytes=301, head_bytes=301, header_count=3, body_bytes=4, message_bytes=5, frame_bytes=6,
        inbox_messages=9, inbox_bytes=10, inflate_ratio=11, control_rate=12, message_rate=13, byte_rate=14,
    )  # fmt: skip


def test_deflate_settings_are_the_options() -> None:
    """zlib's memory goes with the window: 15 and 8 are its own, 12 and 5 those of other servers."""
    config = Config(
        compression="dedicated", compression_level=2, compression_min_size=3, compression_window_bits=12
    )  # fmt: skip
    assert list(dataclasses.asdict(config.deflate_settings()).values()) == ["dedicated", 2, 3, 12, 5]
    assert Config().deflate_settings() == DeflateSettings()
