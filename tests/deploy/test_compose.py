"""deploy/compose.yaml: taken by Docker's own reader, and in agreement with the files it mounts and with us."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from asgiws.config.options import Config
from asgiws.config.sources import Settings
from asgiws.runner.watchdog import stop_most_s
from tests.deploy.fronts import DEPLOY, FILES
from tests.programs import find_program
from tests.server_process import clean_environ

FILE = DEPLOY / "compose.yaml"
REPLICAS = ("app-1", "app-2")
TOKEN = "0123456789abcdef-the-token"


def services() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text())["services"])


def options(name: str) -> Config:
    environ = services()[name]["environment"] | {"ASGIWS_ADMIN_TOKEN": TOKEN}
    settings = Settings.load({}, environ)
    assert settings.warnings == ()
    return settings.config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files in their places, and without the secrets that somebody may have made beside ours."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns(".env", "secrets"))
    return tmp_path


def read(folder: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Have the file read by docker-compose, which needs no engine for that."""
    command = [find_program("docker-compose"), "--file", "deploy/compose.yaml", "config"]
    environ = clean_environ() | dict(environ or {})
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_file_is_taken(folder: Path) -> None:
    make_secrets(folder)
    done = read(folder, {"ASGIWS_ADMIN_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert {*REPLICAS, "nginx", "redis"} <= set(yaml.safe_load(done.stdout)["services"])


def test_without_a_token_it_is_refused_and_says_what_makes_one(folder: Path) -> None:
    """The replicas would start, and their live view would show nothing through the published ports."""
    for environ in ({}, {"ASGIWS_ADMIN_TOKEN": ""}):
        done = read(folder, environ)
        assert done.returncode == 1
        assert "is not set, deploy/make-secrets.sh makes one" in done.stderr


def test_script_makes_secrets_once(folder: Path) -> None:
    """What asgiws takes, the same for both replicas. Redis gets a hash of its password; nobody else can read either."""
    made, accounts = folder / "deploy/secrets", folder / "deploy/secrets/users.acl"
    seen = set()
    for _ in range(2):
        make_secrets(folder)
        found = yaml.safe_load(read(folder).stdout)["services"]
        tokens = {found[name]["environment"]["ASGIWS_ADMIN_TOKEN"] for name in REPLICAS}
        seen.add((*tokens, (made / "redis-password").read_text().strip()))
    ((token, password),) = seen
    assert Settings.load({}, {"ASGIWS_ADMIN_TOKEN": token}).config.admin_token == token
    assert [len(token), len(password)] == [48, 48]
    assert f"user chat on #{hashlib.sha256(password.encode()).hexdigest()} " in accounts.read_text()
    assert [mode_of(path) for path in (folder / "deploy/.env", made, accounts)] == [0o600, 0o700, 0o644]


def test_secrets_are_the_files_that_the_script_makes(folder: Path) -> None:
    make_secrets(folder)
    composed = yaml.safe_load(FILE.read_text())
    for secret in composed["secrets"].values():
        assert (folder / "deploy" / secret["file"]).stat().st_size
    used = {name: service["secrets"] for name, service in composed["services"].items() if "secrets" in service}
    assert used == {"redis": ["users.acl"], "app-1": ["redis-password"], "app-2": ["redis-password"]}
    assert options("app-1").broker_password_file == "/run/secrets/redis-password"
    assert "aclfile /run/secrets/users.acl" in (DEPLOY / "redis/redis.conf").read_text()


def make_secrets(folder: Path) -> None:
    (line,) = {line for line in (DEPLOY / "README.md").read_text().splitlines() if line.startswith("sh deploy/make")}
    subprocess.run(["sh", "-c", line], cwd=folder, check=True)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_redis_is_reached_from_inside_only_and_has_no_rights() -> None:
    service = services()["redis"]
    assert "ports" not in service
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["command"] == ["redis-server", "/etc/redis/redis.conf"]
    (volume,) = service["volumes"]
    assert volume == "./redis/redis.conf:/etc/redis/redis.conf:ro"


def test_mounted_files_exist() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists(), source
        if "build" in service:
            assert (DEPLOY / service["build"] / "Dockerfile").exists()


def test_proxies_and_prometheus_name_the_replicas() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    targets = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"{name}:{options(name).admin.rpartition(':')[2]}" for name in REPLICAS]
    for file in FILES.values():
        named = re.findall(r"\b(app-\d+):8000", (DEPLOY / file).read_text())
        assert set(named) == set(REPLICAS), file


def test_nginx_alone_is_trusted() -> None:
    address = services()["nginx"]["networks"]["default"]["ipv4_address"]
    for name in REPLICAS:
        assert options(name).forwarded_allow_ips == (address,)


def test_nobody_is_given_an_address_that_is_another_ones() -> None:
    """Prometheus and Grafana start before nginx, and get what Docker chooses."""
    (pool,) = yaml.safe_load(FILE.read_text())["networks"]["default"]["ipam"]["config"]
    subnet, chosen = (ipaddress.IPv4Network(pool[name]) for name in ("subnet", "ip_range"))
    named = [service["networks"]["default"]["ipv4_address"] for service in services().values() if "networks" in service]
    fixed = {ipaddress.IPv4Address(address) for address in named}
    assert len(fixed) == len(named) == len(("nginx", *REPLICAS))
    assert chosen.subnet_of(subnet)
    # Docker's gateway is the first address of either
    first = {next(subnet.hosts()), chosen.network_address, next(chosen.hosts())}
    for address in fixed:
        assert address in subnet
        assert address not in chosen
        assert address not in first


def test_docker_waits_longer_than_a_stop_takes() -> None:
    for name in REPLICAS:
        seconds = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert seconds > stop_most_s(options(name)) + 5


def test_comment_has_the_sum_of_the_options() -> None:
    config = options("app-1")
    times = config.drain_delay, config.graceful_timeout, 9
    # Exit handlers of the application have five seconds more.
    assert sum(times) == stop_most_s(config) + 5
    assert f"{' + '.join(f'{seconds:g}' for seconds in times)} = {sum(times):g}:" in FILE.read_text()


def test_drain_is_longer_than_the_proxies_checks_take() -> None:
    """HAProxy's and Caddy's: two of them, a second apart."""
    haproxy = re.findall(r"inter (\d+)s fall (\d+)", (DEPLOY / "haproxy.cfg").read_text())
    caddy = re.findall(r"health_interval (\d+)s", (DEPLOY / "Caddyfile").read_text())
    assert (haproxy, caddy) == ([("1", "2")], ["1"])
    for name in REPLICAS:
        assert options(name).drain_delay > 2


def test_replicas_are_alike_and_have_no_rights() -> None:
    one, two = (dict(services()[name]) for name in REPLICAS)
    for replica in (one, two):
        replica.pop("ports"), replica.pop("networks")
        assert replica["read_only"] is True
        assert replica["cap_drop"] == ["ALL"]
    assert json.dumps(one) == json.dumps(two)
