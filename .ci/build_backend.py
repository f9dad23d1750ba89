"""What builds the package: setuptools, and what pyproject.toml cannot say.

The C module is built where a compiler is there and left out where none is: `asgiws.protocol.websocket.masking` has the
same in Python. One build serves every Python from 3.11 on (abi3). A free-threaded Python has no such stable ABI, so it
gets a module and a wheel of its own. Pages of the package link only to what is installed with them.
"""

import posixpath
import re
import sysconfig
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403 - the functions that a build calls
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")
LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def without_links(text: str, folder: str, kept: str = "") -> str:
    """Replace the links of a page in `folder` by text and path, except those to files of the package `kept`."""

    def replace(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if kept and posixpath.commonpath((path, kept)) == kept:
            return link[0]
        return f"{link[1]} (`{path}` in the source)"

    return LINK.sub(replace, text)


class BuildModule(build_ext):
    """Builds the C module for the stable ABI, where there is one."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the name of the file that is built."""
        self.ext_map[fullname].py_limited_api = STABLE_ABI
        return super().get_ext_filename(fullname)


class BuildWheel(bdist_wheel):
    """Names the wheel after the ABI of the C module."""

    def finalize_options(self) -> None:
        """Leave out an ABI that there is not."""
        if not STABLE_ABI:
            self.py_limited_api = ""
        super().finalize_options()


class BuildPages(build_py):
    """Copies the package; its pages link only to what is copied with them."""

    def build_package_data(self) -> None:
        """Copy all other files, and replace the links out of the package in the pages."""
        super().build_package_data()
        if self.editable_mode:
            return
        top = Path(self.build_lib)
        for page in (top / "asgiws").rglob("*.md"):
            folder = page.parent.relative_to(top).as_posix()
            page.write_text(without_links(page.read_text("utf-8"), folder, "asgiws"), "utf-8")


class Describe(egg_info):
    """Describes the package by its front page, without links to what is not installed."""

    def finalize_options(self) -> None:
        """Replace the links."""
        super().finalize_options()
        metadata = self.distribution.metadata
        metadata.long_description = without_links(metadata.long_description or "", "")


class CollectSources(sdist):
    """Leaves out the tests, of which setuptools would take some, and takes this file."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy what belongs in the sources."""
        own = [name for name in files if Path(name).parts[0] != "tests"]
        super().make_release_tree(base_dir, [*own, ".ci/build_backend.py"])
