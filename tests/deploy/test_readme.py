"""deploy/README.md and proxies.md: commands name what exists, and numbers are those of the files and of the code."""

from __future__ import annotations

import re
import shlex
from os.path import basename

import pytest
import yaml

from asgiws.admin.commands import COMMANDS
from asgiws.cli import make_parser
from asgiws.config.options import Config
from asgiws.runner.watchdog import stop_most_s
from tests.deploy.fronts import DEPLOY
from tests.server_process import ROOT

TEXT = (DEPLOY / "README.md").read_text()
PROXIES = (DEPLOY / "proxies.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS_OF_ALL = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
MADE_BY_COMMANDS = {"deploy/.env", "deploy/secrets/users.acl"}


def runs_asgiws(words: list[str]) -> bool:
    return "asgiws" in map(basename, words)


@pytest.mark.parametrize("words", [words for words in COMMANDS_OF_ALL if runs_asgiws(words)], ids=" ".join)
def test_asgiws_takes_the_command(words: list[str]) -> None:
    """Also inside of a container, where what comes behind the image are its arguments."""
    names = [basename(word) for word in words]
    arguments = words[len(words) - names[::-1].index("asgiws") :]
    if not arguments or words[:2] == ["docker", "build"] or words[0] == "systemctl":
        return
    if arguments[0] in COMMANDS:
        assert all(word == "--once" or re.fullmatch(r"[\d.]+:\d+|unix:/\S+", word) for word in arguments[1:])
    else:
        make_parser().parse_args(arguments)


def test_files_in_commands_exist() -> None:
    for words in COMMANDS_OF_ALL:
        for word in words:
            name = word.rstrip(")")
            if name.startswith("deploy/") and name not in MADE_BY_COMMANDS:
                assert (ROOT / name).exists(), name


def test_compose_commands_name_its_services_and_profiles() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert set(re.findall(r"(?:exec|--no-deps) (\S+)", TEXT)) - {"deployment/chat"} == {"app-1", "app-2"}
    assert set(re.findall(r"--profile (\S+)", TEXT)) == profiles
    published = {port.split(":")[-2] for service in services.values() for port in service.get("ports", [])}
    assert published <= set(re.findall(r"<http://127\.0\.0\.1:(\d+)>", TEXT))


def test_container_that_is_stopped_has_been_started_and_stays() -> None:
    runs = [words for words in COMMANDS_OF_ALL if words[:2] == ["docker", "run"] and "--name" in words]
    stopped = [words[-1] for words in COMMANDS_OF_ALL if words[:2] == ["docker", "stop"]]
    assert [words[words.index("--name") + 1] for words in runs] == stopped
    assert all("--detach" in words for words in runs)


def test_variables_of_the_image_are_named() -> None:
    for name in re.findall(r"\b(\w+)=", re.findall(r"^ENV (.*?[^\\])\n", dockerfile(), re.DOTALL | re.MULTILINE)[0]):
        assert name == "PATH" or f"`{name}`" in TEXT, name


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def test_numbers_are_those_of_the_code() -> None:
    config = Config()
    # Exit handlers of the application have five seconds more.
    assert f"{stop_most_s(config) + 5:g} by default" in TEXT
    assert f"`--ping-interval` + `--ping-timeout` (times `--ping-misses`), {config.ping_interval:g} s each" in PROXIES
    assert config.ping_interval == config.ping_timeout
    assert f"`--write-timeout` {config.write_timeout:g} s" in PROXIES
    assert f"`--keep-alive-timeout` {config.keep_alive_timeout:g} s" in PROXIES
    assert f"`--graceful-timeout` {config.graceful_timeout:g} s" in PROXIES


@pytest.mark.parametrize(
    ("file", "setting"),
    [("nginx.conf", "proxy_read_timeout 60s"), ("nginx.conf", "proxy_send_timeout 60s"),
     ("nginx.conf", "worker_shutdown_timeout 5m"), ("nginx.conf", "keepalive_timeout 4s"),
     ("haproxy.cfg", "timeout tunnel 60s"), ("haproxy.cfg", "hard-stop-after 5m"), ("Caddyfile", "keepalive 4s")],
)  # fmt: skip
def test_numbers_are_those_of_the_files(file: str, setting: str) -> None:
    assert setting in (DEPLOY / file).read_text()
    name, value = setting.rsplit(" ", 1)
    assert name.partition("_timeout")[0] in PROXIES
    assert f"{value[:-1]} {'min' if value.endswith('m') else 's'}" in PROXIES
