"""Player: gives a switchboard what a run's journal says it was given, and compares what comes out.

Ids that the switchboard minted (legs it dialled, calls, bridges, commands) have other names in the
replay; they are matched when they are first met, and each must then stay the same.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final

import msgspec

from gateway.core.actions import Action, CloseAlarm, Command, SendDigits
from gateway.core.envelope import Envelope
from gateway.core.events import AnnouncementEnded, DigitPressed, Event, LegOffered
from gateway.core.routes import RouteTable
from gateway.core.switchboard import Switchboard
from gateway.journal.lines import Plan
from gateway.replay.tape import Run, Step, playable

_MINTED: Final = re.compile(r"(?:[a-z][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._+-]*#)?~\d+")
HIDDEN: Final = "?"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where the journal and the replay part."""

    where: str
    """``file:line`` of the journal."""
    at: float
    """Wall clock of the journal there, seconds since 1970."""
    event: dict[str, Any] | None
    """The last event before it; null: time passed."""
    journal: dict[str, Any] | None
    """The action that the journal has; null: none at this place."""
    replay: dict[str, Any] | None
    """The action of the replay, by the journal's names; null: none at this place."""
    fields: list[str] = []
    """Of the same kind of action: what differs."""
    hint: str = ""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one run."""

    run: str
    where: str
    began: float = 0.0
    """Wall clock, seconds since 1970."""
    ended: float = 0.0
    events: int = 0
    actions: int = 0
    unwritten: int = 0
    """Actions at the end that the journal no longer has: it was cut off, or is being written."""
    guessed: int = 0
    """Hidden digits and numbers that were guessed from what followed them."""
    skipped: str = ""
    """Why the run was not played."""
    difference: Difference | None = None


class Player:
    """Plays one run. Driven by `play`; `outcome` says how it went."""

    def __init__(
        self, run: Run, *, table: RouteTable | None = None, known: Mapping[str, str] | None = None
    ) -> None:
        """table: routes instead of the journal's own. known: envelope id and what the digit or
        called number that it hides shall be."""
        self.outcome = Outcome(run=run.name, where=run.where)
        self.hidden: list[tuple[str, str, str]] = []
        """Envelope id, leg and hidden text, in order, of all that was met before the difference."""
        self._run = run
        self._fixed = table
        self._known = known or {}
        self._plan: Plan | None = None
        self._number = count(1)
        self.board = Switchboard(table or RouteTable(), new_leg=self._new_leg, new_id=self._new_id)
        self._out: deque[Action] = deque()
        self._theirs: dict[str, str] = {}
        """Our id and the journal's."""
        self._ours: dict[str, str] = {}
        self._last: Step | None = None

    def play(self) -> Outcome:
        """Play up to the first difference, or to the end. Raises `OSError`."""
        outcome = self.outcome
        for step in self._run.steps:
            what = step.what
            if isinstance(what, Plan):
                self._use(step, what)
                continue
            outcome.began = outcome.began or step.at
            outcome.ended = step.at
            if what.event is not None:
                if self._surplus(step):
                    break
                outcome.events += 1
                self._give(step, what, what.event)
            else:
                assert what.action is not None
                if not self._expect(step, what.action):
                    break
                outcome.actions += 1
        else:
            outcome.unwritten = sum(not self._withheld(action) for action in self._out)
        return outcome

    def _new_leg(self, endpoint: str) -> str:
        return f"{endpoint}#{self._new_id()}"

    def _new_id(self) -> str:
        return f"~{next(self._number)}"

    def _use(self, step: Step, plan: Plan) -> None:
        # A plan stands at the head of every segment too: only another one means anything.
        if self._fixed is None and plan != self._plan:
            self._plan = plan
            table = RouteTable(playable(plan), plan.zone)
            self.board.replace_routes(table)
            if plan.asked:
                self._out.extend(self.board.match_again(step.mono, step.at))

    def _give(self, step: Step, envelope: Envelope, event: Event) -> None:
        self._last = step
        self._out.extend(self.board.receive(self._ourselves(envelope, event), step.mono, step.at))
        ours, _ = self.board.call_of(event)
        if ours and envelope.call and ours not in self._theirs:
            self._match(ours, envelope.call)

    def _ourselves(self, envelope: Envelope, event: Event) -> Event:
        """The event by our names, with what was hidden as it is known."""
        changed: dict[str, str] = {}
        for name in ("leg", "call", "command", "replaces"):
            text = getattr(event, name, "")
            if text in self._ours:
                changed[name] = self._ours[text]
        if isinstance(event, AnnouncementEnded):
            leg, slash, rest = event.play.rpartition("/")
            changed["play"] = self._ours.get(leg, leg) + slash + rest
        elif isinstance(event, DigitPressed) and event.digit == HIDDEN:
            self.hidden.append((envelope.id, event.leg, HIDDEN))
            changed["digit"] = self._known.get(envelope.id, HIDDEN)
        elif isinstance(event, LegOffered) and HIDDEN in event.called:
            self.hidden.append((envelope.id, event.leg, event.called))
            changed["called"] = self._known.get(envelope.id, event.called)
        return msgspec.structs.replace(event, **changed) if changed else event

    def _surplus(self, step: Step) -> bool:
        """Whether the replay did something that the journal does not have."""
        while self._out:
            action = self._out.popleft()
            if not self._withheld(action):
                self._differ(step, None, action)
                return True
        return False

    def _expect(self, step: Step, action: Action) -> bool:
        """Whether the replay's next action is this one."""
        if not self._out:
            self._last = None
            self._out.extend(self.board.tick(step.mono, step.at))
        while self._out:
            ours = self._out.popleft()
            fields = self._unlike(action, ours)
            if not fields:
                return True
            if self._withheld(ours) and type(action) is not type(ours):
                continue
            self._differ(step, action, ours, fields if type(action) is type(ours) else [])
            return False
        self._differ(step, action, None)
        return False

    def _withheld(self, action: Action) -> bool:
        """The gateway does not close an alarm for want of people when it is stopping itself."""
        return (
            self.board.stopping and isinstance(action, CloseAlarm) and action.outcome == "exhausted"
        )

    def _unlike(self, theirs: Action, ours: Action) -> list[str]:
        """The names of the fields that differ; all of them when the kinds do."""
        if type(theirs) is not type(ours):
            return list(theirs.__struct_fields__)
        return [
            name
            for name in theirs.__struct_fields__
            if not self._alike(theirs, name, getattr(theirs, name), getattr(ours, name))
        ]

    def _alike(self, action: Action, name: str, theirs: object, ours: object) -> bool:
        if theirs == ours:
            return True
        if isinstance(action, Command) and name == "code":
            return True  # never written down
        if isinstance(action, SendDigits) and name == "digits":
            return isinstance(theirs, str) and theirs == HIDDEN * len(str(ours))
        if not isinstance(theirs, str) or not isinstance(ours, str):
            return False
        new = ours not in self._theirs and theirs not in self._ours
        # A leg's id begins with its endpoint.
        if new and _MINTED.fullmatch(ours) and ours.rpartition("#")[0] == theirs.rpartition("#")[0]:
            self._match(ours, theirs)
            return True
        return self.named(ours) == theirs

    def _match(self, ours: str, theirs: str) -> None:
        self._theirs[ours], self._ours[theirs] = theirs, ours

    def named(self, text: str) -> str:
        """A text of the replay with the journal's names for what was minted."""
        return _MINTED.sub(lambda found: self._theirs.get(found[0], found[0]), text)

    def _differ(
        self, step: Step, theirs: Action | None, ours: Action | None, fields: Iterable[str] = ()
    ) -> None:
        last = self._last.what if self._last else None
        hint = ""
        if self.hidden and self._last is not None:
            hint = (
                "the journal hides the digits that people pressed ([journal] keep_digits keeps "
                "them), and no guess fits: this may be no difference at all"
            )
        self.outcome.difference = Difference(
            where=step.where,
            at=step.at,
            event=msgspec.to_builtins(last.event) if isinstance(last, Envelope) else None,
            journal=msgspec.to_builtins(theirs) if theirs is not None else None,
            replay=self._shown(msgspec.to_builtins(ours)) if ours is not None else None,
            fields=list(fields),
            hint=hint,
        )

    def _shown(self, value: dict[str, Any]) -> dict[str, Any]:
        return {
            name: self.named(item) if isinstance(item, str) else item
            for name, item in value.items()
            if name != "code"
        }
