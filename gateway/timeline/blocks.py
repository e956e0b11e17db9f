"""Blocks: much that is remembered, in few large pieces of memory.

An object for each entry would lie wherever the heap had room when it came, and keep the page that
it lies on from going back for as long as it is remembered.
"""

from __future__ import annotations

import mmap
import pickle
import zlib
from typing import Any, Final

_LEVEL: Final = 1


class Block:
    """Rows, which are plain data, in pages of their own. Packed they take a tenth of them."""

    def __init__(
        self,
        rows: list[Any],
        n_bytes: int,
        *,
        mono: float,
        ats: tuple[float, float],
    ) -> None:
        """n_bytes: what they count as. mono: when the last came. ats: the least and the greatest of
        their times by the wall clock, which may have been set between them."""
        self.n, self.n_bytes, self.mono, self.ats = len(rows), n_bytes, mono, ats
        self._octets: bytes | mmap.mmap = pickle.dumps(rows, pickle.HIGHEST_PROTOCOL)
        self.packed = False

    @property
    def held(self) -> int:
        """Octets of memory."""
        return len(self._octets)

    def pack(self) -> None:
        """Make it smaller."""
        octets = zlib.compress(self._octets, _LEVEL)
        self.packed = True
        try:
            # The C library would give what is so small no pages of its own.
            pages = mmap.mmap(-1, len(octets))
        except OSError:
            # A process may have so many ranges of memory and no more.
            self._octets = octets
        else:
            pages[:] = octets
            self._octets = pages

    def rows(self) -> list[Any]:
        """What was put in."""
        whole = zlib.decompress(self._octets) if self.packed else self._octets
        found: list[Any] = pickle.loads(whole)
        return found
