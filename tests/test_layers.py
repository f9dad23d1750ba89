"""The rule of the house: a module imports only what stands below it, and the lowest floor can do no I/O.

Read from the source with `ast`, so that an import inside a function or under TYPE_CHECKING counts like any other. A new
file has to be put into `FLOORS`, at the place where it belongs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import asgiws

PACKAGE = Path(asgiws.__file__).parent

# Bottom up, and within a floor in the order in which the files build on each other.
FLOORS = {
    "protocol": [
        "protocol", "protocol._masking", "protocol.limits", "protocol.networks", "protocol.names", "protocol.errors",
        "protocol.keepalive", "protocol.masking", "protocol.frames", "protocol.closing", "protocol.fields",
        "protocol.http1", "protocol.forwarded", "protocol.body", "protocol.response", "protocol.handshake",
        "protocol.deflate", "protocol.encoder", "protocol.text", "protocol.receiver", "protocol.proxy_protocol",
    ],
    "telemetry": [
        "_version", "addresses", "option", "config", "telemetry", "telemetry.logs", "telemetry.formats",
        "telemetry.access", "telemetry.output", "telemetry.counters", "telemetry.scoreboard", "telemetry.metrics",
    ],
    "settings": ["envfile", "settings"],
    "server": [
        "server", "server.memory", "server.listeners", "server.tls", "server.encryption", "server.context",
        "server.importer", "server.lifespan", "server.acceptor", "server.flow", "server.files", "server.scope",
        "server.proxies", "server.exchange", "server.watch", "server.opening", "server.ending", "server.websocket",
        "server.http", "server.arrival", "server.health", "server.recycling", "server.report", "server.server",
        "server.systemd",
    ],
    "admin": ["admin", "admin.source", "admin.access", "admin.app", "admin.running", "admin.client", "admin.view",
        "admin.commands"],
    "serving": ["server.serving", "server.program"],
    "process": [
        "process", "process.channel", "process.worker", "process.__main__", "process.child", "process.slot",
        "process.supervisor", "process.watching", "process.reloader", "process.starting",
    ],
    "top": ["demo.app", "demo", "", "cli", "__main__"],
}  # fmt: skip
ORDER = [name for floor in FLOORS.values() for name in floor]

NO_IO = {
    "asyncio", "importlib", "logging", "os", "pathlib", "random", "select", "selectors", "signal", "socket",
    "subprocess", "ssl", "threading", "time",
}  # fmt: skip
OPTIONAL = {"uvloop", "watchfiles", "prometheus_client"}

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60
LONGER_FUNCTIONS = {
    "protocol.receiver.Receiver.feed": "the loop over the bytes of every frame: a call less is the speed it is for",
    "protocol.http1.parse_head": "an ordered list of rejections, one a line, that share what was parsed before them",
}


class Import(NamedTuple):
    """One module that another one imports."""

    module: str
    line: int
    inside_function: bool


def path_of(name: str) -> Path:
    """Give the file of a module by its name below the package."""
    path = PACKAGE.joinpath(*name.split(".")) if name else PACKAGE
    if path.is_dir():
        return path / "__init__.py"
    return path.with_suffix(".pyi" if name == "protocol._masking" else ".py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def read_imports(source: str, package: str = "asgiws") -> Iterator[Import]:
    """Give every module that a source imports, absolute, with what it takes from it when that could be a module."""

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, inside)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) + 1 - child.level]
                    base = ".".join([*above, *([base] if base else [])])
                yield Import(base, child.lineno, inside)
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, inside)
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    return visit(ast.parse(source), False)


def imports_of(name: str) -> list[Import]:
    path = path_of(name)
    package = ".".join(["asgiws", *path.parent.relative_to(PACKAGE).parts])
    return list(read_imports(path.read_text(), package))


def own_imports(name: str) -> set[str]:
    """Give the modules of ours that a module imports, by their names below the package; the root's is empty."""
    ours = (found.module for found in imports_of(name) if is_ours(found.module))
    return {module.removeprefix("asgiws").removeprefix(".") for module in ours} & set(ORDER)


def is_ours(module: str) -> bool:
    return module == "asgiws" or module.startswith("asgiws.")


