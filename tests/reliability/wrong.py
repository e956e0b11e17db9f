"""What is wrong with the disk and the wall clock of the gateway under test, and with nobody else's.

A library that is loaded before the C library's own functions; see ``faults/faults.c``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent / "faults" / "faults.c"
_STATE = struct.Struct("=qqqQQQQ")
_DEVICE = struct.calcsize("=qqq")
_REFUSES = _DEVICE + 8


class Faults:
    """Faults of one process, switched while it runs."""

    def __init__(self, home: Path) -> None:
        """home: where the library and the state are kept."""
        library, self._path = home / "faults.so", home / "faults"
        subprocess.run(
            ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"],
            check=True, timeout=60,
        )  # fmt: skip
        self._path.write_bytes(bytes(_STATE.size))
        with self._path.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), _STATE.size)
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_FILE": str(self._path)}
        """Of the process that is to have them."""

    def clock(self, ahead_s: float = 0.0, slew: float = 0.0) -> None:
        """Set the wall clock before (or behind) the true one; slew: seconds more each second."""
        values = (int(ahead_s * 1e9), int(slew * 1e9), time.monotonic_ns())
        self._state[:_DEVICE] = struct.pack("=qqq", *values)

    @contextlib.contextmanager
    def hung(self, path: Path) -> Iterator[None]:
        """Whoever writes to this volume, or syncs, waits until the end of the block."""
        self._put(_DEVICE, os.stat(path).st_dev)
        try:
            yield
        finally:
            self._put(_DEVICE, 0)

    def refuse(self, path: Path | None) -> None:
        """This volume is read-only from now on, as after an error of the disk; None: no more."""
        self._put(_REFUSES, 0 if path is None else os.stat(path).st_dev)

    def _put(self, at: int, number: int) -> None:
        self._state[at : at + 8] = struct.pack("=Q", number)

    @property
    def waited(self) -> tuple[int, int]:
        """Writes and syncs that hung, and how many of them were the event loop's."""
        values = _STATE.unpack(self._state[:])
        return int(values[5]), int(values[6])


class Volume:
    """A small volume of memory. A context manager; it is gone afterwards."""

    def __init__(self, path: Path, mb: int) -> None:
        self.path, self._mb = path, mb
        self._ballast = path / "ballast"

    def __enter__(self) -> Volume:
        self.path.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._mb}m", "reliability", str(self.path)],
            check=True, timeout=20,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False, timeout=20)

    def fill(self) -> None:
        """Not an octet more fits."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)
