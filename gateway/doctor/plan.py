"""The plan: what the routes leave out that people rely on."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from gateway.config import Configuration
from gateway.core.routes import Trigger
from gateway.doctor.findings import Finding, ok, unknown, warning, wrong


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
