"""Snapshots of the running gateway, as the control interface shows them. Memory only: quick."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

from gateway.control.diagnosis import findings
from gateway.control.shapes import (
    AdapterState,
    AdapterView,
    AlarmView,
    CallDetail,
    CallView,
    EndpointView,
    LegAt,
    LegView,
    PathTestView,
    Refusal,
    Status,
)
from gateway.core.alerting import Alarm
from gateway.core.bridges import Bridge
from gateway.core.calls import Call, Leg, LegState
from gateway.core.endpoints import Condition
from gateway.core.events import LegOffered
from gateway.core.routes import Match
from gateway.hosting import AdapterHost
from gateway.pathtests.book import Result, key_of
from gateway.runtime import Gateway

_AT_ONCE: Final = 20
"""Calls looked at before others get their turn."""
_FURTHEST: Final = (
    LegState.CONNECTED,
    LegState.HELD,
    LegState.ALERTING,
    LegState.OFFERED,
    LegState.INITIATED,
    LegState.CLOSING,
)


def status(gateway: Gateway, version: str) -> Status:
    """The gateway in one answer."""
    board = gateway.switchboard
    places = list(gateway.places.values())
    down = [place.id for place, _ in places if place.condition is Condition.DOWN]
    unknown = sum(place.condition is Condition.UNKNOWN for place, _ in places)
    up = [host for host in gateway.hosts.values() if host.up]
    return Status(
        box=gateway.box,
        version=version,
        state="stopping" if gateway.stopping else "running",
        pid=os.getpid(),
        up_s=gateway.now() - gateway.started_at,
        config=str(gateway.configuration.file),
        generation=gateway.generation,
        adapters_up=len(up),
        adapters_down=[host.name for host in gateway.hosts.values() if not host.up],
        endpoints_up=len(places) - len(down) - unknown,
        endpoints_unknown=unknown,
        endpoints_down=sorted(down),
        realtime_wanted=gateway.configuration.media.realtime,
        calls=len(board.calls),
        legs=len(board.legs),
        alarms_active=sum(alarm.state == "active" for alarm in board.alarms.values()),
        stores=[gateway.journal.state, gateway.store.state],
        tests_failed=[path_test(gateway, result) for result in gateway.tester.failed()],
        ignored=dict(board.ignored),
        counters=dict(gateway.counters),
    )


def adapters(gateway: Gateway) -> list[AdapterView]:
    """All adapters, in the order of the configuration."""
    now = gateway.now()
    legs: dict[str, int] = {}
    for host in gateway.legs.values():
        legs[host.name] = legs.get(host.name, 0) + 1
    owned: dict[str, int] = {}
    for _, host in gateway.places.values():
        owned[host.name] = owned.get(host.name, 0) + 1
    return [_adapter(host, now, owned, legs) for host in gateway.hosts.values()]


def _adapter(
    host: AdapterHost, now: float, owned: dict[str, int], legs: dict[str, int]
) -> AdapterView:
    return AdapterView(
        name=host.name,
        kind=host.adapter.kind,
        state=AdapterState.UP if host.up else AdapterState.DOWN,
        up_s=now - host.up_since if host.up else None,
        reason=host.reason,
        restarts=host.restarts,
        endpoints=owned.get(host.name, 0),
        legs=legs.get(host.name, 0),
        counters=dict(sorted(host.counters.items())),
    )


def endpoints(gateway: Gateway) -> list[EndpointView]:
    """All endpoints, by id."""
    board = gateway.switchboard
    legs: dict[str, list[LegAt]] = {}
    for leg in board.legs.values():
        at = LegAt(leg=leg.id, call=leg.call.id, state=leg.state)
        legs.setdefault(leg.endpoint, []).append(at)
    places = {name: (place, host.name) for name, (place, host) in gateway.places.items()}
    for place in board.endpoints.values():
        # Those of the gateway itself, whose alarms are about journal and records.
        places.setdefault(place.id, (place, ""))
    tests: dict[str, list[PathTestView]] = {}
    for result in gateway.tester.book.results.values():
        tests.setdefault(result.tested.endpoint, []).append(path_test(gateway, result))
    return [
        EndpointView(
            id=place.id,
            label=place.label,
            location=place.location,
            number=place.number,
            adapter=adapter,
            condition=place.condition,
            reason=place.reason,
            absent=place.absent,
            duplex=place.duplex,
            can_ring=place.can_ring,
            takes_number=place.takes_number,
            capacity=place.capacity,
            legs=legs.get(place.id, []),
            inputs=[
                board.inputs[place.id, name]
                for name in place.inputs
                if (place.id, name) in board.inputs
            ],
            outputs=list(place.outputs),
            alarm=place.alarm,
            panel=board.panels.get(place.id, ""),
            detail=place.detail,
            tests=tests.get(place.id, []),
            counters=dict(sorted(gateway.hosts[adapter].counters.items())) if adapter else {},
        )
        for _, (place, adapter) in sorted(places.items())
    ]


def path_test(gateway: Gateway, result: Result) -> PathTestView:
    """The last test of a path."""
    tested = result.tested
    key = key_of(tested.endpoint, tested.kind, tested.listen)
    return PathTestView(
        endpoint=tested.endpoint,
        kind=tested.kind,
        listen=tested.listen,
        ok=tested.ok,
        verdict=tested.verdict,
        detail=tested.detail,
        figures=tested.figures,
        at=result.at,
        age_s=max(0.0, time.time() - result.at),
        scheduled=tested.scheduled,
        waiting=gateway.tester.put_off.get(key, ""),
        baseline=gateway.tester.book.baseline(key),
    )


async def calls(
    gateway: Gateway, pattern: str = "", limit: int | None = None, *, audio: bool = True
) -> list[CallView]:
    """Calls with a leg of an endpoint that fits the shell pattern, oldest first.

    Of hundreds it takes a while: everybody else gets his turn in between. audio: with the counters
    of each leg's stream, which take most of the time.
    """
    board = gateway.switchboard
    fitting = (
        call
        for call in list(board.calls.values())
        # One that has ended meanwhile is not up.
        if call.id in board.calls and (not pattern or _fits(call, pattern))
    )
    found: list[CallView] = []
    for call in islice(fitting, limit):
        found.append(_call(gateway, call, gateway.now(), audio=audio))
        if len(found) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


def _fits(call: Call, pattern: str) -> bool:
    return any(
        fnmatch.fnmatchcase(leg.endpoint, pattern)
        for leg in call.legs
        if leg.state is not LegState.NULL
    )


def _call(gateway: Gateway, call: Call, now: float, *, audio: bool = True) -> CallView:
    bridges = gateway.switchboard.bridges
    legs = [leg for leg in call.legs if leg.state is not LegState.NULL]
    bridge = next((bridges[leg.bridge] for leg in legs if leg.bridge in bridges), None)
    return CallView(
        id=call.id,
        trace=call.trace,
        state=_state(legs),
        route=call.route,
        why=call.why,
        priority=call.priority.name.lower(),
        age_s=now - call.demanded_at,
        answered_s=None if call.answered_at is None else now - call.answered_at,
        bridge=bridge.kind if bridge else "",
        room=bridge.room if bridge else "",
        legs=[_leg(gateway, leg, bridges.get(leg.bridge), now, audio=audio) for leg in legs],
    )


def _state(legs: Sequence[Leg]) -> LegState:
    """The furthest state; of a call where one side waits for another, how far that one is."""
    answered = sum(leg.connected for leg in legs)
    waited = {leg.state for leg in legs if not leg.connected and leg.live}
    states = waited if answered == 1 and waited else {leg.state for leg in legs}
    return next((state for state in _FURTHEST if state in states), LegState.NULL)


def _leg(gateway: Gateway, leg: Leg, bridge: Bridge | None, now: float, *, audio: bool) -> LegView:
    return LegView(
        id=leg.id,
        endpoint=leg.endpoint,
        direction="out" if leg.outbound else "in",
        state=leg.state,
        number=leg.number,
        calling=leg.calling,
        display=leg.display,
        age_s=now - leg.began_at,
        answered_s=None if leg.answered_at is None else now - leg.answered_at,
        early=leg.early,
        bridge=leg.bridge,
        floor=bridge is not None and bridge.floor.holder == leg.id,
        keyed=bridge is not None and leg.id in bridge.keyed,
        impaired=sorted(leg.impaired),
        cause=leg.cause or "",
        detail=leg.detail,
        played=list(leg.played),
        missing=list(leg.missing),
        audio=gateway.patchbay.stats(leg.id) if audio else None,
    )


def call(gateway: Gateway, found: Call) -> CallDetail:
    """One call with what explains its route and its audio."""
    view = _call(gateway, found, gateway.now())
    fields = {name: getattr(view, name) for name in view.__struct_fields__}
    return CallDetail(**fields, refusals=_refusals(gateway, found), findings=findings(view))


def _refusals(gateway: Gateway, call: Call) -> list[Refusal]:
    """Why the routes before the one that matched did not take the call, as of when it began."""
    origin = next((leg for leg in call.legs if not leg.outbound), None)
    if origin is None:
        return []
    event = LegOffered(
        leg=origin.id,
        endpoint=origin.endpoint,
        called=origin.number,
        calling=origin.calling,
        trace=call.trace,
        demanded_at=call.demanded_at,
    )
    began = time.time() - (gateway.now() - origin.began_at)
    match, refusals = gateway.switchboard.table.match(event, began)
    if isinstance(match, Match) and match.route.name != call.route:
        # The routes were replaced since: what they say now is not why.
        return []
    return [Refusal(route=name, reason=reason) for name, reason in refusals]


def alarm(known: Alarm, now: float) -> AlarmView:
    """One alarm."""
    return AlarmView(
        endpoint=known.endpoint,
        alarm=known.alarm,
        kind=known.kind,
        severity=known.severity.name.lower(),
        text=known.text,
        trace=known.trace,
        state=known.state,
        by=known.by,
        route=known.route,
        age_s=now - known.raised_at,
        being_told=known.plan is not None,
    )
