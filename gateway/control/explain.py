"""What would the routes do with an event: asked without making it happen."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.control.shapes import Explanation, Refusal, TargetView
from gateway.core.endpoints import Endpoint, Target
from gateway.core.events import AlarmRaised, InputChanged, LegOffered, Priority, Severity
from gateway.core.routes import CompiledRoute, Match, Route, RouteTable, Strategy, Trigger
from gateway.errors import UsageError


class Chance(NamedTuple):
    """Whether a target can be called."""

    usable: bool
    words: str = ""
    """Why not, or what has to happen first."""
    busy: bool = False
    """Somebody else has it, who need not make room."""


Chances = Callable[[Target, Priority], Chance]
"""What a call of this priority has at a target now."""


class DigitsPressed(NamedTuple):
    """Digits, one soon after the other, that a party to a call presses."""

    endpoint: str
    digits: str


Probe = LegOffered | AlarmRaised | InputChanged | DigitsPressed


def probe(
    source: str,
    *,
    called: str = "",
    calling: str = "",
    alarm: str = "",
    severity: str = "major",
    input: str = "",
    value: float = 1.0,
    digits: str = "",
) -> Probe:
    """The event that is asked about: a call, or an alarm of a kind, or an input, or digits.

    Raises `UsageError` when the severity is none.
    """
    if alarm:
        try:
            rank = Severity[severity.upper()]
        except KeyError:
            legal = ", ".join(member.name.lower() for member in Severity)
            raise UsageError(f"severity {severity!r} is none of {legal}") from None
        return AlarmRaised(
            endpoint=source, alarm=alarm, kind=alarm, severity=rank, trace="", raised_at=0.0,
            text="(its text)",
        )  # fmt: skip
    if input:
        return InputChanged(endpoint=source, input=input, value=value)
    if digits:
        return DigitsPressed(source, digits)
    leg = f"{source}#0"
    return LegOffered(
        leg=leg, endpoint=source, called=called, calling=calling, trace="", demanded_at=0.0
    )


def explain(
    table: RouteTable,
    event: Probe,
    wall: float,
    endpoints: Mapping[str, Endpoint],
    chances: Chances,
    *,
    live: bool,
) -> Explanation:
    """Which route takes the event at wall time `wall`, why the others do not, and what follows."""
    taken: Match | None = None
    refusals: list[Refusal] = []
    for route in table.routes:
        if isinstance(event, DigitsPressed):
            found = _pressed(route, event, wall)
        else:
            found = route.match(event, wall)
        if isinstance(found, str):
            refusals.append(Refusal(route=route.name, reason=found))
        elif taken is None:
            taken = found
        else:
            reason = f"it would take it too, but {taken.route.name!r} comes first"
            refusals.append(Refusal(route=route.name, reason=reason))
    explanation = Explanation(
        event=_in_words(event),
        by="nothing",
        route="",
        why="",
        does=[],
        targets=[],
        refusals=refusals,
        at=wall,
        live=live,
    )
    if taken is not None:
        explanation.by, explanation.route = "route", taken.route.name
        explanation.why = f"route {taken.route.name!r} is the first that takes it"
        explanation.does = _does(taken.route.route, taken, call=isinstance(event, LegOffered))
        texts = (*taken.route.route.page, *taken.route.route.targets)
        rank, patient = taken.route.priority, isinstance(event, AlarmRaised)
        explanation.targets = [
            _target(taken.expand(text), endpoints, chances, rank, patient=patient) for text in texts
        ]
    elif isinstance(event, LegOffered):
        _directory(explanation, event, endpoints, chances)
    elif isinstance(event, AlarmRaised):
        explanation.why = "no route takes it: the alarm is listed, but NOBODY IS TOLD"
    elif isinstance(event, DigitsPressed):
        explanation.why = (
            "no route takes them: they go to whom it speaks with; where its own call's route "
            "waits for a talk key or an acknowledgement, they are that"
        )
    else:
        explanation.why = "no route takes it: the input is listed, nothing else happens"
    if isinstance(event, InputChanged):
        explanation.why += _unknown(event, endpoints)
    return explanation


def _unknown(event: InputChanged, endpoints: Mapping[str, Endpoint]) -> str:
    """That the endpoint does not say of itself that it has this input; empty: it does."""
    place = endpoints.get(event.endpoint)
    if place is None or event.input in place.inputs:
        return ""
    close = difflib.get_close_matches(event.input, place.inputs, n=2) or place.inputs[:5]
    hint = f"did you mean {' or '.join(close)}?" if close else "it has none"
    return f"; but {place.id} has no input {event.input}: {hint}"


def _pressed(route: CompiledRoute, event: DigitsPressed, wall: float) -> Match | str:
    """As the switchboard does while a call stands: the last digits count."""
    if route.route.on is not Trigger.DIGITS:
        return f"it is for {route.route.on} events"
    if not route.takes(event.endpoint, wall):
        return f"it is not for {event.endpoint} now (from = {', '.join(route.route.source)})"
    for start in range(len(event.digits)):
        captures = route.digits.match(event.digits[start:])
        if captures is not None:
            fields = {str(index): text for index, text in enumerate(captures, 1)}
            return Match(route, fields | {"source": event.endpoint})
    return f"{event.digits} does not match digits = {route.route.digits}"


def _directory(
    explanation: Explanation,
    event: LegOffered,
    endpoints: Mapping[str, Endpoint],
    chances: Chances,
) -> None:
    """No route matched a call: extensions reach each other by number; trunks need a route."""
    origin = endpoints.get(event.endpoint)
    named = next((e for e in endpoints.values() if event.called and e.number == event.called), None)
    if named is None:
        where = f"{event.called or '(no number)'} is nobody's number"
        explanation.why = f"no route takes it and {where}: the caller is refused (unallocated)"
    elif origin is None:
        explanation.why = (
            f"no route takes it; {event.called} is the number of {named.id}, but "
            f"{event.endpoint} is not known: the caller is refused"
        )
    elif origin.takes_number:
        explanation.why = (
            f"no route takes it; {event.called} is the number of {named.id}, but a trunk needs "
            "a route: the caller is refused"
        )
    elif named.id == event.endpoint:
        explanation.why = "it is its own number: the caller is refused"
    else:
        explanation.by = "directory"
        explanation.why = f"{event.called} is the number of {named.id}"
        explanation.does = ["rings it for 60 s"]
        explanation.targets = [_target(named.id, endpoints, chances, Priority.ROUTINE)]


def _target(
    text: str,
    endpoints: Mapping[str, Endpoint],
    chances: Chances,
    priority: Priority,
    *,
    patient: bool = False,
) -> TargetView:
    if text.startswith("directory:"):
        number = text.removeprefix("directory:")
        named = next((e for e in endpoints.values() if number and e.number == number), None)
        if named is None:
            return TargetView(
                target=text, usable=False, reason=f"{number or '(no number)'} is nobody's number"
            )
        text = named.id
    try:
        target = Target.parse(text)
    except UsageError as error:
        return TargetView(target=text, usable=False, reason=str(error))
    chance = chances(target, priority)
    if chance.busy and patient:
        words = f"{chance.words}: called when it is free"
        return TargetView(target=text, usable=True, reason=words)
    return TargetView(target=text, usable=chance.usable, reason=chance.words)


def _in_words(event: Probe) -> str:
    match event:
        case LegOffered():
            caller = f" as {event.calling}" if event.calling else ""
            return f"{event.endpoint} calls {event.called or '(no number)'}{caller}"
        case AlarmRaised():
            return f"{event.endpoint} raises {event.alarm} ({event.severity.name.lower()})"
        case DigitsPressed():
            return f"{event.endpoint} presses {event.digits} during a call"
        case InputChanged():
            return f"input {event.input} of {event.endpoint} is {event.value:g}"


def _does(route: Route, match: Match, *, call: bool) -> list[str]:
    """What the route does, in order, in words. No secret of the route appears."""
    if route.refuse:
        return [f"refuses: {route.refuse}"]
    does = [
        f"sets {setting.endpoint} {setting.output} to {setting.value:g}"
        + (
            f" for {setting.pulse_ms} ms"
            if setting.pulse_ms
            else " for as long as the call lasts"
            if call
            else ""
        )
        for setting in route.outputs
    ]
    if route.command:
        pin = " after a PIN" if route.pins else ""
        does.append(f"answers and{pin} commands {route.command.endpoint}: {route.command.verb}")
    if route.page:
        does.append(f"pages {', '.join(match.expand(text) for text in route.page)}")
    if route.announce:
        what = route.announce.file or route.announce.tone or match.expand(route.announce.text)
        does.append(f"announces {what!r}")
    if route.page and call:
        then = "then " if route.announce else ""
        only = "only the announcement is heard, not the caller (live = false)"
        does.append(f"{then}the caller speaks to them" if route.live else only)
    if route.conference:
        does.append(f"joins conference {route.conference}")
    if route.origin:
        does.append(f"connects the audio of {match.expand(route.origin)}")
    if route.targets:
        how = {
            Strategy.IN_ORDER: "calls one after the other",
            Strategy.ALL: "calls all at once",
            Strategy.UNTIL_ACKNOWLEDGED: "calls one after the other until somebody acknowledges",
        }[route.strategy]
        rounds = f", {route.rounds} rounds" if route.rounds > 1 else ""
        does.append(f"{how}, {route.ring_s:g} s each{rounds}")
    if route.push_to_talk:
        take, give = route.push_to_talk[0], route.push_to_talk[-1]
        how = f"{take}, and gives it back with {give}" if take != give else f"{take}, in turn"
        does.append(f"lets a telephone take the floor of a half-duplex call with {how}")
    if route.acknowledge:
        does.append(f"is acknowledged with {route.acknowledge}")
    if route.record:
        does.append("records the call")
    return does
