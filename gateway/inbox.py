"""Inbox: events on their way to the switchboard; an alarm is on disk before it gets there.

One queue for everything. What begins an alarm, an `AlarmRaised` or an input that a route takes,
waits until the journal has it, `ALARM_JOURNAL_S` at most, and holds back what comes later from the
same endpoint. A restart then knows it, also when nothing had been done about it yet. An alarm that
is held back is written down meanwhile. Whether an input begins one depends on what is before it.

Everything is bounded. Beyond `QUEUE` what only describes is dropped and new calls are refused;
what ends something gets in, inputs up to `INPUTS`, for without the end of one its next beginning
is none. Of more than `ALARMS` waiting alarms the least severe are dropped, and
beyond `HELD` held events nothing waits for the disk. All of it is counted, and lost alarms are an
alarm.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from gateway.core.alarms import OWN
from gateway.core.endpoints import Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    AudioImpaired,
    AudioRestored,
    DigitPressed,
    EndpointChanged,
    Event,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegFlashed,
    LegOffered,
    MediaFlowing,
    MediaLost,
    MessageReceived,
    Quality,
    Severity,
    ToneHeard,
)
from gateway.hosting import AdapterHost
from gateway.journal.alarms import InHand

QUEUE: Final = 50_000
"""Events that may wait; more only of what ends something or raises an alarm."""
INPUTS: Final = 2 * QUEUE
"""Events that may wait when one more is an input."""
ALARMS: Final = 20_000
"""Alarms that may wait."""
HELD: Final = 10_000
"""Events that may wait for the disk."""
ALARM_JOURNAL_S: Final = 0.25
"""How long an alarm waits for the disk: a dead disk must not silence it."""

_DESCRIBES: Final = (
    InputChanged, DigitPressed, FloorRequested, FloorReleased, LegFlashed, MediaFlowing,
    MediaLost, MessageReceived, ToneHeard, AnnouncementEnded, EndpointChanged, AudioImpaired,
    AudioRestored,
)  # fmt: skip

_LOST: Final = (Quality.STALE, Quality.BAD)
_OF_ALARMS: Final = frozenset((AlarmRaised, AlarmCleared, InputChanged))
Begins = AlarmRaised | InputChanged
"""What may begin an alarm."""


class _Gateway(Protocol):
    counters: Counter[str]

    def now(self) -> float: ...

    def mint_id(self) -> str: ...

    def begins(self, event: InputChanged) -> bool:
        """Whether the input would begin an alarm."""

    def taken_by(self, event: InputChanged) -> str:
        """The route that takes the input; empty: none."""

    def write_down(self, event: Begins, adapter: str) -> tuple[str, Future[None]]:
        """Journal an event; the id of its envelope, and what is done when it is safe."""

    def refuse_call(self, event: LegOffered, host: AdapterHost) -> None:
        """There is no room for this call."""

    def alarm_lost(self, event: Begins, envelope: str) -> None:
        """There is no room for this alarm, which is journalled under this envelope."""

    def wake(self) -> None:
        """There is something to take."""


@dataclass(eq=False)
class _Held:
    """An alarm that waits for the disk, and what came behind it from its endpoint."""

    alarm: Begins
    adapter: str
    envelope: str
    first: bool
    """It is behind no other."""
    behind: deque[tuple[Event, str] | _Held] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    """None: it waits for the disk no more."""


class Inbox:
    """Driven by `put`, and by `carry` and `carry_on` after a restart; emptied by `take`."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway
        self._queue: deque[tuple[Event, str, str]] = deque()
        """Event, adapter, and the envelope under which it has been journalled, if it has."""
        self._n_alarms: Counter[int] = Counter()
        """Alarms in the queue, by severity."""
        self._held: dict[str, _Held] = {}
        self._released: dict[str, _Held] = {}
        """Alarms that are in the queue, by envelope: what waits behind them is looked at when the
        switchboard knows of them."""
        self._known: list[_Held] = []
        """Alarms that the switchboard was given since."""
        self._n_held = 0
        self._carried: dict[tuple[str, str], Begins] = {}
        """Alarms of before a restart that wait for the adapters."""
        self._after: dict[tuple[str, str], tuple[Event, str]] = {}
        """What carried inputs have become since, by endpoint and input, and which carried alarms
        have gone."""
        self._in_hand: dict[tuple[str, str], InHand] = {}
        """What was acknowledged before a restart and of which nothing has been heard yet."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._known)

    def take(self) -> tuple[Event, str, str] | None:
        """The next event, its adapter, and its envelope if it is journalled already."""
        while self._known:
            self._follow(self._known.pop(0))
        if not self._queue:
            return None
        event, adapter, envelope = self._queue.popleft()
        if envelope:
            self._gone(envelope)
            if _bounded(event, envelope):
                self._n_alarms[_severity(event)] -= 1
        elif isinstance(event, InputChanged) and (alarm := self._alarm(event)) is not None:
            # What was before it has ended the last one.
            envelope, _ = self._gateway.write_down(alarm, adapter)
            return alarm, adapter, envelope
        return event, adapter, envelope

    def put(self, event: Event, host: AdapterHost | None) -> None:
        """Queue an event."""
        adapter = host.name if host else ""
        if (
            type(event) not in _OF_ALARMS
            and len(self._queue) < QUEUE
            and not self._held
            and not self._carried
        ):
            self._queue.append((event, adapter, ""))
            self._gateway.wake()
            return
        if self._in_hand:
            event = self._still_in_hand(event)
        if self._carried:
            known = self._known_again(event, adapter)
            if known is None:
                return
            event = known
        if self._wait_behind(event, adapter):
            return
        alarm = self._alarm(event)
        if alarm is not None:
            self._hold(alarm, adapter)
        elif len(self._queue) < QUEUE or not self._overflows(event, host):
            self._enqueue(event, adapter)

    def let_go(self) -> None:
        """Nobody waits for the disk any more: what is held is there to be taken."""
        for held in list(self._held.values()):
            self._release(held)
            self._follow(held, wait=False)

    def _enqueue(self, event: Event, adapter: str, envelope: str = "") -> None:
        if _bounded(event, envelope):
            severity = _severity(event)
            if self._n_alarms.total() >= ALARMS and not self._evict(severity):
                self._gateway.alarm_lost(event, envelope)  # type: ignore[arg-type]
                self._gone(envelope)
                return
            self._n_alarms[severity] += 1
        self._queue.append((event, adapter, envelope))
        self._gateway.wake()

    def _overflows(self, event: Event, host: AdapterHost | None) -> bool:
        if isinstance(event, LegOffered) and host is not None:
            self._gateway.refuse_call(event, host)
            return True
        if isinstance(event, InputChanged) and len(self._queue) < INPUTS:
            return False
        if isinstance(event, _DESCRIBES):
            self._gateway.counters["events_dropped"] += 1
            return True
        return False

    def _evict(self, severity: int) -> bool:
        """Make room for an alarm by dropping the oldest of the least severe; False: it is that."""
        least = min(each for each, n in self._n_alarms.items() if n)
        if least >= severity:
            return False
        for at, (event, _, envelope) in enumerate(self._queue):
            if _bounded(event, envelope) and _severity(event) == least:
                del self._queue[at]
                self._n_alarms[least] -= 1
                self._gateway.alarm_lost(event, envelope)  # type: ignore[arg-type]
                self._gone(envelope)
                return True
        return False

    # Alarms

    def _alarm(self, event: Event) -> Begins | None:
        """The event as it is journalled before it acts; None: it may act at once."""
        if isinstance(event, AlarmRaised):
            return event
        if isinstance(event, InputChanged) and self._gateway.begins(event):
            return msgspec.structs.replace(
                event,
                raised_at=self._gateway.now() if event.raised_at is None else event.raised_at,
                trace=event.trace or self._gateway.mint_id(),
            )
        return None

    def _wait_behind(self, event: Event, adapter: str, *, carried: bool = False) -> bool:
        """Let an event wait behind an alarm of its endpoint; False: there is none.

        carried: it is an alarm, whatever is before it.
        """
        held = self._held.get(_place(event)) if self._held else None
        if held is None:
            return False
        if self._n_held >= HELD:
            self._gateway.counters["alarms_not_awaited"] += 1
            self._release(held)
            self._follow(held, wait=False)
            return False
        if isinstance(event, AlarmRaised) or (carried and isinstance(event, InputChanged)):
            held.behind.append(self._write(event, adapter, first=False))
        else:
            held.behind.append((event, adapter))
        self._n_held += 1
        return True

    def _hold(self, alarm: Begins, adapter: str) -> None:
        """Let an alarm wait for the disk, behind which there is no other of its endpoint."""
        if self._n_held >= HELD:
            envelope, _ = self._gateway.write_down(alarm, adapter)
            self._gateway.counters["alarms_not_awaited"] += 1
            self._enqueue(alarm, adapter, envelope)
            return
        self._held[alarm.endpoint] = self._write(alarm, adapter, first=True)
        self._n_held += 1

    def _write(self, alarm: Begins, adapter: str, *, first: bool) -> _Held:
        envelope, written = self._gateway.write_down(alarm, adapter)
        held = _Held(alarm, adapter, envelope, first)
        loop = asyncio.get_running_loop()
        held.timer = loop.call_later(ALARM_JOURNAL_S, self._release, held)

        def safe(_: Future[None]) -> None:
            try:
                loop.call_soon_threadsafe(self._release, held)
            except RuntimeError:
                pass  # the loop has closed: nobody is left to act

        written.add_done_callback(safe)
        return held

    def _release(self, held: _Held) -> None:
        """Let an alarm act, once it is behind no other."""
        if held.timer is None:
            return  # the disk and the clock were both quick
        held.timer.cancel()
        held.timer = None
        if held.first:
            self._act(held)

    def _act(self, held: _Held) -> None:
        self._released[held.envelope] = held
        self._enqueue(held.alarm, held.adapter, held.envelope)

    def _gone(self, envelope: str) -> None:
        """An alarm has left the queue."""
        held = self._released.pop(envelope, None)
        if held is not None:
            self._known.append(held)

    def _follow(self, held: _Held, *, wait: bool = True) -> None:
        """Let what waits behind an alarm go on, as far as that is no alarm itself."""
        if self._held.get(held.alarm.endpoint) is not held:
            return
        del self._held[held.alarm.endpoint]
        self._released.pop(held.envelope, None)
        behind = held.behind
        self._n_held -= 1 + len(behind)
        while behind:
            each = behind.popleft()
            if not isinstance(each, _Held):
                event, adapter = each
                alarm = self._alarm(event)
                if alarm is None:
                    self._enqueue(event, adapter)
                    continue
                each = self._write(alarm, adapter, first=False)
            each.first = True
            if wait:
                each.behind, held.behind = behind, deque()
                self._held[each.alarm.endpoint] = each
                self._n_held += 1 + len(behind)
                if each.timer is None:
                    self._act(each)
                return
            if each.timer is not None:
                each.timer.cancel()
                each.timer = None
            self._enqueue(each.alarm, each.adapter, each.envelope)

    # After a restart

    def carry(self, alarms: Iterable[Begins]) -> None:
        """These alarms of the last run are not over."""
        self._carried = {(each.endpoint, each.alarm): each for each in alarms}

    def remember(self, alarms: Iterable[InHand]) -> None:
        """These were acknowledged before the restart."""
        self._in_hand = {(each.alarm.endpoint, each.alarm.alarm): each for each in alarms}

    def _still_in_hand(self, event: Event) -> Event:
        """What its source says of an alarm for the first time since: that it stands is not news."""
        if isinstance(event, AlarmCleared):
            self._in_hand.pop((event.endpoint, event.alarm), None)
        if not isinstance(event, AlarmRaised | InputChanged):
            return event
        if isinstance(event, InputChanged):
            for lost in _LOST:
                if event.quality is not lost:
                    self._in_hand.pop((event.endpoint, f"{event.input}/{lost}"), None)
        known = self._in_hand.pop((event.endpoint, event.alarm), None)
        if known is None or not event.standing:
            return event
        before = known.alarm
        if isinstance(event, AlarmRaised):
            if not isinstance(before, AlarmRaised) or event.severity > before.severity:
                return event
            if event.kind != before.kind:
                return event
        elif not isinstance(before, InputChanged) or not self._gateway.begins(event):
            return event
        elif self._gateway.taken_by(event) != self._gateway.taken_by(before):
            # It has become worse, or better, while nobody looked: a matter for another route.
            return event
        return msgspec.structs.replace(
            event, trace=before.trace, raised_at=before.raised_at, by=known.by
        )

    def carry_on(self, told: Callable[[Begins], None]) -> None:
        """Nobody else is waited for: what its source did not tell again begins now."""
        carried, self._carried = self._carried, {}
        after, self._after = self._after, {}
        for alarm in carried.values():
            told(alarm)
            # Also what no route takes any more: it is over when that is written down.
            alarm = self._alarm(alarm) or alarm
            if not self._wait_behind(alarm, adapter="", carried=True):
                self._hold(alarm, adapter="")
        for event, adapter in after.values():
            if not self._wait_behind(event, adapter):
                self._enqueue(event, adapter)

    def _known_again(self, event: Event, adapter: str) -> Event | None:
        """An alarm that its source tells again before we carry it on is still the same alarm.

        None: an input came back meanwhile, or an alarm went. It is carried on first.
        """
        if isinstance(event, AlarmRaised):
            known = self._carried.pop((event.endpoint, event.alarm), None)
            if known is None:
                return event
            self._after.pop((event.endpoint, event.alarm), None)
            if isinstance(known, AlarmRaised):
                event = _at_its_worst(event, known)
            return msgspec.structs.replace(event, trace=known.trace, raised_at=known.raised_at)
        if isinstance(event, AlarmCleared) and (event.endpoint, event.alarm) in self._carried:
            self._after[event.endpoint, event.alarm] = event, adapter
            return None
        if not isinstance(event, InputChanged):
            return event
        names = event.input, *(f"{event.input}/{lost}" for lost in _LOST)
        before = [
            known
            for name in names
            if isinstance(known := self._carried.get((event.endpoint, name)), InputChanged)
        ]
        if not before:
            return event
        self._after.pop((event.endpoint, event.input), None)
        if [event.alarm] != [each.alarm for each in before] or not self._gateway.begins(event):
            self._after[event.endpoint, event.input] = event, adapter
            return None
        known = self._carried.pop((event.endpoint, event.alarm))
        return msgspec.structs.replace(event, trace=known.trace, raised_at=known.raised_at)


def _at_its_worst(event: AlarmRaised, known: AlarmRaised) -> AlarmRaised:
    """As the switchboard has it of an alarm that was raised twice."""
    if event.severity > known.severity:
        return msgspec.structs.replace(event, kind=event.kind or known.kind)
    return msgspec.structs.replace(
        event, severity=known.severity, kind=known.kind, text=event.text or known.text
    )


def _bounded(event: Event, envelope: str) -> bool:
    """Whether an alarm may be dropped: those of the gateway itself say that others were."""
    return bool(envelope) and not _place(event).startswith(OWN)


def _severity(event: Event) -> int:
    # Of an input nobody knows how severe it is: a button may be somebody's life.
    return int(event.severity) if isinstance(event, AlarmRaised) else int(Severity.CRITICAL)


def _place(event: Event) -> str:
    """The endpoint an event speaks of; empty when it speaks of none."""
    place: object = getattr(event, "endpoint", "")
    return place.id if isinstance(place, Endpoint) else str(place)
