"""Book: baselines, and when and how each test ended last; kept over restarts."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from gateway.core.events import PathTested
from gateway.errors import DeviceError


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The last test of its kind that was judged."""

    at: float
    """Wall clock, seconds since 1970."""
    tested: PathTested


class _Page(msgspec.Struct, kw_only=True):
    baselines: dict[str, dict[str, float]] = {}
    results: dict[str, Result] = {}
    carried_out: dict[str, float] = {}
    alarms: set[str] = set()


def key_of(endpoint: str, kind: str, listen: str) -> str:
    """What tells a path from the others: ``sip/help-3 acoustic sip/help-4``."""
    return " ".join(filter(None, (endpoint, kind, listen)))


class Book:
    """What is known of paths, in one small file. `read` and `write` take time: for a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._page = _Page()

    @property
    def results(self) -> dict[str, Result]:
        """The last results, by path."""
        return self._page.results

    @property
    def carried_out(self) -> dict[str, float]:
        """When scheduled tests were begun last, by name: wall clock."""
        return self._page.carried_out

    @property
    def alarms(self) -> set[str]:
        """Paths of which an alarm was raised and not yet cleared."""
        return self._page.alarms

    def baseline(self, key: str) -> dict[str, float] | None:
        """The figures of when the path was known to be good."""
        return self._page.baselines.get(key)

    def keep_baseline(self, key: str, figures: dict[str, float]) -> None:
        """From now on this is good."""
        self._page.baselines[key] = dict(figures)

    def keep(self, key: str, result: Result) -> None:
        """The newest result of a path."""
        self._page.results[key] = result

    def read(self) -> None:
        """Read the file, if there is one. Raises `DeviceError` when it is not readable."""
        try:
            self._page = msgspec.json.decode(self._path.read_bytes(), type=_Page)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DeviceError(f"{self._path}: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DeviceError(f"{self._path}: {error}; baselines are lost: set them anew") from None

    def text(self) -> bytes:
        """What `write` is to write, as of now."""
        return msgspec.json.format(msgspec.json.encode(self._page))

    def write(self, text: bytes) -> None:
        """Replace the file. Raises `DeviceError`."""
        part = self._path.with_suffix(".part")
        try:
            with open(part, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._path)
        except OSError as error:
            raise DeviceError(f"{self._path}: {error.strerror}") from None
