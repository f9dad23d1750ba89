"""The dashboard and the rules of deploy/: Prometheus takes them, and every metric in them is one of ours."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from asgiws.telemetry.prometheus import METRICS
from tests import PATIENCE_S
from tests.deploy.conftest import Site, StartSite
from tests.deploy.fronts import ADDRESSES, DEPLOY
from tests.programs import edited, find_program
from tests.raw import RawClient
from tests.server_process import ServerProcess, free_port
from tests.workers.crew import open_socket

DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
SERIES = {
    series: metric
    for metric in METRICS
    for series in (
        [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        if metric.kind == "histogram"
        else [metric.name]
    )
}


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [note["expr"] for note in dashboard()["annotations"]["list"]]
    return queries + [alert["expr"] for alert in alerts()]


def test_every_metric_and_label_is_ours() -> None:
    for expression in expressions():
        found = re.findall(r"\b(asgiws_\w+)(?:\{([^}]*)\})?", expression)
        assert found, expression
        labels = {label for series, _ in found for label in SERIES[series].labels}
        used = {label for _, matchers in found for label in re.findall(r"(\w+)=", matchers)}
        used |= {word for by in re.findall(r"by \(([^)]*)\)", expression) for word in by.split(", ")}
        assert used <= labels | {"job", "instance", "le"}, expression


def test_every_metric_is_on_the_dashboard() -> None:
    text = DASHBOARD.read_text()
    missing = [metric.name for metric in METRICS if metric.name not in text]
    assert missing == []


def test_counters_are_shown_as_rates() -> None:
    for expression in expressions():
        for series, metric in SERIES.items():
            if re.search(rf"\b{series}\b", expression) and metric.kind in ("counter", "histogram"):
                assert re.search(rf"(rate|increase)\({series}\b", expression), expression


def test_prometheus_takes_configuration_and_rules() -> None:
    program = find_program("promtool", "prometheus")
    for arguments in (["config", "prometheus.yaml"], ["rules", "alerts.yaml"]):
        done = subprocess.run([program, "check", *arguments], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ---- Prometheus itself


class Prometheus:
    """A Prometheus that scrapes both servers of a site each second, with the files of deploy/."""

    def __init__(self, site: Site, folder: Path, processes: list[ServerProcess]) -> None:
        program = find_program("prometheus")
        targets = {f"{name}:9000": site.admin(name) for name in ADDRESSES}
        configuration = (DEPLOY / "prometheus.yaml").read_text()
        (folder / "prometheus.yaml").write_text(
            edited(configuration, targets, {"scrape_interval: 5s": "scrape_interval: 1s"})
        )
        (folder / "alerts.yaml").write_text((DEPLOY / "alerts.yaml").read_text())
        self._port = free_port()
        process = ServerProcess([
            program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ])  # fmt: skip
        processes.append(process)
        process.wait_stderr("Server is ready to receive web requests")

    def ask(self, query: str) -> list[float]:
        """The values that a query has now."""
        address = f"http://127.0.0.1:{self._port}/api/v1/query?{urlencode({'query': query})}"
        with urlopen(address, timeout=PATIENCE_S) as answer:
            return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]

    def wait_for_data(self, query: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not self.ask(query):
            assert time.monotonic() < until_s, f"{query}: nothing"

    def wait_for(self, query: str, values: list[float]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while (found := self.ask(query)) != values:
            assert time.monotonic() < until_s, f"{query}: {found}, not {values}"


def as_grafana_asks(expression: str) -> str:
    """An expression of the dashboard with everything chosen."""
    return expression.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "1m")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nginx"])
def test_every_panel_has_data_in_prometheus(site: StartSite, processes: list[ServerProcess], tmp_path: Path) -> None:
    running = site("--workers", "2")
    prometheus = Prometheus(running, tmp_path, processes)
    clients = [open_socket(running.front.port)[0] for _ in range(5)]
    first = panels()[0]["targets"][0]["expr"]
    prometheus.wait_for(as_grafana_asks(first), [5])
    prometheus.wait_for("sum(up)", [2])
    for client in clients:
        client.socket.close()
    prometheus.wait_for(as_grafana_asks(first), [0])
    with RawClient(running.front.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.read_answer()
    for name in ADDRESSES:  # the proxy would not pass on what breaks a rule
        with RawClient(running.port, ADDRESSES[name]) as client:
            client.send(b"nonsense\r\n\r\n")
            client.read_to_end()
    for panel in panels():
        for target in panel["targets"]:
            if "certificate_days" not in target["expr"]:  # the proxy has the certificate
                prometheus.wait_for_data(as_grafana_asks(target["expr"]))
    for expression in expressions():
        prometheus.ask(as_grafana_asks(expression))  # raises for one that Prometheus does not understand
