"""Which files count as the application's code, and telling when one of them changes.

With watchfiles installed (`asgiws[reload]`) the system tells of changes; without it, modification times are compared
every `reload_delay` seconds. Both look at the same files: those below `reload_dir` whose name matches `reload_include`
and that neither match `reload_exclude` themselves nor stand in a folder that does. Hidden folders are left out, and
so is what Python itself writes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from asgiws.config import Config

__all__ = ["Watched"]

_INCLUDE: Final = ("*.py",)
_EXCLUDE: Final = (".*", "__pycache__", "node_modules", "*.pyc", "*.pyo", "*~", "*.swp")


class Watched:
    """The files that `--reload` watches."""

    def __init__(self, config: Config) -> None:
        self.folders = [Path(folder).resolve() for folder in config.reload_dir or (config.app_dir or ".",)]
        self._include = (*_INCLUDE, *config.reload_include)
        self._exclude = (*_EXCLUDE, *config.reload_exclude)
        self._delay_s = config.reload_delay

    def counts(self, path: str) -> bool:
        """Tell whether a change of this file, below one of the folders, is a change of the application."""
        for folder in self.folders:
            try:
                parts = Path(path).relative_to(folder).parts
            except ValueError:
                continue
            if not parts:
                continue  # the folder itself, when it is removed or gets other rights
            if any(self._is_excluded(part, folder.joinpath(*parts[: at + 1])) for at, part in enumerate(parts)):
                continue
            if any(fnmatch(parts[-1], pattern) or fnmatch(path, pattern) for pattern in self._include):
                return True
        return False

    async def watch(self, on_change: Callable[[list[str]], None]) -> None:
        """Call `on_change` with the files that have changed, until cancelled."""
        try:
            import watchfiles  # optional: not everybody has it
        except ModuleNotFoundError:
            await self._poll(on_change)
        else:
            changes = watchfiles.awatch(
                *self.folders, watch_filter=lambda kind, path: self._told_of(path), debounce=200
            )
            async for found in changes:
                on_change(sorted({path for _, path in found}))

    async def _poll(self, on_change: Callable[[list[str]], None]) -> None:
        """Look at all files every `reload_delay` seconds."""
        before = dict(self._stat(self.folders))
        while True:
            await asyncio.sleep(self._delay_s)
            now = dict(self._stat(self.folders))
            changed = [path for path in now.keys() | before.keys() if now.get(path) != before.get(path)]
            before = now
            if changed:
                on_change(sorted(changed))

    def _told_of(self, path: str) -> bool:
        """Judge what watchfiles tells: of a new folder only that it is there, not always of the files in it."""
        return self.counts(path) or (os.path.isdir(path) and any(self._stat([Path(path)])))

    def _stat(self, folders: list[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder in folders:
            for root, names, files in os.walk(folder):
                names[:] = [name for name in names if not self._is_excluded(name, Path(root, name))]
                for name in files:
                    path = os.path.join(root, name)
                    if self.counts(path):
                        try:
                            known = os.stat(path)
                        except OSError:
                            continue  # gone meanwhile
                        yield path, (known.st_mtime_ns, known.st_size)

    def _is_excluded(self, name: str, path: Path) -> bool:
        return any(fnmatch(name, pattern) or fnmatch(str(path), pattern) for pattern in self._exclude)
