"""What a call's events say: refused, held, cut off, nobody on the air, who hung up and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.core.causes import Cause
from gateway.diagnosis.evidence import CallEvidence, LegEvidence
from gateway.diagnosis.faults import Code, Fault, Layer
from gateway.diagnosis.streams import Heard
from gateway.diagnosis.streams import faults as of_stream

EARLY_S: Final = 3.0
"""A conversation that the far end ends sooner was none."""
EARLY_TONE_S: Final = 7.0
"""The same where a tone says so, which takes its time to be recognised."""
SETTLE_S: Final = 2.0
"""A leg that was connected for less is not judged by its packets: the first are on their way."""
CARRIER_S: Final = 5.0
"""How long a radio that is called may say nothing."""
FLOOR_S: Final = 0.5
"""Speech that was lost because another was heard."""
TWICE_S: Final = 0.3
"""Two reports of one key press come within this time."""

_RULES: Final = {
    "BYE": "BYE", "bye": "BYE",
    "cpc": "the exchange dropped the line current (CPC)",
    "polarity": "the exchange reversed the battery",
    "silence": "the silence rule",
    "max call": "the longest call allowed (max_call_s)",
    "on hook": "the loop was opened: on hook",
    "ring stopped": "the ringing stopped",
    "no dial tone": "no dial tone",
    "no answer": "no answer",
    "glare": "the line rang while it was seized",
    "no-ack": "its ACK never came",
    "expired": "the session timer ran out (RFC 4028)",
    "gone": "the far end no longer knows the call (481)",
    "timeout": "no answer at all",
    "unreachable": "it cannot be reached",
    "nobody speaks": "the radio's idle timer",
}  # fmt: skip
_TONE: Final = re.compile(r"(busy|congestion) tone")
_CUT_OFF: Final = {
    Cause.MEDIA_TIMEOUT, Cause.TIMER_EXPIRED, Cause.PROTOCOL_ERROR, Cause.TEMPORARY_FAILURE,
    Cause.NETWORK_OUT_OF_ORDER, Cause.RESOURCE_UNAVAILABLE, Cause.PREEMPTED, Cause.INTERWORKING,
}  # fmt: skip
_PEOPLE: Final = {
    Cause.NORMAL, Cause.BUSY, Cause.NO_ANSWER, Cause.CANCELLED, Cause.ANSWERED_ELSEWHERE,
    Cause.SHUTDOWN, Cause.REDIRECTED,
}  # fmt: skip
"""Ends that people bring about, and no fault of anything."""
_DOWN: Final = re.compile(
    r"(?:cannot (?:reach|call|page|invite) \S+: )?(\S+/\S+) is down(?:: (.*))?"
)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Who ended a call, and by which rule."""

    leg: str
    side: str
    """``far``: the far end or its line; ``gateway``: we, by a rule of ours."""
    rule: str
    cause: str
    after_s: float | None
    """Seconds since its answer; None: it was never answered."""


def ending(call: CallEvidence) -> Ending | None:
    """What ended the call first; None while it is up."""
    if call.live or not call.legs:
        return None
    # The legs that talked, where there are some: others ended because somebody else answered.
    talked = [leg for leg in call.legs.values() if leg.answered is not None]
    first: tuple[float, LegEvidence, bool] | None = None
    for leg in talked or call.legs.values():
        ours = leg.hangup is not None and (leg.ended is None or leg.hangup_at < leg.ended)
        at = leg.hangup_at if ours else leg.ended
        if at is not None and (first is None or at < first[0]):
            first = (at, leg, ours)
    if first is None:
        return None
    at, leg, ours = first
    cause, detail = leg.hangup if ours and leg.hangup else (leg.cause, leg.detail)
    return Ending(
        leg=leg.id,
        side="gateway" if ours or _is_timer(cause, detail) else "far",
        rule=rule(detail) or cause,
        cause=cause,
        after_s=None if leg.answered is None else max(0.0, at - leg.answered),
    )


