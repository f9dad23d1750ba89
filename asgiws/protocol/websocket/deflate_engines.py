"""The libraries that compress and inflate: zlib, and faster ones where the extra `fast` has installed them.

They are chosen at import, each for what it does best. Measured on JSON records, every message alone with a full flush,
and inflated by a fresh object; CPython 3.11, zlib 1.2.13, isal 1.9.1, zlib-ng 1.1.0, microseconds and bytes of wire:

    bytes    zlib, level 1     zlib-ng, level 1   isal, level 1     inflated by zlib, zlib-ng, isal
      200      8.1   140 B       2.7   149 B        4.9   160 B       1.1    1.1   1.8
      512     12.3   242 B       3.4   277 B        6.5   246 B       3.3    2.9   4.5
    1,024     14.9   365 B       4.7   449 B        7.4   375 B       4.2    3.5   5.0
    4,096     28.3  1059 B      11.2  1424 B       12.0  1051 B       9.8    7.3   7.3
   65,536      306 14766 B       168 19464 B         98 14213 B       112     80    54

isal compresses: to the size that zlib needs, 4 % more at most, but only from about 290 bytes on; below, and for all
sizes by zlib-ng, it is up to 70 % more. zlib-ng inflates. isal is faster at that from 8 KiB on, but accepts incomplete
Huffman codes, and drops the last byte of some truncated messages; zlib-ng gives the bytes and finds the faults that
zlib does. Levels above 1 and compressors with a window of their own are left to zlib: they are chosen for size, and
those of the others take more memory.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, NamedTuple

__all__ = ["IN_USE", "LONG_FROM_BYTES", "ZLIB", "Engines", "installed_engines"]

LONG_FROM_BYTES: Final = 300
"""The size from which isal compresses."""


class Engines(NamedTuple):
    """A module for each purpose; all have the objects, constants and exceptions of `zlib`."""

    long: Any = zlib
    """Compresses messages of at least `LONG_FROM_BYTES` at level 1; shorter ones are compressed by zlib."""
    inflate: Any = zlib

    def __str__(self) -> str:
        """Return the name of each library with what it does."""
        long, inflate = (engine.__name__.partition(".")[0].replace("_", "-") for engine in self)
        compress = f"zlib and from {LONG_FROM_BYTES} bytes {long} compress" if long != "zlib" else "zlib compresses"
        return f"{compress}, {inflate} inflates"


ZLIB: Final = Engines()


def installed_engines() -> Engines:
    """Return the best engine for each purpose; zlib where there is no other."""
    engines = ZLIB
    try:
        from isal import isal_zlib

        engines = engines._replace(long=isal_zlib)
    except ImportError:
        pass
    try:
        from zlib_ng import zlib_ng

        engines = engines._replace(inflate=zlib_ng)
    except ImportError:
        pass
    return engines


IN_USE: Final = installed_engines()
"""What compresses and inflates in this process."""
