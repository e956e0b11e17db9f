"""What a check found, and how configurations are looked through."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from gateway.adapters.secrets import Secret
from gateway.config import Configuration


class Grade(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, until something else happens."""
    WRONG = "wrong"
    """It does not work."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One result."""

    check: str
    grade: Grade
    what: str
    remedy: str = ""
    """What to type."""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, grade=Grade.OK, what=what)


def warning(check: str, what: str, remedy: str = "") -> Finding:
    """It works, until something else happens."""
    return Finding(check=check, grade=Grade.WARNING, what=what, remedy=remedy)


def wrong(check: str, what: str, remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(check=check, grade=Grade.WRONG, what=what, remedy=remedy)


def unknown(check: str, what: str, remedy: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(check=check, grade=Grade.UNKNOWN, what=what, remedy=remedy)


def settings(configuration: Configuration) -> Iterator[tuple[str, str, Any]]:
    """Every plain setting of every adapter, defaults too: its key, its last name, its value."""
    for name, section in configuration.adapters.items():
        yield from _walk(f"adapters.{name}", "", section.config)


def _walk(key: str, name: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, Secret):
        return
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _walk(f"{key}.{field}", field, getattr(value, field))
    elif isinstance(value, dict):
        for item, inner in value.items():
            yield from _walk(f"{key}.{item}", str(item), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(key, name, inner)
    else:
        yield key, name, value