def reachable(name: str) -> set[str]:
    """Give a module of ours and all of ours that it imports, directly or not."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += own_imports(module)
    return seen


# ---- the rule


def test_every_file_stands_on_one_floor() -> None:
    """The lists are complete: a file that nobody placed is a file that nobody checks."""
    assert sorted(name_of(path) for path in source_files()) == sorted(set(ORDER) - {"protocol._masking"})
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", ORDER)
def test_module_imports_only_what_stands_below_it(name: str) -> None:
    """Earlier files of its own floor, and the floors below; so there are no cycles either."""
    above = ORDER[ORDER.index(name) :]
    assert sorted(own_imports(name) & set(above)) == []


@pytest.mark.parametrize("name", FLOORS["protocol"])
def test_protocol_floor_can_do_no_io(name: str) -> None:
    """It knows no loop, no socket, no clock, no log and no chance, whatever way it would come by them."""
    taken = {found.module.partition(".")[0] for module in reachable(name) for found in imports_of(module)}
    assert taken & NO_IO == set()


@pytest.mark.parametrize("name", ORDER)
def test_package_needs_nothing_but_the_standard_library(name: str) -> None:
    """No dependencies at run time; the optional ones are imported where they are used, and only there."""
    foreign = [
        found
        for found in imports_of(name)
        if not is_ours(found.module) and found.module.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert [found for found in foreign if not found.inside_function] == []
    assert {found.module.partition(".")[0] for found in foreign} <= OPTIONAL


@pytest.mark.parametrize("name", ORDER)
def test_nothing_is_imported_by_star(name: str) -> None:
    assert [found for found in imports_of(name) if found.module.endswith(".*")] == []


# ---- sizes


@pytest.mark.parametrize("name", [name_of(path) for path in source_files()])
def test_file_is_not_too_long(name: str) -> None:
    """One owner's worth of things a file."""
    assert len(path_of(name).read_text().splitlines()) <= MOST_LINES_OF_A_FILE


def functions_of(name: str) -> Iterator[tuple[str, int]]:
    """Give each function with its number of lines."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                assert child.end_lineno is not None
                yield f"{prefix}.{child.name}", child.end_lineno - child.lineno + 1
            inner = f"{prefix}.{child.name}" if hasattr(child, "name") and not isinstance(child, ast.alias) else prefix
            yield from visit(child, inner)

    return visit(ast.parse(path_of(name).read_text()), name)


def test_functions_are_not_too_long() -> None:
    """The longer ones are listed with their reason, and only as long as they are longer."""
    longer = {
        function
        for path in source_files()
        for function, lines in functions_of(name_of(path))
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    assert longer == set(LONGER_FUNCTIONS)


# ---- the reader of imports itself


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import asyncio", "asyncio"),
        ("import asyncio.events as e", "asyncio.events"),
        ("from asgiws.server import http", "asgiws.server.http"),
        ("from asgiws.server.http import HTTPConnection", "asgiws.server.http"),
        ("from . import http", "asgiws.server.http"),
        ("from ..protocol import http1", "asgiws.protocol.http1"),
        ("from .http import HTTPConnection", "asgiws.server.http"),
        ("def f():\n    import asyncio", "asyncio"),
        ("if TYPE_CHECKING:\n    import asyncio", "asyncio"),
        ("try:\n    import asyncio\nexcept ImportError:\n    pass", "asyncio"),
        ("class A:\n    async def f(self):\n        import asyncio", "asyncio"),
    ],
)
def test_reader_finds_an_import_wherever_it_stands(source: str, module: str) -> None:
    assert module in {found.module for found in read_imports(source, "asgiws.server")}


def test_reader_tells_the_imports_inside_functions() -> None:
    source = (
        "import a\nif x:\n    import b\ndef f():\n    import c\nclass A:\n    import d\n    def g(self): import e\n"
    )
    assert {found.module: found.inside_function for found in read_imports(source)} == {
        "a": False, "b": False, "c": True, "d": False, "e": True,
    }  # fmt: skip


def test_reader_sees_the_known_imports() -> None:
    """Were it to find nothing, every test above would pass."""
    assert {"protocol.frames", "protocol.closing", "protocol.masking"} <= own_imports("protocol.receiver")
    assert "protocol.limits" in reachable("server.serving")
