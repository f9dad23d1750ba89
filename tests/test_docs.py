"""What the READMEs say exists, and their examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from asgiws.cli import make_parser
from asgiws.config.option import spelled
from asgiws.config.options import OPTIONS, Config
from asgiws.config.sources import Settings
from asgiws.protocol import errors
from tests.docs import ROOT, TABLES, with_table

DOCUMENTS = sorted(
    path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FLAGS_OF_OTHERS = {"--strict", "--init", "--user"}


def words_of(document: Path) -> str:
    return document.read_text()


@pytest.mark.parametrize(("name", "mark", "make"), TABLES, ids=[mark for _, mark, _ in TABLES])
def test_table_in_the_documents_is_made_from_the_code(name: str, mark: str, make: object) -> None:
    text = (ROOT / name).read_text()
    assert callable(make)
    assert with_table(text, mark, make()) == text, "run: python -m tests.docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_files_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", words_of(document)):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document: Path) -> None:
    for name in re.findall(r"`((?:asgiws|tests|deploy)/[\w./-]+)`", words_of(document)):
        assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_options_that_the_readme_names_exist() -> None:
    known = {flag for action in make_parser()._actions for flag in action.option_strings}
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", words_of(ROOT / "README.md")):
        assert flag in known | FLAGS_OF_OTHERS, f"README.md names {flag}"


@pytest.mark.parametrize(
    "example", re.findall(r"```python\n(.*?)```", words_of(ROOT / "README.md"), re.S), ids=lambda text: text[:20]
)
def test_python_examples_of_the_readme_run(example: str, tmp_path: Path) -> None:
    # An example that would serve until a signal is run as a module, so that it defines all and serves nothing.
    program = tmp_path / "example.py"
    program.write_text(example)
    command = [sys.executable, str(program)] if "asyncio.run(" in example else [sys.executable, "-c", "import example"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_toml_example_of_the_readme_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```toml\n(.*?)```", words_of(ROOT / "README.md"), re.S)
    (tmp_path / "chat.toml").write_text(example)
    (tmp_path / "chat.env").write_text("")
    settings = Settings.load({"config": "chat.toml"}, {})
    assert settings.app == "chat.main:app"
    assert settings.config == Config(
        port=9000, header=("X-Frame-Options: DENY",), allowed_origins=("https://chat.example", "*.chat.example"),
        max_message_size=65536, idle_timeout=300, env_file="chat.env",
    )  # fmt: skip


def test_readme_test_command_is_what_ci_runs() -> None:
    commands = re.findall(r"```sh\n(python3 -m venv .*?pytest[^\n]*)\n```", words_of(ROOT / "README.md"))
    assert len(commands) == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_every_limit_and_deadline_is_listed_with_its_reason() -> None:
    text = words_of(ROOT / "asgiws" / "server" / "README.md")
    for name, option in OPTIONS.items():
        if option.group != "Serving":
            assert f"`{spelled(name)}`" in text, name


def test_every_rule_that_a_peer_can_break_is_named_by_a_test() -> None:
    constants = {id(value): name for name, value in vars(errors).items() if isinstance(value, errors.Rule)}
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*/*.py"))
    for rule in errors.RULES.values():
        assert rule.name in tests or constants[id(rule)] in tests, rule.name