def rule(detail: str) -> str:
    """The rule of disconnect supervision that a leg's detail names, in words."""
    if found := _TONE.match(detail):
        return f"the line played {found[1]} tone ({detail})"
    return _RULES.get(detail, detail)


def _is_timer(cause: str, detail: str) -> bool:
    return detail in ("silence", "max call") or cause == Cause.SHUTDOWN


def faults(call: CallEvidence) -> Iterator[Fault]:
    """What is wrong with a call, in no order."""
    yield from _unreachable(call)
    for leg in call.legs.values():
        yield from _end(call, leg)
        yield from _floor(call, leg)
        yield from _digits(leg)
        yield from _audio(call, leg)
    yield from _early(call)


# Before the answer


def _unreachable(call: CallEvidence) -> Iterator[Fault]:
    said = list(call.notes)
    for leg in call.legs.values():
        said += [leg.hangup[1]] if leg.hangup else []
    for place, why in dict.fromkeys(
        (found[1], found[2] or "") for text in said if (found := _DOWN.match(text))
    ):
        yield down(place, why)
    for place, why in call.alarmed.items():
        if why:
            yield down(place, why)


def down(place: str, why: str, leg: str = "") -> Fault:
    """An endpoint that cannot be used, and what its reason means."""
    next_ = f"gateway endpoints {place} --detail"
    what = f"is down: {why}" if why else "is down"
    what = what if leg else f"{place} {what}"
    if "no battery" in why:
        return Fault(
            code=Code.NO_LINE_CURRENT, layer=Layer.LINE, leg=leg, what=what,
            remedy="no line current: plug, pair or the exchange's line card; measure 48 V there",
            next=next_,
        )  # fmt: skip
    if "regist" in why.lower():
        return Fault(
            code=Code.REGISTRATION, layer=Layer.SIGNALLING, leg=leg, what=what,
            remedy="user, password, realm and address of the registrar, on both sides",
            next=next_,
        )  # fmt: skip
    if re.search(r"no answer to|cannot be resolved|broker|connection", why):
        return Fault(
            code=Code.TRUNK_DOWN, layer=Layer.NETWORK, leg=leg, what=what,
            remedy="the server itself, its address and port, or a firewall between us and it",
            next=next_,
        )  # fmt: skip
    return Fault(
        code=Code.DEVICE_DOWN, layer=Layer.LINE, leg=leg, what=what,
        remedy="mend what the reason names; it is tried again by itself", next=next_,
    )  # fmt: skip


