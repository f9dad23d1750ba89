"""What the documents say exists, and their examples run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from asgiws.cli import make_parser
from asgiws.config.option import spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.config.sources import Settings
from asgiws.protocol import errors
from asgiws.telemetry.prometheus import METRICS
from tests.conftest import Serve
from tests.docs import ROOT, TABLES, with_table
from tests.raw import RawClient, text

DOCUMENTS = sorted(
    path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
# For users of today: what the tests' pages name belongs to programs of their own, and two pages name what is not there.
PAGES = [
    path
    for path in DOCUMENTS
    if path.relative_to(ROOT).parts[0] != "tests" and path.name not in ("from-uvicorn.md", "CHANGELOG.md")
]
FLAGS_OF_OTHERS = {
    "asgiws top, asgiws close, asgiws publish": {"--once", "--path", "--client", "--percent", "--over", "--worker",
                                                 "--code", "--bytes"},
    "docker": {"--build", "--build-arg", "--detach", "--env", "--file", "--name", "--no-deps", "--profile",
               "--publish", "--read-only", "--rm", "--tag", "--tmpfs", "--ulimit", "--wait"},
    "kubectl": {"--from-file", "--from-literal", "--kustomize", "--output"},
    "pip": {"--no-cache-dir", "--no-deps", "--wheel-dir", "--requirement"},
    "install, systemctl, curl, caddy": {"--mode", "--target-directory", "--now", "--silent", "--config"},
}  # fmt: skip
FRONT_PAGE_BYTES = 6_000


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("name", "mark", "make"), TABLES, ids=[mark for _, mark, _ in TABLES])
def test_table_in_the_documents_is_made_from_the_code(name: str, mark: str, make: object) -> None:
    text = (ROOT / name).read_text()
    assert callable(make)
    assert with_table(text, mark, make()) == text, "run: python -m tests.docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_linked_files_and_headings_exist(document: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#: ]*)(#([^)]*))?\)", document.read_text()):
        linked = document.parent / target if target else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors_of(linked), f"{document.name} links to {target}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_files_exist(document: Path) -> None:
    for name in re.findall(r"`((?:asgiws|tests|deploy)/[\w./-]+)`", document.read_text()):
        assert (ROOT / name).exists(), f"{document.name} names {name}"


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_named_options_exist(document: Path) -> None:
    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    known = known.union(*FLAGS_OF_OTHERS.values())
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", document.read_text()):
        assert flag in known, f"{document.name} names {flag}"


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_named_metrics_exist(document: Path) -> None:
    known = {metric.name for metric in METRICS}
    for name in re.findall(r"`(asgiws_[a-z_]+)`", document.read_text()):
        assert name in known, f"{document.name} names {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_page_is_two_clicks_from_the_front_page(document: Path) -> None:
    reached = {ROOT / "README.md"}
    for _ in range(2):
        for page in list(reached):
            targets = re.findall(r"\]\(([^)#: ]+\.md)(?:#[^)]*)?\)", page.read_text())
            reached |= {(page.parent / target).resolve() for target in targets}
    assert document in reached


# ---- the front page

README = (ROOT / "README.md").read_text()


def test_front_page_is_short() -> None:
    assert len(README.encode()) <= FRONT_PAGE_BYTES


def test_extras_of_the_front_page_are_all_that_users_need() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"]) - {"test", "bench", "lint", "applications"}
    (listed,) = re.findall(r"Extras: (.*?\.)\s", README, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == extras


def test_test_command_is_what_ci_runs() -> None:
    commands = re.findall(r"```sh\n(python3 -m venv .*?pytest[^\n]*)\n```", README)
    assert len(commands) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("page", "example"),
    [
        (page, example)
        for page in ("README.md", "deploy/questions.md")
        for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    ],
)
def test_python_examples_run(page: str, example: str, tmp_path: Path) -> None:
    # An example that would serve until a signal is run as a module, so that it defines all and serves nothing.
    program = tmp_path / "example.py"
    program.write_text(example)
    command = [sys.executable, str(program)] if "asyncio.run(" in example else [sys.executable, "-c", "import example"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_application_of_the_front_page_answers_http_and_websocket(serve: Serve) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(example, "app.py", "exec"), namespace)
    server = serve(namespace["app"])
    with RawClient(server.port) as client, RawClient(server.port) as one, RawClient(server.port) as two:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().json() == {"chat": "/rooms/lobby"}
        for number, websocket in enumerate((one, two)):
            websocket.open_websocket("/rooms/lobby")
            websocket.send(text(f"hi {number}"))
            assert websocket.read_text() == f"hi {number}"
        assert one.read_text() == "hi 1"


# ---- tables of reasons


def test_toml_example_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "asgiws/config/README.md").read_text(), re.DOTALL)
    (tmp_path / "chat.toml").write_text(example)
    (tmp_path / "chat.env").write_text("")
    settings = Settings.load({"config": "chat.toml"}, {})
    assert settings.app == "chat.main:app"
    assert settings.config == Config(
        port=9000, header=("X-Frame-Options: DENY",), allowed_origins=("https://chat.example", "*.chat.example"),
        max_message_size=65536, idle_timeout=300, env_file="chat.env",
    )  # fmt: skip


DEFAULTS = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", (ROOT / "deploy/defaults.md").read_text(), re.MULTILINE)
UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "s": 1, "min": 60, "a": 1}


def test_every_limit_and_deadline_is_listed_with_its_reason() -> None:
    listed = {flag for flags, _ in DEFAULTS for flag in re.findall(r"`(--[a-z-]+)`", flags)}
    assert {spelled(name) for name, option in OPTIONS.items() if option.group != "Serving"} <= listed


@pytest.mark.parametrize(("flags", "shown"), DEFAULTS)
def test_defaults_are_those_of_the_code(flags: str, shown: str) -> None:
    """Where the page has a number with a unit, or says that there is none."""
    config = Config()
    values = [getattr(config, flag[2:].replace("-", "_")) for flag in re.findall(r"`(--[a-z-]+)`", flags)]
    number = re.match(r"([\d,.]+) ?(KiB|MiB|s|min|a|)\b", shown)
    if shown in ("none", "off", "no"):
        assert all(value in (0, "", "none", (), -1, False) for value in values)
    elif number and all(isinstance(value, int | float) for value in values):
        assert set(values) == {float(number[1].replace(",", "")) * UNITS[number[2]]}


def test_every_rule_that_a_peer_can_break_is_named_by_a_test() -> None:
    constants = {id(value): name for name, value in vars(errors).items() if isinstance(value, errors.Rule)}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*/*.py"))
    for rule in errors.RULES.values():
        assert rule.name in tests or constants[id(rule)] in tests, rule.name
