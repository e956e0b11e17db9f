"""Flow: a run, or one trace of it, as a flow test (see `gateway.testing.flows`)."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

import msgspec

from gateway.core.actions import Action, Command, Note
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AdapterLost,
    AdapterReady,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    AudioImpaired,
    AudioRestored,
    CommandFinished,
    EndpointChanged,
    EndpointRemoved,
    Event,
    LegOffered,
    MediaFlowing,
    PanelChanged,
    ToneHeard,
)
from gateway.core.routes import Route
from gateway.journal.lines import Plan
from gateway.replay.player import Player
from gateway.replay.tape import Run, Step, playable

_IDLE = (AdapterReady, AdapterLost, MediaFlowing, AudioImpaired, AudioRestored, ToneHeard)
"""Events that decide nothing."""
_NEEDS_QUOTES: Final = re.compile(r"[\s'\"\\]")
_UNSAID = ("label", "location", "detail")
"""Of an endpoint: decides nothing."""


def only(run: Run, trace: str) -> Run:
    """The run as if nothing had happened but this trace, on the same endpoints."""
    return Run(run.name, run.where, _only(run.steps, trace))


def find(run: Run, wanted: str) -> str:
    """The trace of the run that has this id, or whose call has, or ends so; empty: none has."""
    for step in run.steps:
        if isinstance(step.what, Envelope) and (trace := _trace(step.what)):
            call: str = step.what.call or getattr(step.what.body, "call", "")
            if trace.endswith(wanted) or call.endswith(wanted):
                return trace
    return ""


def _trace(envelope: Envelope) -> str:
    return envelope.trace or str(getattr(envelope.body, "trace", ""))


def _only(steps: Iterator[Step], wanted: str) -> Iterator[Step]:
    commands: set[str] = set()
    alarms: set[tuple[str, str]] = set()
    last = math.nan
    for step in steps:
        what = step.what
        if isinstance(what, Plan):
            yield step
            continue
        body = what.body
        ours = _trace(what) == wanted
        match body:
            case EndpointChanged() | EndpointRemoved() | PanelChanged():
                ours = True
            case AlarmRaised() if ours:
                alarms.add((body.endpoint, body.alarm))
            case AlarmCleared() | AlarmAcknowledged():
                ours = (body.endpoint, body.alarm) in alarms
            case Command() if ours:
                commands.add(body.command)
            case CommandFinished():
                ours = body.command in commands
            case _:
                # What a plan does at its end belongs to no call any more.
                ours = ours or (what.action is not None and not what.trace and step.mono == last)
        if ours:
            last = step.mono
            yield step


class Scribe(Player):
    """Plays a run and writes down a flow. Driven by `play`, then `text`."""

    def __init__(self, run: Run, *, known: dict[str, str], exact: bool = False) -> None:
        """exact: times to the last bit, where milliseconds would change the order of things."""
        super().__init__(run, known=known)
        self._exact = exact
        self._routes: list[Route] = []
        self._zone = "UTC"
        self._endpoints: dict[str, Endpoint] = {}
        self._log: list[str] = []
        self._begins: Step | None = None
        self._names: dict[str, str] = {}
        """Our ids and the journal's, and what they are in the flow."""
        self._traces: dict[str, str] = {}
        self._counts: dict[str, count[int]] = {}

    def text(self) -> str:
        """The flow of what was played."""
        lines = []
        if self._begins is not None and any(route.hours for route in self._routes):
            lines += [f"begins = {self._begins.at!r}"]
        if self._zone != "UTC":
            lines += [f"zone = {json.dumps(self._zone)}"]
        for route in self._routes:
            lines += ["", "[[routes]]", *_table(route, skip=())]
        for endpoint in self._endpoints.values():
            lines += ["", "[[endpoints]]", *_table(endpoint, skip=_UNSAID)]
        return "\n".join([*lines, "---", *self._log, ""]).lstrip("\n")

    # What the player does, written down

    def _use(self, step: Step, plan: Plan) -> None:
        super()._use(step, plan)
        if not self._log:
            self._routes, self._zone = playable(plan), plan.zone

    def _give(self, step: Step, envelope: Envelope, event: Event) -> None:
        if isinstance(event, EndpointChanged) and not self._log:
            self._endpoints[event.endpoint.id] = event.endpoint
        if isinstance(event, LegOffered) and event.leg not in self._names:
            self._names[event.leg] = f"{event.endpoint}#in{self._next(f'in {event.endpoint}')}"
        told = self._ourselves(envelope, event)
        self.hidden.clear()
        super()._give(step, envelope, event)
        out = list(self._out)
        if (self._log or not isinstance(event, EndpointChanged)) and (
            out or not isinstance(event, _IDLE)
        ):
            self._begins = self._begins or step
            self._write(step, self._event(told, self._begins.mono), out)

    def _expect(self, step: Step, action: Action) -> bool:
        if not self._out:
            self._out.extend(self.board.tick(step.mono, step.at))
            self._write(step, "(time passes)", list(self._out))
        return super()._expect(step, action)

    # Lines

    def _write(self, step: Step, event: str, actions: list[Action]) -> None:
        self._begins = self._begins or step
        at = step.mono - self._begins.mono
        stamp = repr(at) if self._exact else f"{math.ceil(at * 1000) / 1000:.3f}"
        self._log.append(f"{stamp}  {event}")
        for action in actions:
            if not isinstance(action, Note):
                self._log.append(f"     -> {self._action(action)}")

    def _next(self, of: str) -> int:
        return next(self._counts.setdefault(of, count(1)))

    def _new_leg(self, endpoint: str) -> str:
        made = f"{endpoint}#~{next(self._number)}"
        self._names[made] = f"{endpoint}#{self._next(endpoint)}"
        return made

    def _new_id(self) -> str:
        made = super()._new_id()
        self._names[made] = f"id-{self._next('id')}"
        return made

    def _renamed(self, text: str) -> str:
        if text in self._names:
            return self._names[text]
        leg, slash, rest = text.rpartition("/")
        return self._names[leg] + slash + rest if leg in self._names else text

    def _event(self, event: Event, began: float) -> str:
        words = [type(event).__name__]
        for field in msgspec.structs.fields(event):
            value = getattr(event, field.name)
            if field.name == "trace":
                value = value and self._traces.setdefault(value, f"t{len(self._traces) + 1}")
            elif field.name in ("demanded_at", "raised_at") and value is not None:
                value = round(value - began, 6)
            elif value == field.default:
                continue
            plain = msgspec.to_builtins(value)
            if isinstance(plain, dict):
                text = json.dumps(plain, ensure_ascii=False)
            elif isinstance(plain, bool):
                text = str(plain).lower()
            else:
                text = self._renamed(plain) if isinstance(plain, str) else str(plain)
            words.append(f"{field.name}={_quoted(_one_line(text))}")
        return " ".join(words)

    def _action(self, action: Action) -> str:
        words = [type(action).__name__]
        for field in msgspec.structs.fields(action):
            value = getattr(action, field.name)
            if field.name in ("trace", "call", "bridge", "command", "code", "detail"):
                continue
            if value == field.default or not isinstance(value, str | int | float):
                continue
            plain = msgspec.to_builtins(value)
            text = self._renamed(plain) if isinstance(plain, str) else str(plain)
            if isinstance(plain, bool):
                text = text.lower()
            if text == _one_line(text):
                words.append(f"{field.name}={_quoted(text)}")
        return " ".join(words)


def _quoted(text: str) -> str:
    """As `shlex.split` reads it; quoted only where that is needed, for people read it too."""
    return shlex.quote(text) if not text or _NEEDS_QUOTES.search(text) else text


def _one_line(text: str) -> str:
    """A flow's comment begins with " ;" wherever it stands, and its lines are lines."""
    return " ".join(text.replace(" ;", ";").splitlines())


def _table(value: Route | Endpoint, *, skip: tuple[str, ...]) -> Iterator[str]:
    for field in msgspec.structs.fields(value):
        found = getattr(value, field.name)
        usual = Condition.UP if field.name == "condition" else field.default
        if field.name in skip or found == usual:
            continue
        plain = msgspec.to_builtins(found)
        if plain not in (None, [], {}):
            yield f"{field.encode_name} = {_toml(plain)}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(
            f"{json.dumps(key, ensure_ascii=False)} = {_toml(item)}"
            for key, item in value.items()
            if item is not None
        )
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
