"""Spill: a bounded file of operations that the database would not take yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.records.ops import StoreOp


class Spill:
    """Keeps operations in order in a file until the database takes them again.

    Best on another file system than the database, such as a tmpfs: a full disk is the commonest
    reason to need it. Survives a crash of the gateway; a torn last line is ignored.
    """

    def __init__(self, path: Path, *, maximum_bytes: int = 64 << 20) -> None:
        self.path = path
        self.unreadable = 0
        """Lines that were no operation of this version."""
        self._maximum = maximum_bytes
        self._size: int | None = None
        self._first = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits in the file."""
        if self._size is None:
            try:
                self._size = self._sound_size()
            except OSError:
                return True
        return self._size == 0

    def add(self, ops: Sequence[StoreOp]) -> bool:
        """Append; False, and nothing is added, when the file is full or cannot be written."""
        data = b"".join(msgspec.json.encode(op) + b"\n" for op in ops)
        if self.empty and self._size is None:
            return False
        assert self._size is not None
        if self._size + len(data) > self._maximum:
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return False
        try:
            # What a failed or torn write left behind is overwritten.
            os.ftruncate(fd, self._size)
            view, at = memoryview(data), self._size
            while view:
                n = os.pwrite(fd, view, at)
                view, at = view[n:], at + n
            os.fdatasync(fd)
        except OSError:
            return False
        finally:
            os.close(fd)
        self._size += len(data)
        return True

    def first(self, n: int) -> list[StoreOp]:
        """The oldest operations, at most n."""
        found: list[StoreOp] = []
        assert self._size is not None
        with self.path.open("rb") as file:
            file.seek(self._first)
            while len(found) < n and file.tell() < self._size:
                line = file.readline()
                try:
                    found.append(msgspec.json.decode(line, type=StoreOp))
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.unreadable += 1
            self._next = file.tell()
        return found

    _next = 0

    def done(self) -> None:
        """Those given by the last `first` are stored; after the last the file is deleted.

        A crash in between stores some of them again, which changes nothing.
        """
        self._first = self._next
        if self._size is not None and self._first >= self._size:
            self.path.unlink(missing_ok=True)
            self._size = self._first = self._next = 0

    def _sound_size(self) -> int:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        return data.rfind(b"\n") + 1
