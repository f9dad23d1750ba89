"""Images built from the Dockerfiles with buildah, on a base made by debootstrap, and containers made of namespaces.

No engine is needed. A container is a process in process and mount namespaces of its own, whose root is the image,
read-only and with no shell in it, started with what the image's configuration says.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.programs import find_program
from tests.server_process import ROOT, ServerProcess

BASE: Final = "localhost/base"
IMAGE: Final = "localhost/asgiws"
EXAMPLE: Final = "localhost/example"
# What a base has that applications are built on: the interpreter as `python`, with headers and venv.
_PACKAGES: Final = "python3-dev,python3-venv,python-is-python3,ca-certificates"
_SUITE: Final = "bookworm"
_CONTAINER: Final = """\
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for shell in sh bash dash; do mount --bind /dev/null "$root/usr/bin/$shell"; done
mount -o remount,ro,bind "$root"
exec env -i "$@"
"""


class Builder:
    """A store of images."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("images are built by root: run the tests as root, or in a container that has it")
        self._folder = folder
        self._debootstrap = find_program("debootstrap")
        self._program = find_program("buildah")
        find_program("unshare", "util-linux")

    def make_base(self) -> None:
        """Make the base image, of Debian's packages."""
        root = self._folder / "base"
        run(self._debootstrap, "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root))
        (root / "etc" / "pip.conf").write_text(pip_configuration())
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, str(root), "/")
        self._buildah("commit", "--quiet", "--disable-compression", container, BASE)
        self._buildah("rm", container)
        shutil.rmtree(root)

    def build(self, tag: str, context: Path, **arguments: str) -> None:
        """Build an image from the Dockerfile of a context."""
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--volume={path}:{path}:ro" for path in pip_folders()]
        # In OCI's own format there is no HEALTHCHECK.
        options += ["--format=docker", "--pull-never", "--layers=false", "--isolation=chroot"]
        self._buildah("build", *options, f"--tag={tag}", f"--file={context / 'Dockerfile'}", str(context))

    def unpack(self, tag: str) -> Image:
        """Give an image's configuration and a folder with its files."""
        described = json.loads(self._buildah("inspect", "--type=image", tag))
        root = self._buildah("mount", self._buildah("from", "--pull-never", tag))
        return Image(Path(root), described["Docker"]["config"])

    def _buildah(self, *arguments: str) -> str:
        store = ["--root", str(self._folder / "store"), "--runroot", str(self._folder / "run")]
        return run(self._program, *store, "--storage-driver=vfs", *arguments)


class Container(ServerProcess):
    """A process that is the first of a process namespace."""

    def signal(self, number: int) -> None:
        """Send a signal from outside, as an engine does."""
        for pid in self._inside():
            os.kill(pid, number)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self.signal(signal.SIGKILL)
        super().kill()

    def _inside(self) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []


class Image:
    """The files of an image, and its configuration as Docker has it."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config

    def start(self, *command: str, environ: Mapping[str, str] | None = None) -> Container:
        """Start a container, as `docker run --read-only` does; with its own command when none is given."""
        return Container(self._enter([*self.config["Entrypoint"], *(command or self.config["Cmd"])], environ))

    def run(self, *command: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `docker exec` and health checks do: without a shell."""
        return subprocess.run(self._enter(command, environ), capture_output=True, text=True, timeout=60)

    def _enter(self, command: Sequence[str], environ: Mapping[str, str] | None) -> list[str]:
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (environ or {}).items())]
        user, _, group = self.config["User"].partition(":")
        # A process namespace of its own: what is started is process 1, to which only handled signals come.
        outside = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _CONTAINER, "sh", str(self.root)]
        inside = ["/usr/bin/unshare", f"--root={self.root}", f"--wd={self.config['WorkingDir']}"]
        return [*outside, *variables, *inside, f"--setuid={user}", f"--setgid={group}", *command]


def run(*command: str) -> str:
    """Run a command and give its output; its errors are the test's."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def pip_configuration() -> str:
    """Give where this machine's pip finds packages, as a pip.conf."""
    lines = ["[global]"]
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        scope, _, key = name.rpartition(".")
        if scope in ("global", ":env:"):
            lines.append(f"{key} = {' '.join(str(ast.literal_eval(value)).split())}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def pip_folders() -> list[str]:
    """Give the folders and files of this machine that its pip configuration names."""
    words = pip_configuration().split()
    paths = {Path(word) for word in words if word.startswith("/")}
    # An index links to files that may lie beside it.
    paths |= {Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")}
    return [str(path) for path in sorted(paths) if path.exists()]
