"""Verdict: of all that is wrong, the one thing that explains the rest, in one sentence."""

from __future__ import annotations

import msgspec

from gateway.diagnosis.calls import Ending, ending
from gateway.diagnosis.calls import faults as of_call
from gateway.diagnosis.evidence import CallEvidence, LegEvidence
from gateway.diagnosis.faults import RANK, Fault, Layer

CLEAN = "clean"
"""Code of a call without fault."""


class LegDiagnosis(msgspec.Struct, kw_only=True):
    """One leg: what is wrong with it, and what was looked at."""

    leg: str
    endpoint: str
    faults: list[Fault]
    facts: list[str]
    """In words, in the order in which a technician asks."""


class Diagnosis(msgspec.Struct, kw_only=True):
    """The verdict on a call."""

    trace: str
    at: float
    """When it began: wall clock, seconds since 1970."""
    live: bool
    fault: bool
    code: str
    """A `gateway.diagnosis.faults.Code`, or ``clean``."""
    layer: str
    leg: str
    sentence: str
    """The faulty layer and the remedy."""
    next: str
    """The command to type next."""
    ended: Ending | None
    """Who ended it; null while it is up."""
    legs: list[LegDiagnosis]
    others: list[Fault]
    """What else is wrong, most decisive first; much of it may be a consequence."""
    notes: list[str]
    """What could not be judged."""


def diagnose(call: CallEvidence, notes: list[str] | None = None) -> Diagnosis:
    """The verdict on what is known of a call."""
    found = sorted(dict.fromkeys(of_call(call)), key=lambda fault: RANK[fault.code])
    end = ending(call)
    first = found[0] if found else None
    legs = [
        LegDiagnosis(
            leg=leg.id,
            endpoint=leg.endpoint,
            faults=[fault for fault in found if fault.leg == leg.id],
            facts=_facts(leg, call),
        )
        for leg in call.legs.values()
    ]
    notes = list(notes or ())
    streams = [stats for leg in call.legs.values() for stats in leg.streams]
    if any(stats.heard_s for stats in streams) and all(each.erle_db is None for each in streams):
        notes.append(
            "Echo is not judged: none was found."
            if any(each.echo_tail_ms for each in streams)
            else "Echo is not judged: no canceller of the gateway's measures it."
        )
    return Diagnosis(
        trace=call.trace,
        at=call.at,
        live=call.live,
        fault=first is not None,
        code=first.code if first else CLEAN,
        layer=first.layer if first else Layer.NONE,
        leg=first.leg if first else "",
        sentence=_sentence(first) if first else _clean(call, end),
        next=first.next if first and first.next else f"gateway trace {call.trace[-8:]}",
        ended=end,
        legs=legs,
        others=found[1:],
        notes=notes,
    )


def _sentence(fault: Fault) -> str:
    who = f"{fault.leg} " if fault.leg else ""
    return f"{fault.layer}: {who}{fault.what}; {fault.remedy}"


def _clean(call: CallEvidence, end: Ending | None) -> str:
    answered = [leg for leg in call.legs.values() if leg.answered is not None]
    if call.live:
        return "no fault: the call is up and its audio is as it should be"
    if end is None:
        return "no fault: nobody was called, or nothing says how it ended"
    by = f"{end.leg} ended it" if end.side == "far" else "the gateway ended it"
    if len(answered) > 1 or (answered and len(call.legs) == 1):
        return f"no fault: {by} after {end.after_s or 0.0:.0f} s: {end.rule}"
    return f"no fault: nobody talked; {by}: {end.rule}"


def _facts(leg: LegEvidence, call: CallEvidence) -> list[str]:
    facts = []
    if leg.answered is not None:
        facts.append(f"connected for {leg.seconds(call.now):.1f} s")
    elif leg.ended is None:
        facts.append("not answered yet")
    else:
        facts.append("never answered")
    if leg.held_s:
        by = leg.endpoint if leg.held_by == "far" else leg.held_by
        facts.append(f"on hold by {by} for {leg.held_s:.0f} s")
    if leg.half_duplex:
        facts.append(f"asked for the floor {leg.floor_wanted} times")
    for stats in leg.streams:
        where = f" between {stats.local} and {stats.remote or '?'}" if stats.local else ""
        facts.append(f"{stats.codec or 'no codec'}{where}")
        lost = stats.packets_lost
        facts.append(
            f"received {stats.packets_received}, lost {lost}, late {stats.packets_late}, refused "
            f"{stats.packets_refused}, sent {stats.packets_sent}"
        )
        if stats.heard_s:
            level = f", mean {stats.active_dbm0:.0f} dBm0" if stats.active_s else ""
            facts.append(
                f"heard {stats.heard_s:.0f} s, of it louder than -60 dBm0 {stats.active_s:.0f} s"
                f"{level}"
            )
        if stats.erl_db is not None and stats.erle_db is not None:
            facts.append(
                f"its echo is {stats.erl_db:.0f} dB weaker than what we send (ERL), and "
                f"{stats.erle_db:.0f} dB more behind the canceller (ERLE)"
            )
        if stats.drift_ppm is not None:
            facts.append(f"its clock differs by {stats.drift_ppm:+.0f} ppm")
        if stats.event_digits or stats.inband_digits:
            facts.append(
                f"digits: {stats.event_digits} by RFC 4733, {stats.inband_digits} in the audio"
            )
    if leg.digits:
        ways = ", ".join(sorted({each.via for each in leg.digits}))
        facts.append(f"{len(leg.digits)} digit{'s'[: len(leg.digits) > 1]} by {ways}")
    if leg.ended is not None:
        who = "the gateway ended it" if leg.hangup and leg.hangup_at < leg.ended else "it ended"
        cause, detail = leg.hangup if leg.hangup and leg.hangup_at < leg.ended else (
            leg.cause, leg.detail,
        )  # fmt: skip
        facts.append(f"{who}: {cause} {detail}".rstrip())
    return facts
