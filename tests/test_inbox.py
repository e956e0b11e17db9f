"""Inbox: every alarm reaches the switchboard once, in its endpoint's order, whatever is slow."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import Future
from typing import Any, TypeGuard

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import inbox
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    Event,
    InputChanged,
    LegRinging,
    Quality,
    Severity,
)
from gateway.inbox import ALARM_JOURNAL_S, Inbox


class _Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when it is told so."""

    def __init__(self) -> None:
        self.at = 100.0
        super().__init__()

    def time(self) -> float:
        return self.at


def _key(event: Any) -> tuple[str, str]:
    return event.endpoint, event.alarm


class _Gateway:
    """A disk that is as quick as it is told, and what a switchboard would know of inputs."""

    def __init__(self, loop: _Clock) -> None:
        self.loop = loop
        self.counters: Counter[str] = Counter()
        self.matched: set[tuple[str, str]] = set()
        self.written: dict[str, tuple[AlarmRaised | InputChanged, float]] = {}
        self.pending: list[tuple[str, Future[None]]] = []
        self.safe: set[str] = set()
        self.lost: list[AlarmRaised | InputChanged] = []
        self.taken: list[tuple[Any, str]] = []
        self.in_time = True
        """Whether nothing acted before it was safe, or had waited long enough."""
        self._n = 0

    def now(self) -> float:
        return self.loop.time()

    def mint_id(self) -> str:
        self._n += 1
        return f"id{self._n}"

    def begins(self, event: InputChanged) -> bool:
        return bool(self.taken_by(event)) and _key(event) not in self.matched

    def taken_by(self, event: InputChanged) -> str:
        return "route" if event.value > 0 or event.quality is not Quality.GOOD else ""

    def write_down(self, event: AlarmRaised | InputChanged, adapter: str) -> tuple[str, Any]:
        envelope, done = self.mint_id(), Future[None]()
        self.written[envelope] = event, self.loop.time()
        self.pending.append((envelope, done))
        return envelope, done

    def refuse_call(self, event: Any, host: Any) -> None:
        raise AssertionError("no calls here")

    def alarm_lost(self, event: AlarmRaised | InputChanged, envelope: str) -> None:
        self.lost.append(event)

    def wake(self) -> None:
        pass

    def sync(self, n: int) -> None:
        """The disk has done the oldest."""
        for envelope, done in self.pending[:n]:
            self.safe.add(envelope)
            done.set_result(None)
        del self.pending[:n]

    def receive(self, event: Event, envelope: str) -> None:
        """What the switchboard does with it."""
        self.taken.append((event, envelope))
        if isinstance(event, AlarmRaised):
            waited = self.loop.time() - self.written[envelope][1] >= ALARM_JOURNAL_S
            self.in_time &= waited or envelope in self.safe
        if isinstance(event, InputChanged):
            if self.begins(event):
                assert envelope, "a restart would not know of the alarm of an input"
                assert event.raised_at is not None
                assert event.trace
            if event.quality is Quality.GOOD:
                self.matched.discard((event.endpoint, f"{event.input}/stale"))
            (self.matched.add if self.taken_by(event) else self.matched.discard)(_key(event))


PLACES = ("far/a", "far/b")
NAMES = ("x", "y", "z")
ALARMS_ = st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES))
INPUTS_ = st.tuples(st.sampled_from(PLACES), st.sampled_from(("in", "door")))
STEPS = st.one_of(
    st.tuples(st.just("raise"), ALARMS_),
    st.tuples(st.just("raise"), ALARMS_),
    st.tuples(st.just("clear"), ALARMS_),
    st.tuples(st.just("on"), INPUTS_),
    st.tuples(st.just("off"), INPUTS_),
    st.tuples(st.just("stale"), INPUTS_),
    st.tuples(st.just("leg"), st.none()),
    st.tuples(st.just("sync"), st.integers(1, 5)),
    st.tuples(st.just("wait"), st.sampled_from((0.1, 0.3))),
    st.tuples(st.just("take"), st.integers(1, 5)),
    st.tuples(st.just("carry on"), st.none()),
)
CARRIED = st.lists(
    st.tuples(st.sampled_from(("raise", "on", "stale")), st.sampled_from(PLACES),
              st.sampled_from(("x", "y", "door"))),
    unique_by=lambda each: (each[0] == "stale", each[1], each[2]), max_size=6,
)  # fmt: skip


