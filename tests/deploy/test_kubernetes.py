"""The manifests of deploy/kubernetes/: valid by Kubernetes' schemas, in agreement with each other and with us."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
import yaml

from asgiws.config.options import Config
from asgiws.config.sources import Settings
from asgiws.runner.watchdog import stop_most_s
from asgiws.telemetry.prometheus import METRICS
from tests.deploy.fronts import DEPLOY
from tests.programs import find_program

FOLDER = DEPLOY / "kubernetes"
# Kubernetes' own kinds; the schema of a ServiceMonitor is the Prometheus operator's.
OWN = ("Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service")
VERSIONS = ("1.31", "1.34")

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """What `kubectl apply --kustomize` would send."""
    return [manifest for file in resources(FOLDER) for manifest in yaml.safe_load_all(file.read_text())]


def resources(folder: Path) -> list[Path]:
    """The files of a kustomization, and of those that it includes."""
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    paths = [folder / name for name in names]
    return [file for path in paths for file in (resources(path) if path.is_dir() else [path])]


def one(kind: str, name: str = "chat") -> Manifest:
    (found,) = (item for item in manifests() if (item["kind"], item["metadata"]["name"]) == (kind, name))
    return found


def pod(name: str = "chat") -> Manifest:
    template: Manifest = one("Deployment", name)["spec"]["template"]
    return template


def container(name: str = "chat") -> Manifest:
    (found,) = pod(name)["spec"]["containers"]
    return dict(found)


def settings() -> Settings:
    """The options that the container's environment gives."""
    environ = {variable["name"]: variable.get("value", "0123456789abcdef") for variable in container()["env"]}
    return Settings.load({}, environ)


def options() -> Config:
    return settings().config


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", manifests(), ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_manifest_is_valid(manifest: Manifest, version: str) -> None:
    if manifest["kind"] == "ServiceMonitor":
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(manifest["spec"]) <= {"selector", "endpoints", "namespaceSelector", "jobLabel", "targetLabels"}
        for endpoint in manifest["spec"]["endpoints"]:
            assert set(endpoint) <= {"port", "path", "interval", "scrapeTimeout"}
        return
    assert manifest["kind"] in OWN
    kubernetes_validate.validate(manifest, version, strict=True)


def test_options_in_the_environment_are_ours() -> None:
    assert settings().warnings == ()
    assert options().admin == "0.0.0.0:9000"


