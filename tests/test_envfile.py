"""The env file: each rule of its docstring, and that a bad line is named and never shown."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.config.envfile import parse_env_file, read_env_file
from asgiws.config.option import OptionError

ENVIRON = {"HOME": "/home/u", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("\n \n\t\n# A=1\n  # A=1\n#", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=", {"A": ""}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ("  A = 1  \n", {"A": "1"}),
        ("export A=1\nexport\tB=2", {"A": "1", "B": "2"}),
        ("export=1", {"export": "1"}),
        ("_A.b-C2=1", {"_A.b-C2": "1"}),
        ("A=b c", {"A": "b c"}),
        ("A=b=c", {"A": "b=c"}),
        ("A=b # c", {"A": "b"}),
        ("A=b\t#c", {"A": "b"}),
        ("A= # c", {"A": ""}),
        ("A=b#c", {"A": "b#c"}),
        ("A=#c", {"A": "#c"}),
        ("A=it's", {"A": "it's"}),
        ('A=a"b"', {"A": 'a"b"'}),
        (r"A=C:\new", {"A": r"C:\new"}),
        ("A=caf\xe9", {"A": "caf\xe9"}),
        ("A=$5$x", {"A": "$5$x"}),
        # single quotes: as it stands
        ("A=''", {"A": ""}),
        ("A='b c'", {"A": "b c"}),
        (r"A='\n${HOME}\'", {"A": r"\n${HOME}" + "\\"}),
        ("A=' b '  # c", {"A": " b "}),
        ("A='b # c'", {"A": "b # c"}),
        ("A='one\n# two\nB=3'\nC=4", {"A": "one\n# two\nB=3", "C": "4"}),
        # double quotes: escapes
        ('A=""', {"A": ""}),
        ('A="b c" # d', {"A": "b c"}),
        (r'A="\n\r\t\\\"\$"', {"A": '\n\r\t\\"$'}),
        (r'A="\d\'"', {"A": r"\d" + "\\'"}),
        (r'A="\\n"', {"A": r"\n"}),
        ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
        ('A="it\'s"', {"A": "it's"}),
        # references
        ("A=${HOME}/x", {"A": "/home/u/x"}),
        ('A="${HOME}/x"', {"A": "/home/u/x"}),
        ("A=1\nB=${A}${A}", {"A": "1", "B": "11"}),
        ("HOME=1\nB=${HOME}", {"HOME": "1", "B": "/home/u"}),
        ("A=${NONE:-x y}", {"A": "x y"}),
        ("A=${NONE:-}", {"A": ""}),
        ("A=${EMPTY:-x}", {"A": ""}),
        (r'A="\${HOME}"', {"A": "${HOME}"}),
        (r'A="\\${HOME}"', {"A": "\\/home/u"}),
        ("A=${HOME", {"A": "${HOME"}),
        ("A=${not a name}", {"A": "${not a name}"}),
    ],
    ids=repr,
)
def test_rule_of_the_file(text: str, values: dict[str, str]) -> None:
    assert parse_env_file(text, ENVIRON) == values


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("A", 1, "it is no variable, allowed: NAME=value"),
        ("A=1\n\nsecret", 3, "it is no variable"),
        ("=secret", 1, "it is no variable"),
        ("1A=secret", 1, "it is no variable"),
        ("A B=secret", 1, "it is no variable"),
        ("export", 1, "it is no variable"),
        ("caf\xe9=secret", 1, "it is no variable"),
        ("A=1\nB='secret\nC=2\n", 2, "the quote that begins the value of B has no end"),
        ('A="secret\\"', 1, "the quote that begins the value of A has no end"),
        ("A='x' secret", 1, "text stands behind the quoted value of A, allowed: a comment"),
        ('A="x"secret', 1, "text stands behind the quoted value of A"),
        ("A='one\ntwo'\nB=${NONE}secret", 3, "${NONE} is not set, allowed: "),
        ('A="secret${NONE}"', 1, "${NONE} is not set, allowed: "),
        ("A=sec\0ret", 1, "the value of A holds a zero byte"),
    ],
    ids=repr,
)
def test_bad_line_is_named_and_not_shown(text: str, line: int, said: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_env_file(text, ENVIRON)
    message = str(raised.value)
    assert message.startswith(f"line {line}: {said}")
    assert "\n" not in message
    assert "secret" not in message


def test_file_with_the_line_ends_and_the_mark_of_windows(tmp_path: Path) -> None:
    """Editors there write CRLF, and a byte order mark."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=1\r\nB='2\r\n3'\r\n")
    assert read_env_file(str(tmp_path / ".env"), {}) == {"A": "1", "B": "2\n3"}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_value_can_be_written_in_double_quotes(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    assert parse_env_file(f'A="{escaped}"\nB=1', {}) == {"A": value, "B": "1"}


@given(st.text())
def test_any_text_gives_variables_or_one_line(text: str) -> None:
    values: dict[str, str] = {}
    line = "line "
    try:
        values = parse_env_file(text, {})
    except OptionError as error:
        line = str(error)
    assert line.startswith("line ")
    assert "\n" not in line
    assert "\0" not in "".join(values.values())


def test_shell_reads_the_same(tmp_path: Path) -> None:
    """What stands in quotes, and plain words; so one file is for both."""
    shell = shutil.which("sh")
    assert shell is not None
    file = tmp_path / "env"
    file.write_text(
        '# comment\nexport A=plain\nB=\'single \\n ${A} "\'\nC="double \\"q\\" \\\\ \\$x ${A}"\n'
        "D=${NONE:-default}\nE='two\nlines'\nF=x # comment\nG=a#b\n"
    )
    values = parse_env_file(file.read_text(), {})
    shown = subprocess.run(
        [shell, "-c", f'set -a; . "{file}"; env -0'], capture_output=True, env={"PATH": os.environ["PATH"]}, check=True
    )
    seen = dict(item.split("=", 1) for item in shown.stdout.decode().split("\0") if "=" in item)
    assert {name: seen[name] for name in values} == values