class _Run:
    def __init__(self, loop: _Clock) -> None:
        self.gateway = _Gateway(loop)
        self.inbox = Inbox(self.gateway)
        self.loop = loop
        self.put: list[Any] = []
        self.swallowed: set[int] = set()
        """Numbers of what may be left out, or come later: it is of an input or an alarm of before
        the restart, which is told first."""
        self.carried: dict[tuple[str, str], AlarmRaised | InputChanged] = {}
        self.waiting: set[tuple[str, str]] = set()
        """Of those, what has not been carried on."""
        self.others = 0
        self.n_legs = 0

    def event(self, what: str, place: str, name: str) -> Any:
        """Its number is the text of an alarm, and the size of an input's value."""
        n = len(self.put) + len(self.carried) + 1
        if what == "raise":
            severity = Severity(n % len(Severity) + min(Severity))
            return AlarmRaised(
                endpoint=place, alarm=name, text=str(n), severity=severity, trace=f"t{n}",
                raised_at=self.loop.time(),
            )  # fmt: skip
        if what == "clear":
            return AlarmCleared(endpoint=place, alarm=name)
        quality = Quality.STALE if what == "stale" else Quality.GOOD
        return InputChanged(
            endpoint=place, input=name, value=float(-n if what == "off" else n), quality=quality
        )

    def carry(self, alarms: list[tuple[str, str, str]]) -> None:
        for what, place, name in alarms:
            event = self.event(what, place, name)
            n = len(self.carried)
            event = msgspec.structs.replace(event, trace=f"carried{n}", raised_at=float(n))
            self.carried[_key(event)] = event
        self.waiting = set(self.carried)
        self.inbox.carry(self.carried.values())

    async def step(self, what: str, value: Any) -> None:
        match what:
            case "sync":
                self.gateway.sync(value)
            case "wait":
                self.loop.at += value
            case "take":
                self.take(value)
            case "carry on":
                self.carry_on()
            case "leg":
                self.n_legs += 1
                self.inbox.put(LegRinging(leg=f"{self.n_legs}"), None)
            case _:
                self.tell(what, *value)
        for _ in range(3):
            await asyncio.sleep(0)

    def carry_on(self) -> None:
        self.waiting.clear()
        self.inbox.carry_on(lambda _: None)

    def tell(self, what: str, place: str, name: str) -> None:
        event = self.event(what, place, name)
        if isinstance(event, InputChanged):
            of_before = any((place, each) in self.waiting for each in (name, f"{name}/stale"))
        else:
            of_before = isinstance(event, AlarmCleared) and _key(event) in self.waiting
        if of_before:
            self.swallowed.add(len(self.put))
        self.put.append(event)
        self.inbox.put(event, None)
        if isinstance(event, AlarmRaised):
            texts = [each.text for each, _ in self.gateway.written.values() if _is_alarm(each)]
            assert texts.count(event.text) == 1, "a crash would lose it"

    def take(self, n: int = 1_000_000) -> None:
        for _ in range(n):
            taken = self.inbox.take()
            if taken is None:
                return
            self.gateway.receive(taken[0], taken[2])

    async def settle(self) -> None:
        for _ in range(500):
            await self.step("sync", 1000)
            await self.step("wait", 1.0)
            await self.step("take", 1000)
            if not self.inbox._held and not len(self.inbox):
                return
        raise AssertionError("something waits for ever")

    def judge(self) -> None:
        gateway = self.gateway
        alarms = [each for each, _ in gateway.taken if _is_alarm(each)] + [
            each for each in gateway.lost if _is_alarm(each)
        ]
        traces = Counter(each.trace for each, _ in gateway.taken if getattr(each, "trace", ""))
        traces.update(each.trace for each in gateway.lost)
        for event in self.carried.values():
            assert traces[event.trace] == 1, f"{event} was told {traces[event.trace]} times"
        texts = Counter(each.text for each in alarms)
        for event in self.put:
            if isinstance(event, AlarmRaised):
                assert texts[event.text] == 1, f"{event} was told {texts[event.text]} times"
        for place in PLACES:
            self._judge_order(place)
        assert self.gateway.counters["alarms_not_awaited"] or gateway.in_time
        left = self.inbox
        assert not any((left._held, left._released, left._known, left._carried, left._after))
        assert left._n_held == left._n_alarms.total() == 0

    def _judge_order(self, place: str) -> None:
        """What is put is taken in the same order, nothing of it twice, and the last word last."""

        def name(event: Any) -> Any:
            if isinstance(event, AlarmRaised):
                return event.text
            if isinstance(event, InputChanged):
                return event.value
            return "cleared", event.alarm

        dropped = self.gateway.counters["events_dropped"] or self.gateway.lost
        of_before = {name(each) for each in self.carried.values()}
        taken = [
            name(each)
            for each, _ in self.gateway.taken
            if getattr(each, "endpoint", "") == place and name(each) not in of_before
        ]
        put = [name(each) for each in self.put if each.endpoint == place]
        late = [
            name(each)
            for n, each in enumerate(self.put)
            if n in self.swallowed and each.endpoint == place
        ]
        firm = [each for each in put if each not in late]
        found = [each for each in taken if each not in late]
        if not dropped:
            assert found == firm
        else:
            rest = iter(firm)
            assert all(each in rest for each in found), "the order was another"
        last: dict[str, InputChanged] = {}
        for event in self.put:
            if isinstance(event, InputChanged) and event.endpoint == place:
                last[event.input] = event
        if not dropped:
            for event in last.values():
                assert taken.count(name(event)) == 1
        assert all(taken.count(each) <= 1 for each in late if not isinstance(each, tuple))


