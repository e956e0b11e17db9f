"""Where things stand in a TOML text: `tomllib` gives values, this gives their lines.

The text is one that `tomllib` has accepted, so the scanner may trust its form (TOML 1.0).
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

Path = tuple[str | int, ...]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}\n#]+")
_SPACE: Final = " \t\r"


def locate(text: str) -> dict[Path, int]:
    """The line, counted from 1, of every key, table and array element of a valid TOML text.

    Paths are keys and array indices from the root: ``("routes", 0, "targets", 1)``.
    """
    return _Scanner(text).scan()


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of the nearest thing around it that the text has."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """How many elements each array of tables has so far."""

    def scan(self) -> dict[Path, int]:
        prefix: Path = ()
        while self._skip(newlines=True):
            if self._text.startswith("[[", self._at):
                self._at += 2
                prefix = self._table(self._key(), array=True)
            elif self._text[self._at] == "[":
                self._at += 1
                prefix = self._table(self._key(), array=False)
            else:
                self._pair(prefix)
                continue
            while self._at < len(self._text) and self._text[self._at] == "]":
                self._at += 1
        return self._lines

    def _note(self, path: Path) -> None:
        self._lines.setdefault(path, self._line)

    def _table(self, key: list[str], *, array: bool) -> Path:
        path: Path = ()
        for index, part in enumerate(key):
            path = (*path, part)
            self._note(path)
            if array and index == len(key) - 1:
                self._counts[path] = count = self._counts.get(path, 0) + 1
                path = (*path, count - 1)
                self._note(path)
            elif path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, prefix: Path) -> None:
        path = prefix
        for part in self._key():
            path = (*path, part)
            self._note(path)
        self._skip()
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip()
            sign = self._text[self._at]
            if sign in "\"'":
                begin = self._at
                self._string()
                parts.append(str(tomllib.loads(f"k = {self._text[begin : self._at]}")["k"]))
            else:
                found = _BARE.match(self._text, self._at)
                assert found is not None, "not a key"
                parts.append(found[0])
                self._at = found.end()
            self._skip()
            if self._at >= len(self._text) or self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip()
        sign = self._text[self._at]
        if sign in "\"'":
            self._string()
        elif sign == "[":
            self._at += 1
            index = 0
            while self._skip(newlines=True) and self._text[self._at] != "]":
                self._note((*path, index))
                self._value((*path, index))
                index += 1
                self._skip(newlines=True)
                if self._text[self._at] == ",":
                    self._at += 1
            self._at += 1
        elif sign == "{":
            self._at += 1
            while self._skip(newlines=True) and self._text[self._at] != "}":
                self._pair(path)
                self._skip(newlines=True)
                if self._text[self._at] == ",":
                    self._at += 1
            self._at += 1
        else:
            found = _SCALAR.match(self._text, self._at)
            assert found is not None, "not a value"
            self._at = found.end()

    def _string(self) -> None:
        text, quote = self._text, self._text[self._at]
        long = quote * 3
        mark = long if text.startswith(long, self._at) else quote
        at = self._at + len(mark)
        while not text.startswith(mark, at):
            at += 2 if text[at] == "\\" and quote == '"' else 1
        at += len(mark)
        if mark == long:
            # Up to two quotes may stand right before the closing three.
            while at < len(text) and text[at] == quote:
                at += 1
        self._line += text.count("\n", self._at, at)
        self._at = at

    def _skip(self, *, newlines: bool = False) -> bool:
        """Go over blanks, and comments and line ends too if asked; whether anything is left."""
        text = self._text
        while self._at < len(text):
            sign = text[self._at]
            if sign == "\n" and newlines:
                self._line += 1
            elif sign == "#" and newlines:
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
                continue
            elif sign not in _SPACE:
                return True
            self._at += 1
        return False


def parse(text: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """The document and its lines. Raises `tomllib.TOMLDecodeError`, as `tomllib.loads` does."""
    document = tomllib.loads(text)
    return document, locate(text)