def test_everything_selects_the_pods() -> None:
    labels = pod()["metadata"]["labels"].items()
    selectors = [
        one("Deployment")["spec"]["selector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "chat-admin")["spec"]["selector"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels


def test_named_ports_are_those_that_asgiws_listens_on() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    assert ports == {
        "http": int(re.findall(r"ASGIWS_PORT=(\d+)", dockerfile)[0]),
        "admin": int(options().admin.rpartition(":")[2]),
    }
    used = [port["targetPort"] for name in ("chat", "chat-admin") for port in one("Service", name)["spec"]["ports"]]
    used += [port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert set(used) == set(ports)


def test_probes_ask_the_admin_port() -> None:
    asked = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert asked == {
        "startup": {"path": "/readyz", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
    }


def test_pod_is_given_the_time_that_its_stop_takes() -> None:
    before = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod()["spec"]["terminationGracePeriodSeconds"]
    assert grace >= before + stop_most_s(options()) + 5


def test_readme_has_the_numbers_of_the_manifests() -> None:
    text = (DEPLOY / "README.md").read_text()
    before = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    config = options()
    for row in (
        f"| `preStop` {before} s |",
        f"| `ASGIWS_DRAIN_DELAY` {config.drain_delay:g} s |",
        f"| `ASGIWS_DRAIN_SPREAD` {config.drain_spread:g} s |",
        f"| `terminationGracePeriodSeconds` {pod()['spec']['terminationGracePeriodSeconds']} |",
        f": {before} + {config.drain_delay:g} + {config.graceful_timeout:g} + 9 |",
    ):
        assert row in text, row
    assert (config.workers, "| one worker a pod |" in text) == (1, True)
    (kept_for,) = (rule["from"] for rule in one("NetworkPolicy")["spec"]["ingress"] if "from" in rule)
    (namespace,) = kept_for[0]["namespaceSelector"]["matchLabels"].values()
    assert f"the admin port is for the namespace `{namespace}`" in text


def test_drain_is_noticed_before_it_ends() -> None:
    probe = container()["readinessProbe"]
    assert options().drain_delay > probe["periodSeconds"] * probe["failureThreshold"]
    assert options().drain_spread <= options().graceful_timeout


def test_autoscaler_counts_what_is_exposed_and_scales_the_deployment() -> None:
    spec = one("HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    assert "replicas" not in one("Deployment")["spec"], "they would be set back by each apply"
    metric = spec["metrics"][0]["pods"]["metric"]
    (known,) = (known for known in METRICS if known.name == metric["name"])
    assert set(metric["selector"]["matchLabels"]) == set(known.labels)
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["matches"] == metric["name"]
    assert rule["seriesQuery"].startswith(metric["name"] + "{")


def test_prometheus_finds_the_admin_service() -> None:
    spec = one("ServiceMonitor")["spec"]
    found = [
        item
        for item in manifests()
        if item["kind"] == "Service" and spec["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
    ]
    assert [service["metadata"]["name"] for service in found] == ["chat-admin"]
    ports = {port["name"] for port in found[0]["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in spec["endpoints"]} <= ports
    assert all(endpoint["path"] == "/metrics" for endpoint in spec["endpoints"])


def test_password_of_redis_is_a_file_from_the_secret() -> None:
    (volume,), (mount,) = pod()["spec"]["volumes"], container()["volumeMounts"]
    (item,) = volume["secret"]["items"]
    assert (volume["secret"]["secretName"], mount["name"], mount["readOnly"]) == ("chat", volume["name"], True)
    assert options().broker_password_file == f"{mount['mountPath']}/{item['path']}"
    host = re.findall(r"@(\w+):(\d+)$", options().broker)
    (port,) = one("Service", "redis")["spec"]["ports"]
    assert host == [("redis", str(port["port"]))]


def test_redis_has_the_configuration_of_compose_and_is_for_the_pods_alone() -> None:
    redis, (policy,) = one("Deployment", "redis")["spec"], one("NetworkPolicy", "redis")["spec"]["ingress"]
    assert (redis["replicas"], redis["strategy"]) == (1, {"type": "Recreate"})
    mounts = {mount["name"]: mount["mountPath"] for mount in container("redis")["volumeMounts"]}
    assert mounts == {"configuration": "/etc/redis", "secrets": "/run/secrets"}
    generated = yaml.safe_load((DEPLOY / "redis/kustomization.yaml").read_text())["configMapGenerator"]
    assert generated == [{"name": "redis", "files": ["redis.conf"]}]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["redis"]
    assert container("redis")["image"] == compose["image"]
    assert container("redis")["command"] == compose["command"]
    assert container("redis")["readinessProbe"]["exec"]["command"] == compose["healthcheck"]["test"][1:]

    labels = redis["template"]["metadata"]["labels"].items()
    assert one("Service", "redis")["spec"]["selector"].items() <= labels
    assert one("NetworkPolicy", "redis")["spec"]["podSelector"]["matchLabels"].items() <= labels
    (client,) = policy["from"]
    assert client["podSelector"]["matchLabels"].items() <= pod()["metadata"]["labels"].items()
    (port,) = container("redis")["ports"]
    assert (policy["ports"], port["containerPort"]) == ([{"port": port["name"]}], 6379)


def test_kustomize_takes_the_folder() -> None:
    """With the configuration of Redis, and its name wherever it is mounted."""
    done = subprocess.run([find_program("kubectl"), "kustomize", FOLDER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = (item for item in yaml.safe_load_all(done.stdout) if item["kind"] == "ConfigMap")
    assert made["data"] == {"redis.conf": (DEPLOY / "redis/redis.conf").read_text()}
    assert done.stdout.count(f"name: {made['metadata']['name']}\n") == 2


@pytest.mark.parametrize("name", ["chat", "redis"])
def test_pod_has_no_rights_and_no_foreign_options(name: str) -> None:
    spec = pod(name)["spec"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    security = spec["securityContext"]
    if name == "chat":
        user = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY.parent / "Dockerfile").read_text(), re.MULTILINE)
        assert [(str(security["runAsUser"]), str(security["runAsGroup"]))] == user
    assert security["runAsNonRoot"] is True
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