def _is_alarm(event: object) -> TypeGuard[AlarmRaised]:
    return isinstance(event, AlarmRaised)


def _with_clock(coroutine: Any) -> None:
    loop = _Clock()
    try:
        loop.run_until_complete(coroutine(loop))
    finally:
        loop.close()


LIMITS: tuple[dict[str, int], ...] = (
    {}, {"HELD": 3}, {"HELD": 1}, {"QUEUE": 3, "INPUTS": 6}, {"ALARMS": 2},
    {"HELD": 4, "ALARMS": 3, "QUEUE": 2, "INPUTS": 4},
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(CARRIED, st.lists(STEPS, max_size=40), st.sampled_from(LIMITS))
@example(
    # A panel tells two of its alarms again just before the rest are carried on.
    [("raise", "far/a", name) for name in NAMES],
    [("raise", ("far/a", "x")), ("raise", ("far/a", "y")), ("carry on", None)],
    {},
)
@example(
    # A button that is let go and pressed again before anybody looks has been pressed twice.
    [],
    [("on", ("far/a", "in")), ("sync", 1), ("take", 5), ("off", ("far/a", "in")),
     ("on", ("far/a", "in"))],
    {},
)  # fmt: skip
@example(
    # Of a lost source with a door that was open: the door is what is known of it last.
    [("on", "far/a", "door"), ("stale", "far/a", "door")],
    [("on", ("far/a", "door"))],
    {},
)
def test_every_alarm_is_told_once(
    carried: list[tuple[str, str, str]], steps: list[Any], limits: dict[str, int]
) -> None:
    async def play(loop: _Clock) -> None:
        run = _Run(loop)
        run.carry(carried)
        for what, value in steps:
            await run.step(what, value)
        run.carry_on()
        await run.settle()
        run.judge()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(inbox, name, value)
        _with_clock(play)


def test_a_dead_disk_delays_all_alarms_of_a_panel_together() -> None:
    async def play(loop: _Clock) -> None:
        run = _Run(loop)
        for n in range(50):
            run.tell("raise", "far/a", str(n))
        assert run.inbox.take() is None
        await run.step("wait", ALARM_JOURNAL_S + 0.01)
        run.take()
        assert len(run.gateway.taken) == 50

    _with_clock(play)


def test_what_waits_for_the_disk_at_the_end_is_not_left() -> None:
    async def play(loop: _Clock) -> None:
        run = _Run(loop)
        for n in range(5):
            run.tell("raise", "far/a", str(n))
            run.tell("on", "far/a", f"in{n}")
        run.inbox.let_go()
        run.take()
        assert len(run.gateway.taken) == 10
        assert len(run.gateway.written) == 10

    _with_clock(play)


def test_an_alarm_that_is_told_again_with_less_stays_what_it_was() -> None:
    fire = AlarmRaised(
        endpoint="far/a", alarm="x", kind="fire", severity=Severity.CRITICAL, trace="t",
        raised_at=1.0,
    )  # fmt: skip

    async def play(loop: _Clock) -> None:
        run = _Run(loop)
        run.inbox.carry([fire])
        again = AlarmRaised(
            endpoint="far/a", alarm="x", severity=Severity.WARNING, text="again", trace="other",
            raised_at=100.0,
        )  # fmt: skip
        run.inbox.put(again, None)
        await run.step("sync", 1)
        run.take()
        assert [each for each, _ in run.gateway.taken] == [
            msgspec.structs.replace(fire, text="again")
        ]

    _with_clock(play)


def test_the_end_of_an_input_gets_in_where_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its next beginning would be none."""
    monkeypatch.setattr(inbox, "QUEUE", 10)
    monkeypatch.setattr(inbox, "INPUTS", 20)

    async def play(loop: _Clock) -> None:
        run = _Run(loop)
        run.tell("on", "far/a", "in")
        await run.step("sync", 1)
        run.take()
        for _ in range(15):
            await run.step("leg", None)
        for _ in range(2):
            run.tell("off", "far/a", "in")
            run.tell("on", "far/a", "in")
        run.take()
        begun = [each for each, envelope in run.gateway.taken if envelope]
        assert len(begun) == 3
        for _ in range(100):
            run.tell("off", "far/a", "in")
        assert len(run.inbox) == 20

    _with_clock(play)
