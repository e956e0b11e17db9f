"""Why is there no audio: what a call's counters say, in a technician's words."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.control.shapes import CallView, Finding, LegView
from gateway.core.calls import LegState
from gateway.diagnosis import Diagnosis, diagnose, gather
from gateway.diagnosis.streams import Heard, faults
from gateway.runtime import Gateway

SETTLE_S: Final = 2.0
"""A leg that was answered this recently is not judged: its first packets are on their way."""
WRITTEN_S: Final = 2.0
"""How long the records of a call that has just ended are waited for."""


async def of_call(gateway: Gateway, which: str, at: float | None = None) -> Diagnosis:
    """The verdict on a call or alarm, as `gateway.timeline.search.find` takes it.

    Raises `UsageError` when there is none.
    """
    configuration = gateway.configuration
    known = list(gateway.switchboard.endpoints)
    call, _ = await asyncio.to_thread(gather.past, configuration.journal_dir, which, at, known)
    legs = gateway.switchboard.legs
    call.live = any(leg.call.trace == call.trace for leg in legs.values())
    if call.live:
        call.now = gateway.now()
        # Also of those who met it in a room, and have a trace of their own.
        for leg in call.legs.values():
            stats = gateway.patchbay.stats(leg.id) if leg.id in legs else None
            if stats is not None:
                leg.streams = [stats]
        missing = ""
    else:
        await asyncio.to_thread(gateway.store.drain, WRITTEN_S)
        missing = await asyncio.to_thread(gather.recorded, configuration.records_url, call)
    return diagnose(call, [missing] if missing else [])


def findings(call: CallView) -> list[Finding]:
    """What explains missing or bad audio; most decisive first within each leg."""
    found: list[Finding] = []
    for leg in call.legs:
        for what, remedy in _of_leg(leg, call):
            found.append(Finding(leg=leg.id, what=what, remedy=remedy))
    return found


def _of_leg(leg: LegView, call: CallView) -> list[tuple[str, str]]:
    talks = leg.state in (LegState.CONNECTED, LegState.HELD)
    if not talks:
        if leg.early or leg.state is LegState.CLOSING:
            return []
        return [(f"is {leg.state}: there is no audio before it is answered", "wait, or hang up")]
    found: list[tuple[str, str]] = []
    if leg.state is LegState.HELD:
        found.append((f"is on hold by {leg.endpoint}", "take the call off hold there"))
    waits = [each.id for each in call.legs if each.answered_s is None and each is not leg]
    if not leg.bridge and waits:
        found.append((f"waits for {', '.join(waits)} to answer", "wait, or hang up"))
    elif not leg.bridge:
        found.append(
            (
                "is joined with nobody: it hears a tone or an announcement, or waits for a digit",
                f"see what its route does: gateway events --call {call.id[-8:]} --last 50",
            )
        )
    if call.bridge == "floor":
        found += _floor(leg, call)
    settled = leg.answered_s is not None and leg.answered_s >= SETTLE_S
    if leg.audio is None:
        if settled:
            remedy = "see its adapter: gateway endpoints --counters, and the log"
            found.append(("has no audio stream", remedy))
    elif settled:
        listens = call.bridge == "page" and leg.direction == "out"
        heard = Heard(
            leg.id, leg.audio, speaks=not listens, seconds=leg.answered_s or 0.0, now=True
        )
        found += [(fault.what, fault.remedy) for fault in faults(heard)]
    return found


def _floor(leg: LegView, call: CallView) -> list[tuple[str, str]]:
    holder = next((other.id for other in call.legs if other.floor), None)
    if holder is None:
        return [
            (
                "half duplex and nobody has the floor: nobody is heard",
                "press to talk (radio: push-to-talk; telephone: as its route says)",
            )
        ]
    if holder == leg.id:
        return []
    return [(f"half duplex: only {holder} is heard now", "wait until it releases the floor")]
