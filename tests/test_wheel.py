"""What `python -m build` makes: a source distribution and a wheel that anybody can install, with what belongs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

import pytest

from asgiws import __version__
from tests.raw import RawClient
from tests.runner.conftest import processes
from tests.server_process import ROOT, ServerProcess

__all__ = ["processes"]

pytestmark = pytest.mark.slow

LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = f"cp3{sys.version_info.minor}"
ABI = f"{PYTHON}-{PYTHON}t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "cp311-abi3"


def run(*command: str | Path, environ: dict[str, str] | None = None, folder: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both files, built from a copy of the tree without what a clone would not have."""
    pytest.importorskip("build", reason="build is not installed: pip install -e '.[test]'")
    source = tmp_path_factory.mktemp("source") / "tree"
    ignored = shutil.ignore_patterns(".[!c]*", "build", "dist", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    folder = source / "dist"
    run(sys.executable, "-m", "build", "--outdir", folder, source)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder


def without_compiler(environment: Path) -> dict[str, str]:
    return {**os.environ, "CC": "false", "PATH": str(environment / "bin"), "PYTHONPATH": ""}


def test_wheel_serves_every_python_and_has_the_version_of_the_package(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    assert wheel.name.startswith(f"asgiws-{__version__}-{ABI}-")
    assert [path.name for path in built.glob("*.tar.gz")] == [f"asgiws-{__version__}.tar.gz"]


def test_wheel_has_the_package_its_license_and_its_pages_only(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.endswith("/")}
    information = f"asgiws-{__version__}.dist-info/"
    assert {name.partition("/")[0] + "/" for name in names} == {"asgiws/", information}
    assert f"{information}licenses/asgiws/LICENSE" in names
    package = {name for name in names if name.startswith("asgiws/")}
    kinds = {PurePosixPath(name).suffix for name in package - {"asgiws/py.typed"}}
    assert kinds == {".py", ".pyi", ".md", ".html", ".js", ".so"}
    assert len([name for name in package if name.endswith(".so")]) == 1
    tree = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "asgiws").rglob("*") if path.suffix in kinds - {".so"}
    }
    assert tree <= package
    assert "asgiws/CHANGELOG.md" in package


def test_pages_of_the_wheel_link_to_what_is_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for name in names:
        if name.endswith(".md"):
            for link in LINK.findall(wheel.read(name).decode()):
                target = link.partition("#")[0]
                assert not target or "://" in link or os.path.normpath(Path(name).parent / target) in names, (
                    name,
                    link,
                )
    description = BytesParser().parsebytes(wheel.read(f"asgiws-{__version__}.dist-info/METADATA")).get_payload()
    assert "# asgiws" in str(description)
    assert [link for link in LINK.findall(str(description)) if "://" not in link and not link.startswith("#")] == []


def test_sources_have_what_a_build_needs_and_the_tests_not(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {".ci/build_backend.py", "pyproject.toml", "README.md", "asgiws/protocol/websocket/_masking.c"} <= names
    assert not any(name.startswith(("tests/", "deploy/", ".git")) for name in names)


@pytest.mark.parametrize(("defined", "limited"), [((), True), (("-DPy_GIL_DISABLED=1",), False)])
def test_c_module_takes_the_limited_api_where_there_is_one(defined: tuple[str, ...], limited: bool) -> None:
    """A free-threaded build refuses it, and then messages would be unmasked in Python without a word."""
    compiler, include = shutil.which("cc"), sysconfig.get_path("include")
    if compiler is None or not (Path(include) / "Python.h").exists() or not ABI.endswith("abi3"):
        pytest.skip("needs a C compiler and the headers of a Python with a GIL")
    source = ROOT / "asgiws/protocol/websocket/_masking.c"
    macros = run(compiler, "-E", "-dM", *defined, f"-I{include}", source)
    assert ("#define Py_LIMITED_API " in macros) is limited
    run(compiler, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *defined, f"-I{include}", source)


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_installed_where_there_is_no_compiler_it_serves(
    kind: str, built: Path, empty_environment: Path, processes: list[ServerProcess], tmp_path: Path
) -> None:
    [path] = built.glob(kind)
    environ = without_compiler(empty_environment)
    run(empty_environment / "bin/pip", "install", "--force-reinstall", "--no-cache-dir", path, environ=environ)
    look = "from asgiws.protocol.websocket.masking import UNMASK_IN_C; print(UNMASK_IN_C)"
    assert run(empty_environment / "bin/python", "-c", look, environ=environ, folder=tmp_path).split() == [
        str(kind == "*.whl")
    ]
    command = [str(empty_environment / "bin/asgiws"), "asgiws.demo:app", "--port", "0"]
    process = ServerProcess(command, environ=environ, folder=tmp_path)
    processes.append(process)
    process.wait_ready()
    with RawClient(process.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 200
    process.terminate()
    assert process.wait() == 0
