"""Changes: what one configuration does differently from another, key by key, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from gateway.adapters.secrets import Secret
from gateway.config import SECTIONS, Configuration, load
from gateway.media.impairments import Supervision
from gateway.typed import is_secret

LIVE: Final = frozenset(
    {"gateway.zone", "gateway.drain_s", "gateway.log_level"}
    | {f"supervision.{key}" for key in Supervision.__struct_fields__}
)
"""Keys outside adapters and routes that are used without a restart."""
_LONGEST: Final = 60


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs."""

    what: Literal["section", "adapter", "route", "test"]
    name: str
    how: Literal["added", "removed", "changed", "moved"]
    details: list[str] = []
    """``key: before -> after``; a secret only says that it changed."""
    restart: bool = False
    """Only a restart of the gateway can do it."""


def compare(before: Configuration, after: Configuration) -> list[Change]:
    """Sections, adapters, routes, tests; empty when both do the same."""
    return [
        *_sections(before, after),
        *_adapters(before, after),
        *_routes(before, after),
        *_tests(before, after),
    ]


def between(before: str, after: str, place: Path) -> list[Change]:
    """What a kept configuration does differently from the one before it.

    before, after: files; place: the file that both were copies of. Raises `ConfigError`.
    """
    return compare(load(before, place=place), load(after, place=place))


def _sections(before: Configuration, after: Configuration) -> Iterator[Change]:
    for name in SECTIONS:
        found = list(_differences(getattr(before, name), getattr(after, name), ""))
        if found:
            yield Change(
                what="section",
                name=name,
                how="changed",
                details=[text for _, text in found],
                restart=any(f"{name}.{key}" not in LIVE for key, _ in found),
            )


def _adapters(before: Configuration, after: Configuration) -> Iterator[Change]:
    for name, section in before.adapters.items():
        other = after.adapters.get(name)
        if other is None:
            yield Change(what="adapter", name=name, how="removed")
            continue
        if other.kind != section.kind:
            details = [f"kind: {section.kind} -> {other.kind}"]
        elif other == section:
            continue
        else:
            details = [text for _, text in _differences(section.config, other.config, "")]
        yield Change(what="adapter", name=name, how="changed", details=details)
    for name, section in after.adapters.items():
        if name not in before.adapters:
            yield Change(what="adapter", name=name, how="added", details=[f"kind: {section.kind}"])


def _routes(before: Configuration, after: Configuration) -> Iterator[Change]:
    old = {route.name: route for route in before.routes}
    new = {route.name: route for route in after.routes}
    for name in old:
        if name not in new:
            yield Change(what="route", name=name, how="removed")
    for name, route in new.items():
        if name not in old:
            yield Change(what="route", name=name, how="added")
        elif old[name] != route:
            details = [text for _, text in _differences(old[name], route, "")]
            yield Change(what="route", name=name, how="changed", details=details)
    # The first route that matches wins: their order is a difference of its own.
    stayed = [name for name in old if name in new]
    ordered = [name for name in new if name in old]
    for name in ordered:
        if stayed and stayed[0] == name:
            stayed.pop(0)
        else:
            stayed.remove(name)
            after_what = list(new)[: list(new).index(name)]
            yield Change(
                what="route",
                name=name,
                how="moved",
                details=[f"now after {after_what[-1]}" if after_what else "now the first"],
            )


def _tests(before: Configuration, after: Configuration) -> Iterator[Change]:
    old = {test.name: test for test in before.tests}
    new = {test.name: test for test in after.tests}
    for name in old:
        if name not in new:
            yield Change(what="test", name=name, how="removed")
    for name, test in new.items():
        if name not in old:
            yield Change(what="test", name=name, how="added")
        elif old[name] != test:
            details = [text for _, text in _differences(old[name], test, "")]
            yield Change(what="test", name=name, how="changed", details=details)


def _differences(before: Any, after: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys that differ, and both values in words."""
    if before == after:
        return
    below = key and f"{key}."
    if isinstance(before, msgspec.Struct) and type(before) is type(after):
        for name in before.__struct_fields__:
            yield from _differences(getattr(before, name), getattr(after, name), f"{below}{name}")
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            old, new = before.get(name), after.get(name)
            where = f"{below}{name}"
            if name not in before:
                yield where, f"{where}: added"
            elif name not in after:
                yield where, f"{where}: removed"
            else:
                yield from _differences(old, new, where)
    else:
        yield key, f"{key}: {_shown(before, key)} -> {_shown(after, key)}"


def _shown(value: Any, key: str) -> str:
    if isinstance(value, Secret) or any(is_secret(part) for part in key.split(".")):
        return "***" if value else "none"
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):
        # It holds a secret, which is not serialisable.
        return "(not shown)"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
