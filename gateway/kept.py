"""Kept: the last configurations that were in use, as files, to go back to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from gateway.errors import DeviceError, UsageError

KEEP: Final = 10
_NAME = re.compile(r"(\d{6})\.toml\Z")


class KeptConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was in use."""

    number: int
    at: float
    """When it came into use."""
    path: str
    """File that holds it; it may hold secrets, so that only the gateway's user may read it."""
    current: bool
    """The one in use."""


class Kept:
    """Writes down each configuration when it has come into use; keeps the last ten."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, text: str) -> None:
        """Keep what is in use now, unless it is what was kept last. Raises `DeviceError`."""
        files = self._files()
        try:
            if files and files[-1].read_text("utf-8") == text:
                return
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = int(files[-1].stem) + 1 if files else 1
            path = self._directory / f"{number:06}.toml"
            part = path.with_suffix(".part")
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            for old in self._files()[:-KEEP]:
                old.unlink()
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{self._directory}: cannot be written: {error}") from None

    def all(self) -> list[KeptConfiguration]:
        """Oldest first; the last is the one in use."""
        files = self._files()
        return [
            KeptConfiguration(
                number=int(file.stem),
                at=file.stat().st_mtime,
                path=str(file),
                current=file == files[-1],
            )
            for file in files
        ]

    def pair(self, number: int = 0) -> tuple[KeptConfiguration, KeptConfiguration]:
        """The one before, and the one of this number; 0: the one in use, itself where it is the
        first. Raises `UsageError`."""
        found = self.all()
        numbers = [each.number for each in found]
        if not found or (number and number not in numbers):
            raise UsageError(f"configuration {number or ''} is not kept".replace("  ", " "))
        at = numbers.index(number) if number else len(found) - 1
        if not at and number:
            raise UsageError(f"the configuration before {numbers[at]} is not kept")
        return found[max(0, at - 1)], found[at]

    def _files(self) -> list[Path]:
        try:
            found = [each for each in self._directory.iterdir() if _NAME.match(each.name)]
        except OSError:
            return []
        return sorted(found)
