"""Which files are the application's code, and when one of them changes.

With watchfiles installed (the extra `reload`), the system reports changes; without it, modification times are compared
every `reload_delay` seconds. Both watch the same files: those below `reload_dir` that match `reload_include`, unless
they or a folder above them match `reload_exclude`. Hidden folders and the files that Python writes are excluded.

A pattern matches a name, such as `*.html`; or the end of the path below the watched folder, such as `conf/*.yaml`; or
the whole path, absolute or relative to the current folder. `*` matches slashes too.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate
from itertools import accumulate
from pathlib import Path
from typing import Final

from asgiws.config.options import Config

__all__ = ["Watched"]

_INCLUDE: Final = ("*.py",)
_EXCLUDE: Final = (".*", "__pycache__", "node_modules", "*.pyc", "*.pyo", "*~", "*.swp")


class Watched:
    """The files that `--reload` watches."""

    def __init__(self, config: Config) -> None:
        self.folders = [Path(folder).resolve() for folder in config.reload_dir or (config.app_dir or ".",)]
        self._include = _Patterns((*_INCLUDE, *config.reload_include))
        self._exclude = _Patterns((*_EXCLUDE, *config.reload_exclude))
        self._delay_s = config.reload_delay

    def counts(self, path: str) -> bool:
        """Return whether a change of this file is a change of the application."""
        path = _slashed(path)
        for folder in self.folders:
            root = _slashed(str(folder)).rstrip("/")
            if not path.startswith(f"{root}/"):
                continue  # in another folder; or the folder itself, when it is removed or its mode changes
            _, *steps = accumulate(path[len(root) + 1 :].split("/"), "{}/{}".format, initial=root)
            if not any(self._exclude.match(step, root) for step in steps) and self._include.match(path, root):
                return True
        return False

    async def watch(self, on_change: Callable[[list[str]], None]) -> None:
        """Call `on_change` with the files that have changed, until cancelled."""
        try:
            import watchfiles  # an optional package
        except ModuleNotFoundError:
            await self._poll(on_change)
        else:
            changes = watchfiles.awatch(
                *self.folders, watch_filter=lambda kind, path: self._is_change(path), debounce=200
            )
            async for found in changes:
                on_change(sorted({path for _, path in found}))

    async def _poll(self, on_change: Callable[[list[str]], None]) -> None:
        """Compare all files every `reload_delay` seconds."""
        before = dict(self._stat(self.folders))
        while True:
            await asyncio.sleep(self._delay_s)
            now = dict(self._stat(self.folders))
            changed = [path for path in now.keys() | before.keys() if now.get(path) != before.get(path)]
            before = now
            if changed:
                on_change(sorted(changed))

    def _is_change(self, path: str) -> bool:
        """Return whether an event of watchfiles counts; a new folder may come without events for its files."""
        return self.counts(path) or (os.path.isdir(path) and any(self._stat([Path(path)])))

    def _stat(self, folders: list[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder in folders:
            top = _slashed(str(folder)).rstrip("/")
            for root, names, files in os.walk(folder):
                names[:] = [name for name in names if not self._exclude.match(_slashed(os.path.join(root, name)), top)]
                for name in files:
                    path = os.path.join(root, name)
                    if self.counts(path):
                        try:
                            known = os.stat(path)
                        except OSError:
                            continue  # removed meanwhile
                        yield path, (known.st_mtime_ns, known.st_size)


class _Patterns:
    """Patterns one of which a path has to match, compiled once."""

    def __init__(self, patterns: Sequence[str]) -> None:
        # Shells complete the name of a folder with a slash.
        patterns = [_slashed(pattern).removeprefix("./").rstrip("/") for pattern in patterns]
        self._whole = _any_of(patterns)
        self._end = _any_of([f"*/{pattern}" for pattern in patterns if "/" in pattern])
        self._here = _slashed(os.getcwd()).rstrip("/") + "/"

    def match(self, path: str, root: str) -> bool:
        """Return whether a path below `root` matches."""
        whole = self._whole.match
        return bool(
            whole(path.rpartition("/")[2])
            or whole(path)
            or self._end.match(path, len(root))
            or (path.startswith(self._here) and whole(path, len(self._here)))
        )


def _slashed(path: str) -> str:
    """Return a path with slashes, also where the system writes it with backslashes."""
    return path if os.sep == "/" else path.replace(os.sep, "/")


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)) or "(?!)")
