"""What pyproject.toml cannot say: how the C module and the wheel depend on the interpreter, and links in pages.

The C module is built where a compiler is there and left out where none is: `asgiws.protocol.websocket.masking` has the
same in Python. One build serves every Python from 3.11 on (abi3). A free-threaded Python has no such stable ABI, so it
gets a module and a wheel of its own.
"""

import posixpath
import re
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py
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


class Sources(sdist):
    """Leaves out the tests, of which setuptools would take some."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy what belongs in the sources."""
        super().make_release_tree(base_dir, [name for name in files if Path(name).parts[0] != "tests"])


setup(
    long_description=without_links(Path("README.md").read_text("utf-8"), ""),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "asgiws.protocol.websocket._masking",
            ["asgiws/protocol/websocket/_masking.c"],
            optional=True,
            py_limited_api=STABLE_ABI,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
    cmdclass={"build_py": BuildPages, "sdist": Sources},
)
