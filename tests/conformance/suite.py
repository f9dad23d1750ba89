"""The Autobahn test suite: where it comes from, and one run of its fuzzing client.

`find_suite` looks for, in this order: a CPython 2.7 that has pip (`python2.7` or `python2` on PATH, or a version that
pyenv has), into which nothing is installed: the suite goes once into a private folder of the user's cache; a `wstest`
on PATH; the public Docker image. A candidate counts when it can print the suite's version.

`run_cases` runs selected cases against a server. `wstest` has three traits that shape it: it writes its report only
at its end, so a run has a time limit and what it did not write is missing; with no case selected it hangs, so an
empty selection is refused here; and it exits 0 when the server has died, so its exit status proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

__all__ = ["Suite", "SuiteError", "find_suite", "run_cases"]

VERSION: Final = "0.8.2"
CONSTRAINTS: Final = Path(__file__).with_name("autobahn-constraints.txt")
DOCKER_IMAGE: Final = "crossbario/autobahn-testsuite"
PROBE_TIMEOUT_S: Final = 60
INSTALL_TIMEOUT_S: Final = 900

BOOTSTRAP: Final = (
    "import site, sys; folder = sys.argv.pop(1); sys.path.insert(0, folder); site.addsitedir(folder); "
    "from autobahntestsuite.wstest import run; run()"
)
"""The suite's entry point, started from its folder. `addsitedir` and not PYTHONPATH alone: the namespace package
`zope` exists only through its .pth file."""


class SuiteError(Exception):
    """The suite cannot be run here; the text says what was looked for."""


class Suite(NamedTuple):
    """A way to run the suite: the words of its command, and how to name it to a person."""

    wstest: tuple[str, ...]
    description: str


def find_suite(report: Path, *, docker: bool) -> Suite:
    """Find the suite and install it where needed. Raises SuiteError where there is none.

    `report` is the folder that a container must see; `docker` allows the image, which is downloaded when missing.
    """
    tried: list[str] = []
    for suite in _candidates(report, docker, tried):
        if f"AutobahnTestSuite {VERSION}" in _output([*suite.wstest, "-a"], INSTALL_TIMEOUT_S):
            return suite
        tried.append(f"{suite.description} does not print version {VERSION}")
    raise SuiteError("; ".join(tried))


def run_cases(
    suite: Suite, port: int, cases: Sequence[str], *, agents: Sequence[str], folder: Path, timeout_s: float
) -> str | None:
    """Run `cases` once for each name in `agents`; the report is in `folder`. Gives what went wrong, or None."""
    if not cases:
        raise ValueError("no case selected: wstest would not end")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = {
        "outdir": str(folder),
        "servers": [{"agent": agent, "url": f"ws://127.0.0.1:{port}"} for agent in agents],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec_path = folder / "spec.json"
    spec_path.write_text(json.dumps(spec, indent=2))
    with (folder / "wstest.log").open("wb") as log:
        try:
            command = [*suite.wstest, "-m", "fuzzingclient", "-s", str(spec_path)]
            status = _run(command, stdout=log, timeout_s=timeout_s).returncode
        except subprocess.TimeoutExpired:
            return f"wstest did not end within {timeout_s:.0f} s"
    return f"wstest exited with status {status}, see {log.name}" if status else None


def _candidates(report: Path, docker: bool, tried: list[str]) -> Iterator[Suite]:
    """Give the ways to run the suite, best first; append to `tried` what is not there."""
    interpreter = _find_interpreter()
    if interpreter is None:
        tried.append("no Python 2.7 with pip (python2.7 or python2 on PATH, or in pyenv's versions)")
    else:
        try:
            folder = str(_install(interpreter))
        except SuiteError as error:
            tried.append(f"{interpreter}: {error}")
        else:
            yield Suite((interpreter, "-W", "ignore", "-c", BOOTSTRAP, folder), f"{interpreter} with {folder}")
    wstest = shutil.which("wstest")
    if wstest is None:
        tried.append("no wstest on PATH")
    else:
        yield Suite((wstest,), wstest)
    container = shutil.which("docker") if docker else None
    if container is None:
        tried.append("no docker on PATH" if docker else "Docker not asked for")
    else:
        user = f"{os.getuid()}:{os.getgid()}"
        words = (container, "run", "--rm", "--network", "host", "--user", user, "-v", f"{report}:{report}")
        yield Suite((*words, DOCKER_IMAGE, "wstest"), f"the image {DOCKER_IMAGE}")


def _find_interpreter() -> str | None:
    """Give the path of the first CPython 2.7 that has pip. A shim of pyenv may be on PATH and lead nowhere."""
    candidates = [path for name in ("python2.7", "python2") if (path := shutil.which(name))]
    if pyenv := shutil.which("pyenv"):
        root = _output([pyenv, "root"]).strip()
        candidates += sorted(map(str, Path(root, "versions").glob("2.7*/bin/python")), reverse=True) if root else []
    probe = "import pip, platform, sys; print(platform.python_implementation(), sys.version_info[:2], sys.executable)"
    for path in candidates:
        if "CPython" in (seen := _output([path, "-c", probe])) and "(2, 7)" in seen:
            return path
    return None


def _install(interpreter: str) -> Path:
    """Install the suite once for this interpreter and these constraints, and give its folder."""
    key = hashlib.sha256(CONSTRAINTS.read_bytes() + interpreter.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asgiws"
    folder = cache / f"autobahn-{key}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Into a folder aside and then renamed: an interrupted install is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=cache, prefix="installing-") as aside:
        command = [
            *(interpreter, "-W", "ignore", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--target", f"{aside}/suite", "-r", str(CONSTRAINTS)),
        ]
        try:
            done = _run(command, stdout=subprocess.PIPE, timeout_s=INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SuiteError(f"pip did not install the suite within {INSTALL_TIMEOUT_S} s") from None
        if done.returncode:
            raise SuiteError(f"pip could not install the suite:\n{done.stdout[-4000:]}")
        if not folder.is_dir():
            Path(aside, "suite").rename(folder)
    return folder


def _output(command: Sequence[str], timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Give what a command prints, and nothing where it fails."""
    try:
        done = _run(command, stdout=subprocess.PIPE, timeout_s=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _run(command: Sequence[str], *, stdout: int | IO[bytes], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command of Python 2.7's world: no input, both outputs in one, and without what is meant for Python 3."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
