"""Fuzz one target, guided by coverage: `python -m tests.fuzz.run_atheris TARGET [FOLDER] [-runs=N ...]`.

FOLDER is where libFuzzer keeps the inputs that reached something new; the seeds are written there first. All else is
libFuzzer's. An input that breaks a target is written to the current folder, and run again with its name as FOLDER.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

MISSING = "atheris is not installed: pip install atheris"


def main(arguments: list[str]) -> int:
    """Fuzz; gives an exit code when that was not possible, otherwise libFuzzer ends the process."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print(MISSING, file=sys.stderr)  # noqa: T201
        return 2
    with atheris.instrument_imports(include=["asgiws"]):
        targets = importlib.import_module("tests.fuzz.targets")
    name, *rest = arguments or [""]
    if name not in targets.TARGETS:
        print(f"target {name!r}, allowed: {', '.join(targets.TARGETS)}", file=sys.stderr)  # noqa: T201
        return 2
    for folder in (Path(argument) for argument in rest[:1] if not argument.startswith("-")):
        if folder.is_file():
            break
        folder.mkdir(parents=True, exist_ok=True)
        for at, seed in enumerate(targets.SEEDS[name]):
            (folder / f"seed-{at}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *rest], targets.TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