def _end(call: CallEvidence, leg: LegEvidence) -> Iterator[Fault]:
    """How a leg ended, where that is no decision of people."""
    if leg.ended is None:
        return
    # What we told it to end with says less than what made us: that is another leg's end.
    ours = leg.hangup is not None and leg.hangup_at < leg.ended
    cause, detail = leg.hangup if ours and leg.hangup else (leg.cause, leg.detail)
    if ours and leg.answered is None and leg.direction == "in":
        yield from _caller_refused(call, leg, cause, detail)
        return
    if ours and cause not in _CUT_OFF:
        return
    what = rule(detail) or cause.replace("-", " ")
    if cause == Cause.CRASHED:
        yield Fault(
            code=Code.CRASHED, layer=Layer.GATEWAY, leg=leg.id, what="the gateway died in the call",
            remedy="send a support bundle to whoever helps you", next="gateway support-bundle",
        )  # fmt: skip
    elif cause == Cause.ADAPTER_LOST:
        yield Fault(
            code=Code.ADAPTER_LOST, layer=Layer.GATEWAY, leg=leg.id,
            what=f"lost its adapter: {detail or 'it stopped'}",
            remedy="mend what the reason names; it is started again by itself",
            next="gateway adapters",
        )  # fmt: skip
    elif "no battery" in detail:
        yield down(leg.endpoint, detail, leg.id)
    elif cause in (Cause.OUT_OF_ORDER, Cause.NO_RESPONSE) and leg.answered is None:
        yield _no_response(call, leg, detail)
    elif cause == Cause.ABSENT:
        yield down(leg.endpoint, detail or "not registered", leg.id)
    elif cause == Cause.OUT_OF_ORDER:
        yield down(leg.endpoint, detail, leg.id)
    elif cause == Cause.MEDIA_TIMEOUT and (why := _lost_with(call, leg)):
        # Its audio went an instant before the rest of the device did.
        yield down(leg.endpoint, why, leg.id)
    elif cause in _CUT_OFF:
        after = f" after {leg.seconds(call.now):.0f} s" if leg.answered is not None else ""
        yield Fault(
            code=Code.CUT_OFF, layer=_layer_of(cause), leg=leg.id,
            what=f"was cut off{after} by {'the gateway' if ours else 'a rule'}: {what}",
            remedy=_CUT_REMEDY.get(cause, "see what happened before it"),
            next=f"gateway trace {leg.id}",
        )  # fmt: skip
    elif leg.answered is None and leg.direction == "out" and cause not in _PEOPLE:
        yield Fault(
            code=Code.REFUSED, layer=Layer.FAR_END, leg=leg.id, what=f"refused the call: {what}",
            remedy=f"ask the far end; we dialled {leg.endpoint}", next=f"gateway trace {leg.id}",
        )  # fmt: skip


_CUT_REMEDY: Final[dict[str, str]] = {
    Cause.MEDIA_TIMEOUT: "audio stopped arriving: the far end or the network; the time allowed is "
    "media_timeout_s or silence_s of this endpoint",
    Cause.TIMER_EXPIRED: "the timer that the rule names: max_call_s, or a far end that no longer "
    "answers",
    Cause.PREEMPTED: "a call of higher priority needed the line",
}


def _layer_of(cause: str) -> Layer:
    if cause == Cause.MEDIA_TIMEOUT:
        return Layer.MEDIA
    return Layer.GATEWAY if cause == Cause.PREEMPTED else Layer.SIGNALLING


def _lost_with(call: CallEvidence, leg: LegEvidence) -> str:
    """Why a leg's endpoint went down in the call; empty: it did not."""
    condition, why = call.conditions.get(leg.endpoint, ("", ""))
    return why if condition == "down" else ""


def _no_response(call: CallEvidence, leg: LegEvidence, detail: str) -> Fault:
    why = _lost_with(call, leg)
    return down(leg.endpoint, why or f"no answer to our call ({rule(detail) or 'silence'})", leg.id)


def _caller_refused(
    call: CallEvidence, leg: LegEvidence, cause: str, detail: str
) -> Iterator[Fault]:
    others = [other for other in call.legs.values() if other is not leg]
    if others or _DOWN.match(detail) or cause in _PEOPLE:
        return
    yield Fault(
        code=Code.NO_ROUTE, layer=Layer.GATEWAY, leg=leg.id,
        what=f"was refused by the gateway: {detail or cause}",
        remedy="a route for it is missing or does not match",
        next=f"gateway explain {leg.endpoint} NUMBER",
    )  # fmt: skip


def _early(call: CallEvidence) -> Iterator[Fault]:
    end = ending(call)
    if end is None or end.side != "far" or end.after_s is None:
        return
    partners = [leg for leg in call.legs.values() if leg.answered is not None]
    if len(partners) < 2 or any(leg.one_way for leg in partners):
        return
    talk_s = min(leg.seconds(call.now) for leg in partners)
    enough_s = EARLY_TONE_S if "tone" in end.rule else EARLY_S
    if talk_s >= enough_s or end.cause not in (Cause.NORMAL, Cause.REJECTED, Cause.UNSPECIFIED):
        return
    yield Fault(
        code=Code.EARLY_END,
        layer=Layer.LINE if "line" in end.rule or "exchange" in end.rule else Layer.FAR_END,
        leg=end.leg,
        what=f"ended the call {talk_s:.1f} s after the answer: {end.rule}",
        remedy=(
            "if nobody hung up there, this rule of its hangup setting fires wrongly"
            if "line" in end.rule or "exchange" in end.rule
            else "ask the far end why it hung up"
        ),
        next=f"gateway trace {end.leg}",
    )


