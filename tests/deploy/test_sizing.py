"""deploy/sizing.md: its numbers follow from the code and from the files, and the files agree with each other."""

from __future__ import annotations

import re

import pytest
import yaml

from asgiws.config.options import Config
from asgiws.protocol.limits import KIB
from asgiws.server.memory import CONNECTION_BYTES, websocket_terms
from tests.deploy.fronts import DEPLOY

TEXT = (DEPLOY / "sizing.md").read_text()
COUNTS = (10_000, 50_000, 200_000)
SOURCE_PORTS = 60_999 - 32_768 + 1  # Linux' default of net.ipv4.ip_local_port_range
KERNEL_BYTES = 3.65 * KIB  # of a socket, measured
TLS_CONNECTION_BYTES = 18 * KIB


def row(title: str) -> list[float]:
    """Return the numbers of the row whose first cell begins so."""
    (line,) = re.findall(rf"^\| {re.escape(title)}([^|]*\|.*)\|$", TEXT, re.MULTILINE)
    return [float(cell.strip(" %MiB").replace(",", "")) for cell in line.split("|")[1:]]


def setting(file: str, pattern: str) -> int:
    (value,) = re.findall(pattern, (DEPLOY / file).read_text())
    return int(value)


def mib(bytes_each: float) -> list[float]:
    return [round(count * bytes_each / 1024**2) for count in COUNTS]


def test_table_follows_from_the_number_of_sockets() -> None:
    assert row("open WebSockets") == list(COUNTS)
    assert row("descriptors of asgiws") == list(COUNTS)
    assert row("descriptors of the proxy") == [2 * count for count in COUNTS]
    assert row("nginx `worker_connections` with 4") == [2 * count / 4 for count in COUNTS]
    assert row("HAProxy `maxconn`") == list(COUNTS)
    assert f"({SOURCE_PORTS:,} ports each)" in TEXT
    assert row("addresses of asgiws") == [-(-count // SOURCE_PORTS) for count in COUNTS]
    assert row("conntrack entries") == [2 * count for count in COUNTS]


def test_memory_follows_from_the_formula() -> None:
    assert row("memory of asgiws, idle ") == mib(CONNECTION_BYTES)
    assert row("memory of asgiws, idle, with TLS") == mib(TLS_CONNECTION_BYTES)
    assert row("memory of the kernel") == pytest.approx(mib(KERNEL_BYTES), abs=2)
    worst = sum(websocket_terms(Config()).values()) / 1024**2
    small = sum(websocket_terms(Config(max_message_size=64 * KIB, max_queue_bytes=64 * KIB)).values()) / 1024**2
    for text in (TEXT, (DEPLOY.parent / "asgiws" / "server" / "README.md").read_text()):
        assert f"{worst:.0f} MiB" in text
        assert f"{small:.1f} MiB" in text


def test_pings_follow_from_their_interval() -> None:
    # A connection is pinged after half an interval at least and a whole one at most.
    assert row("pings per second") == [round(count / (Config().ping_interval * 0.75)) for count in COUNTS]


def test_settings_of_the_files_are_those_of_the_page() -> None:
    connections = setting("nginx.conf", r"worker_connections (\d+);")
    descriptors = setting("nginx.conf", r"worker_rlimit_nofile (\d+);")
    assert f"`worker_connections {connections}`, `worker_rlimit_nofile {descriptors}` | {connections // 2:,} " in TEXT
    most = setting("haproxy.cfg", r"\n\s+maxconn (\d+)\n")
    assert f"`maxconn {most}` | {most:,} WebSockets" in TEXT
    limit = setting("systemd/asgiws.service", r"\nLimitNOFILE=(\d+)\n")
    assert f"`LimitNOFILE={limit}` | {limit:,} sockets" in TEXT
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    allowed, each = (services[name]["ulimits"]["nofile"] for name in ("nginx", "app-1"))
    assert f"nginx | `nofile: {allowed}` | {allowed // 2:,} WebSockets" in TEXT
    assert f"`nofile: {each}`, `mem_limit: {services['app-1']['mem_limit']}`" in TEXT
    # A process that asks for more than its hard limit does not get it.
    assert connections < descriptors <= allowed
    assert allowed > 2 * most
    # Two replicas, and as many source ports to each of them
    assert most < 2 * SOURCE_PORTS
    (scaled,) = [
        metric["pods"]["target"]["averageValue"]
        for metric in yaml.safe_load((DEPLOY / "kubernetes" / "horizontalpodautoscaler.yaml").read_text())["spec"][
            "metrics"
        ]
        if metric["type"] == "Pods"
    ]
    assert f"autoscaled at {int(scaled):,} sockets" in TEXT
