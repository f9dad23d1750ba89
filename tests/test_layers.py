"""The rule of the house: a module imports only from its own floor and from those below, and `protocol` can do no I/O.

Read from the source with `ast`, so that an import inside a function or under TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import asgiws

PACKAGE = Path(asgiws.__file__).parent

FLOORS = (
    "_version", "protocol", "config", "schedule", "topics", "telemetry", "server", "admin", "runner", "workers",
    "__init__", "demo", "cli", "__main__",
)  # fmt: skip
"""Bottom up. A floor is a folder; a file beside the folders is one, too."""

NO_IO = {
    "asyncio", "importlib", "logging", "os", "pathlib", "random", "select", "selectors", "signal", "socket",
    "subprocess", "ssl", "threading", "time",
}  # fmt: skip
OPTIONAL = {"uvloop", "watchfiles", "prometheus_client", "dotenv", "redis", "nats", "isal", "zlib_ng"}

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60
LONGER_FUNCTIONS = {
    "Receiver.feed": "the loop over the bytes of every frame: a call less is the speed it is for",
    "parse_head": "an ordered list of rejections, one a line, that share what was parsed before them",
}

SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(name: str) -> int:
    return FLOORS.index(name.removesuffix(".py").partition("/")[0])


def imports_of(name: str) -> Iterator[tuple[str, bool]]:
    """Yield every module that a file imports, with whether it does so inside a function."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, "imports are absolute here"
                assert [alias for alias in child.names if alias.name == "*"] == []
                yield child.module or "", inside
                yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return visit(ast.parse(SOURCES[name].read_text()), False)


def own_imports(name: str) -> set[str]:
    """Return the files of the package that a file imports."""
    found = set()
    for module, _ in imports_of(name):
        package, *rest = module.split(".")
        if package == "asgiws":
            path = "/".join(rest)
            found |= {f"{path}.py", f"{path}/__init__.py".removeprefix("/")} & SOURCES.keys()
    return found - {name}


def test_module_imports_only_its_own_floor_and_those_below() -> None:
    upward = [(name, other) for name in SOURCES for other in own_imports(name) if floor_of(other) > floor_of(name)]
    assert upward == []


def test_no_import_is_circular() -> None:
    graphlib.TopologicalSorter({name: own_imports(name) for name in SOURCES}).prepare()


def test_protocol_can_do_no_io() -> None:
    """It has no loop, no socket, no clock, no log and no randomness."""
    used = [(name, module) for name in SOURCES if name.startswith("protocol/") for module, _ in imports_of(name)]
    assert len(used) > 100
    assert [(name, module) for name, module in used if module.partition(".")[0] in NO_IO] == []


def test_package_needs_nothing_but_the_standard_library() -> None:
    """There are no dependencies at run time; optional ones are imported inside the functions that use them."""
    known = {"asgiws", *sys.stdlib_module_names}
    foreign = [
        (module.partition(".")[0], name, inside)
        for name in SOURCES
        for module, inside in imports_of(name)
        if module.partition(".")[0] not in known
    ]
    assert [(module, name) for module, name, inside in foreign if not inside] == []
    assert {module for module, _, _ in foreign} <= OPTIONAL


def test_files_and_functions_are_not_too_long() -> None:
    sources = {name: path.read_text() for name, path in SOURCES.items()}
    assert [name for name, source in sources.items() if len(source.splitlines()) > MOST_LINES_OF_A_FILE] == []
    longer = {
        function
        for source in sources.values()
        for function, lines in functions_of(ast.parse(source))
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    assert longer <= LONGER_FUNCTIONS.keys()


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield each function with its number of lines."""
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{prefix}{child.name}."
            if not isinstance(child, ast.ClassDef):
                assert child.end_lineno is not None
                yield f"{prefix}{child.name}", child.end_lineno - child.lineno + 1
        yield from functions_of(child, inner)
