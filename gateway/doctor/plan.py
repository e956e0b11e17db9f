"""The plan: what the routes leave out that people rely on."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from gateway.config import Configuration
from gateway.core.routes import Trigger
from gateway.doctor.findings import Finding, ok, settings, unknown, warning, wrong
from gateway.media import srtp


def alarms(configuration: Configuration) -> Iterator[Finding]:
    """Whether somebody is told of every alarm."""
    routes = [route for route in configuration.routes if route.on is Trigger.ALARM]
    sources = [place.id for place in configuration.endpoints if place.alarm]
    untold = [
        name
        for name in sources
        if not any(fnmatch.fnmatchcase(name, each) for route in routes for each in route.source)
    ]
    for name in untold:
        yield warning(
            "alarms", f"no route takes alarms of {name}: nobody is told",
            f"gateway explain {name} --alarm fire",
        )  # fmt: skip
    if sources and not untold:
        yield ok("alarms", f"{len(sources)} sources, each has a route")


def emergencies(configuration: Configuration) -> Iterator[Finding]:
    """Whether an alarm route gives up after one round although it wants an acknowledgement."""
    for route in configuration.routes:
        if (
            route.on is Trigger.ALARM
            and route.acknowledge
            and len(route.targets) * route.rounds < 2
        ):
            yield warning(
                "alarms", f"route {route.name!r} calls one person once: who if he does not answer?",
                "give it more targets or rounds",
            )  # fmt: skip


def encryption(configuration: Configuration, *, missing: str | None = None) -> Iterator[Finding]:
    """Whether SRTP that the configuration asks for can be had. missing: why not, for tests."""
    wanted = {
        key.removesuffix(".srtp"): str(value)
        for key, name, value in settings(configuration)
        if name == "srtp" and value in ("offered", "required")
    }
    if not wanted:
        return
    if missing is None:
        missing = srtp.missing()
    if not missing:
        yield ok("srtp", f"libsrtp2 is there: {', '.join(srtp.suites())}")
        return
    for where, mode in wanted.items():
        found = f"{where}: srtp = {mode!r}, but there is {missing.partition(';')[0]}"
        if mode == "required":
            yield wrong("srtp", f"{found}: no call comes about", "apt install libsrtp2-1")
        else:
            yield warning("srtp", f"{found}: calls are in the clear", "apt install libsrtp2-1")


def adapters(down: dict[str, str] | None, degraded: dict[str, str] | None) -> Iterator[Finding]:
    """What the running gateway says of itself. None: it does not run."""
    if down is None:
        yield unknown("gateway", "does not run: adapters and peers were not tried",
                      "systemctl start crosspoint, then again")  # fmt: skip
        return
    for name, reason in down.items():
        yield wrong("adapters", f"{name} is down: {reason or 'not ready yet'}", "gateway adapters")
    for name, reason in (degraded or {}).items():
        yield wrong("storage", f"the {name} does not reach the disk: {reason}", "gateway status")
    if not down:
        yield ok("adapters", "all up")


def places(endpoints: list[dict[str, Any]]) -> Iterator[Finding]:
    """What the running gateway says of its endpoints: those down, but for telephones that are not
    there, and those it has doubts about (a weak signal)."""
    for place in endpoints:
        reason = place["reason"]
        if place["condition"] == "down" and not place["absent"]:
            yield wrong("endpoints", f"{place['id']} is down: {reason or 'no reason is given'}",
                        f"gateway endpoints {place['id']} --detail")  # fmt: skip
        elif place["condition"] == "up" and reason:
            yield warning("endpoints", f"{place['id']}: {reason}",
                          f"gateway endpoints {place['id']} --detail")  # fmt: skip