# During the call


def _floor(call: CallEvidence, leg: LegEvidence) -> Iterator[Fault]:
    if leg.floor_waited_s >= FLOOR_S:
        yield Fault(
            code=Code.FLOOR_HELD, layer=Layer.RADIO, leg=leg.id,
            what=(
                f"spoke for {leg.floor_waited_s:.1f} s while {leg.floor_waited_for} held the "
                "floor: it was not heard"
            ),
            remedy=f"one at a time: {leg.floor_waited_for} must let go first",
            next=f"gateway trace {leg.id}",
        )  # fmt: skip
    half = leg.half_duplex and leg.direction == "out" and leg.endpoint.startswith("radio/")
    talked = [other for other in call.legs.values() if other.answered is not None]
    if half and len(talked) == 2 and not leg.floor_wanted and leg.seconds(call.now) >= CARRIER_S:
        yield Fault(
            code=Code.NO_CARRIER, layer=Layer.RADIO, leg=leg.id,
            what=f"never reported a carrier in {leg.seconds(call.now):.0f} s: nothing of the air "
            "is heard without it",
            remedy="nobody spoke there, or its carrier line (COR, squelch) is open or inverted",
            next=f"gateway endpoints {leg.endpoint} --detail",
        )  # fmt: skip


def _digits(leg: LegEvidence) -> Iterator[Fault]:
    doubles = sum(
        after.via != before.via and after.mono - before.mono < TWICE_S
        for before, after in zip(leg.digits, leg.digits[1:], strict=False)
    )
    if not doubles:
        return
    ways = " and ".join(sorted({digit.via for digit in leg.digits}))
    yield Fault(
        code=Code.DTMF_DOUBLED, layer=Layer.DIGITS, leg=leg.id,
        what=f"sends digits twice: {doubles} key presses came by {ways}",
        remedy="let the far end send digits in one way alone",
        next=f"gateway events --leg {leg.id} --since 1d",
    )  # fmt: skip


def _audio(call: CallEvidence, leg: LegEvidence) -> Iterator[Fault]:
    if leg.answered is None or leg.seconds(call.now) < SETTLE_S:
        return
    if leg.held:
        far = leg.held_by == "far"
        if not far and any(each.held and each.held_by == "far" for each in call.legs.values()):
            return  # Its partner put it there, and is the one to be spoken of.
        by, whom = (leg.endpoint, "the far end put us") if far else (leg.held_by, "we put it")
        what = f"is on hold by {by}: {whom} there"
        if not call.live:
            what = f"was on hold by {by} when it ended: {whom.replace('put', 'had put')} there"
        yield Fault(
            code=Code.HOLD, layer=Layer.FAR_END, leg=leg.id, what=what,
            remedy="take the call off hold there" if far else "take it off hold",
            next=f"gateway trace {leg.id}",
        )  # fmt: skip
        return
    if not leg.streams:
        if call.live:
            yield Fault(
                code=Code.NO_STREAM, layer=Layer.MEDIA, leg=leg.id, what="has no audio stream",
                remedy="see its adapter, and the log", next=f"gateway endpoints {leg.endpoint}",
            )  # fmt: skip
        return
    # A stream that was replaced in mid-call was so for a reason: the last one tells how it is.
    heard = Heard(
        leg.id,
        leg.streams[-1],
        speaks=not leg.one_way,
        talks=not leg.half_duplex,
        seconds=leg.seconds(call.now) if len(leg.streams) == 1 else 0.0,
    )
    yield from of_stream(heard)
