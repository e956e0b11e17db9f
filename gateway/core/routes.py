"""Route: which event leads to which plan; calls, alarms, inputs and digits alike.

Routes are tried in the order of the configuration; the first that matches is taken. `match`
answers with the captures or with the reason why not, so that every refusal can be explained.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from gateway.core.actions import Talk, Vox
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint, Target
from gateway.core.events import AlarmRaised, InputChanged, LegOffered, Priority, Quality, Severity
from gateway.core.hours import Hours
from gateway.core.numbers import Completeness, NumberPattern, combine
from gateway.errors import UsageError

BY_ANSWER: Final = "answer"
BY_TALKING: Final = "talk"
"""Ways to acknowledge without a digit."""

_FIELD = re.compile(r"\{([a-z]+|\d)\}")
_FIELDS = ("called", "calling", "source", "alarm", "kind", "text", "input")
_E = TypeVar("_E", Priority, Severity)


class Trigger(StrEnum):
    """What kind of event a route waits for."""

    CALL = "call"
    ALARM = "alarm"
    INPUT = "input"
    DIGITS = "digits"
    """Digits pressed during a call."""


class Strategy(StrEnum):
    """How the targets are tried."""

    IN_ORDER = "in_order"
    ALL = "all"
    """All ring at once; the first to answer (or to acknowledge) has it."""
    UNTIL_ACKNOWLEDGED = "until_acknowledged"
    """One after the other until somebody acknowledges (an alarm) or accepts (a call)."""


class Announcement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is played to those who are called or paged."""

    file: str = ""
    """WAV file, relative to the configuration's ``sounds`` directory."""
    tone: str = ""
    text: str = ""
    """Spoken by the configured synthesiser; may hold ``{text}``, ``{source}``, ``{alarm}``."""
    repeat: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 3
    """How often; 0 is until acknowledged or hung up."""
    gap_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0


class OutputSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output to switch when the plan begins, and what to set when it is over."""

    endpoint: str
    output: str
    value: float = 1.0
    pulse_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    after: float | None = None
    """Value when the plan ends (acknowledged, cleared, exhausted); None: leave it."""


class PanelCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command to an alarm panel or device, given from a telephone."""

    endpoint: str
    verb: str
    """``ARM_AWAY``, ``ARM_HOME``, ``ARM_NIGHT``, ``DISARM``, ``TRIGGER``, ``ACKNOWLEDGE``."""
    pass_code: bool = False
    """Hand the digits that the person entered to the panel, which checks them itself."""


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event pattern and the plan it starts."""

    name: str
    on: Trigger = Trigger.CALL
    source: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        default=("*",), name="from"
    )
    """Endpoints the event may come from, as shell patterns: ``fxs/*``."""
    called: str = ""
    """Number pattern (see `gateway.core.numbers`) that was dialled."""
    calling: str = ""
    """Number pattern of the caller."""
    hours: str = ""
    """``Mon-Fri 08:00-18:00, Sat 09:00-12:00``; empty: always."""
    kind: tuple[str, ...] = ("*",)
    """Kinds of alarm, as shell patterns."""
    severity: str = "indeterminate"
    """Least severity of an alarm."""
    input: str = "*"
    """Inputs, as a shell pattern."""
    value: float | None = None
    """Value of the input that triggers."""
    above: float | None = None
    below: float | None = None
    quality: str = "good"
    """``stale`` or ``bad`` make the loss of a source the trigger."""
    digits: str = ""
    """Digit pattern of a ``digits`` route."""

    targets: tuple[str, ...] = ()
    """Who is called: ``sip/guard``, ``fxs/1``, ``sip/telco:{1}``, ``directory:{called}``."""
    strategy: Strategy = Strategy.IN_ORDER
    ring_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """How long each target may take to answer."""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """How often the list is gone through."""
    strip: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Leading digits to take off ``{called}``."""
    add: str = ""
    """Digits to put before ``{called}`` after stripping."""
    calling_as: str = ""
    """Number to show to the called side; empty: the caller's."""
    priority: str = "routine"
    """``routine``, ``priority``, ``urgent`` or ``emergency``."""
    auto_answer: bool = False
    conference: str = ""
    """Room that the caller, and every target that answers, joins."""
    push_to_talk: str = ""
    """Digits with which a telephone takes and gives back the floor of a half-duplex call, ``*#``;
    one digit does both in turn; empty: its voice does, see `vox`."""
    vox: Vox = Vox()
    """When the voice of a telephone counts as speech."""
    floor: Literal["radio", "telephone"] = "radio"
    """Who comes first when both speak. The radio: a carrier releases our transmitter. The
    telephone: it is keyed although somebody speaks on the air, for repeaters and stations that
    must be heard."""
    origin: str = ""
    """For inputs and alarms: the place whose audio is connected with whoever answers."""
    page: tuple[str, ...] = ()
    """Zones and telephones that hear the announcement, or the caller, at once and by themselves."""
    live: bool = True
    """For calls that page: the caller speaks, after the announcement; false: it alone is heard."""
    announce: Announcement | None = None
    acknowledge: str = ""
    """The digit that acknowledges, ``answer`` or ``talk`` (a talk key); empty: hearing it is
    enough. On a call: how whoever answers accepts it."""
    acknowledge_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """How long somebody who answered has for it."""
    stop_on_clear: bool | None = None
    """Stop when the alarm or input clears by itself; else only an acknowledgement ends it.
    Left out: yes, but not for a help point, or an input that is to be acknowledged: buttons
    come back by themselves."""
    outputs: tuple[OutputSetting, ...] = ()
    """On a call: for as long as it lasts."""
    command: PanelCommand | None = None
    """On an input: given when it begins to match; ``ACKNOWLEDGE`` acknowledges the alarms of the
    command's endpoint."""
    pins: dict[str, str] = {}
    """Person to PIN; who dials a ``command`` or ``acknowledge`` route must enter one, then #."""
    hold: Announcement | None = None
    """What one side of a call hears while the other puts it on hold and sends nothing; left out:
    silence. It is played until the call is taken off hold."""
    record: bool = False
    refuse: str = ""
    """Refuse with this cause instead of calling anybody."""

    @property
    def talk(self) -> Talk:
        """How a telephone comes to the floor."""
        return Talk(keys=self.push_to_talk, vox=self.vox, first=self.floor == "telephone")


class Match(msgspec.Struct, frozen=True):
    """A route that took an event, with what its pattern captured."""

    route: CompiledRoute
    fields: dict[str, str]

    def expand(self, text: str) -> str:
        """Put captures into a target or text; an unknown field stays as it is."""
        if "{" not in text:
            return text
        return _FIELD.sub(lambda found: self.fields.get(found[1], found[0]), text)

    def told(self, *, hidden: bool) -> Match:
        """For what others see and hear: of a caller who is hidden without his number."""
        return Match(self.route, self.fields | {"calling": ""}) if hidden else self


_TRIGGERS: Final = {
    LegOffered: Trigger.CALL,
    AlarmRaised: Trigger.ALARM,
    InputChanged: Trigger.INPUT,
}


class CompiledRoute:
    """A route whose patterns are ready to be matched."""

    def __init__(self, route: Route, zone: str = "UTC") -> None:
        """Raises `UsageError` naming the field and what is wrong with it."""
        self.route = route
        self.called = _compile("called", route.called)
        self.calling = _compile("calling", route.calling)
        self.digits = _compile("digits", route.digits)
        self.hours = Hours(route.hours, zone)
        self.priority = _member(Priority, "priority", route.priority)
        self.severity = _member(Severity, "severity", route.severity)
        self.talk = route.talk
        if route.quality not in tuple(Quality):
            raise UsageError(f"quality: {route.quality!r} is none of {', '.join(Quality)}")
        if route.on is Trigger.DIGITS and not route.digits:
            raise UsageError("digits: a route on digits needs a digit pattern")
        captures = route.called.count("(") if route.on is not Trigger.DIGITS else 0
        captures += route.digits.count("(")
        self._check_words(route)
        for text in (*route.targets, *route.page, *filter(None, [route.origin])):
            for field in _FIELD.findall(text):
                if field.isdigit() and not 1 <= int(field) <= captures:
                    raise UsageError(f"targets: {text!r} uses {{{field}}}, not captured in called")
                if not field.isdigit() and field not in _FIELDS:
                    raise UsageError(
                        f"targets: {text!r} uses {{{field}}}; known: {', '.join(_FIELDS)}"
                    )
            if not text.startswith(("directory", "{")):
                Target.parse(_FIELD.sub("0", text))

    def _check_words(self, route: Route) -> None:
        if route.refuse and route.refuse not in tuple(Cause):
            raise UsageError(f"refuse: {route.refuse!r} is none of {', '.join(Cause)}")
        known = (*"0123456789*#ABCD", "", BY_ANSWER, BY_TALKING)
        if route.acknowledge not in known:
            raise UsageError(
                f"acknowledge: {route.acknowledge!r} is neither one digit nor "
                f"{BY_ANSWER!r} nor {BY_TALKING!r}"
            )
        if len(route.push_to_talk) > 2 or set(route.push_to_talk) - set("0123456789*#ABCD"):
            raise UsageError(f"push_to_talk: {route.push_to_talk!r} is not one or two digits")
        if route.on is Trigger.DIGITS and route.pins and "(" not in route.digits:
            raise UsageError("digits: a route with pins needs a capture for the PIN, '*5(XXXX)'")
        if route.on is Trigger.CALL and route.page and not (route.live or route.announce):
            raise UsageError("announce: a page that is not live needs an announcement")

    @property
    def name(self) -> str:
        """The route's name."""
        return self.route.name

    def shown(self, called: str) -> str:
        """The called number as it may be written down: without a PIN dialled along with it."""
        return self.called.masked(called) if self.route.pins else called

    def match(self, event: LegOffered | AlarmRaised | InputChanged, wall: float) -> Match | str:
        """A `Match`, or why this route does not take the event."""
        route = self.route
        if route.on is not _TRIGGERS[type(event)]:
            return f"it is for {route.on} events"
        if not _any_glob(route.source, event.endpoint):
            return f"it is not for {event.endpoint} (from = {', '.join(route.source)})"
        fields = {"source": event.endpoint}
        match event:
            case LegOffered():
                why = self._match_call(event, fields)
            case AlarmRaised():
                why = self._match_alarm(event, fields)
            case InputChanged():
                why = self._match_input(event, fields)
        if why:
            return why
        if not self.hours.contains(wall):
            return f"it is outside its hours ({route.hours})"
        return Match(self, fields)

    def takes(self, endpoint: str, wall: float) -> bool:
        """Whether events of this endpoint concern the route at this time."""
        return _any_glob(self.route.source, endpoint) and self.hours.contains(wall)

    def _match_call(self, event: LegOffered, fields: dict[str, str]) -> str:
        captures = self.called.match(event.called)
        if captures is None:
            return f"{event.called or 'no number'} does not match called = {self.route.called}"
        if self.calling.match(event.calling) is None:
            return f"caller {event.calling or '(none)'} does not match {self.route.calling}"
        fields |= {str(index): text for index, text in enumerate(captures, 1)}
        fields["called"] = self.route.add + event.called[self.route.strip :]
        fields["calling"] = event.calling
        return ""

    def _match_alarm(self, event: AlarmRaised, fields: dict[str, str]) -> str:
        if not _any_glob(self.route.kind, event.kind):
            return f"kind {event.kind or '(none)'} is not {', '.join(self.route.kind)}"
        if event.severity < self.severity:
            return f"{event.severity.name.lower()} is below {self.route.severity}"
        fields |= {"alarm": event.alarm, "kind": event.kind, "text": event.text}
        return ""

    def _match_input(self, event: InputChanged, fields: dict[str, str]) -> str:
        route = self.route
        if not fnmatch.fnmatchcase(event.input, route.input):
            return f"input {event.input} does not match {route.input}"
        if event.quality != route.quality:
            return f"its quality is {event.quality}, not {route.quality}"
        if route.value is not None and event.value != route.value:
            return f"{event.value:g} is not {route.value:g}"
        if route.above is not None and event.value <= route.above:
            return f"{event.value:g} is not above {route.above:g}"
        if route.below is not None and event.value >= route.below:
            return f"{event.value:g} is not below {route.below:g}"
        fields |= {"input": event.input, "alarm": event.input, "text": f"{event.value:g}"}
        return ""


class RouteTable:
    """All routes in order, and the directory of extensions behind them."""

    def __init__(self, routes: Iterable[Route] = (), zone: str = "UTC") -> None:
        """Raises `UsageError` when a route does not compile or a name is used twice."""
        self.routes: list[CompiledRoute] = []
        names: set[str] = set()
        for route in routes:
            if route.name in names:
                raise UsageError(f"route {route.name!r}: the name is used twice")
            names.add(route.name)
            try:
                self.routes.append(CompiledRoute(route, zone))
            except UsageError as error:
                raise UsageError(f"route {route.name!r}: {error}") from None

    def match(
        self, event: LegOffered | AlarmRaised | InputChanged, wall: float
    ) -> tuple[Match | None, list[tuple[str, str]]]:
        """The first route that takes the event, and why each one before it did not."""
        refusals: list[tuple[str, str]] = []
        for route in self.routes:
            found = route.match(event, wall)
            if isinstance(found, Match):
                return found, refusals
            refusals.append((route.name, found))
        return None, refusals

    def completeness(
        self, endpoint: str, digits: str, wall: float, directory: Mapping[str, Endpoint]
    ) -> Completeness:
        """Whether digits dialled so far on an endpoint are a whole number."""
        parts = [
            compiled.called.completeness(digits)
            for compiled in self.routes
            if compiled.route.on is Trigger.CALL and compiled.takes(endpoint, wall)
        ]
        for place in directory.values():
            if place.number == digits:
                parts.append(Completeness.COMPLETE)
            elif place.number.startswith(digits) and place.number:
                parts.append(Completeness.PARTIAL)
        return combine(parts)


def _any_glob(patterns: Iterable[str], text: str) -> bool:
    for pattern in patterns:  # noqa: SIM110 (a generator costs more than what it asks)
        if fnmatch.fnmatchcase(text, pattern):
            return True
    return False


def _compile(field: str, text: str) -> NumberPattern:
    try:
        return NumberPattern(text)
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from None


def _member(kind: type[_E], field: str, text: str) -> _E:
    try:
        return kind[text.upper()]
    except KeyError:
        legal = ", ".join(member.name.lower() for member in kind)
        raise UsageError(f"{field}: {text!r} is none of {legal}") from None
