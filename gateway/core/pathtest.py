"""Path tests: a call of the gateway's own, to measure the way to an endpoint and back.

Such a call makes room for anybody. It is not begun on a line that is in use, and one that nobody
waits for is not begun in an emergency; it ends when its endpoint calls by itself, when an emergency
begins, and when the gateway stops. A transmitter is keyed only for a test that says so, only where
transmitting is enabled, and not while somebody is heard on its channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.core.actions import FinishPathTest, Outcome, Play, Record, StopRecord
from gateway.core.alerting import Alarm
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Duplex, Target
from gateway.core.events import PathTestKind, PathTestRequested, Priority
from gateway.core.plans import Silent
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

SETTLE_S: Final = 0.5
"""From the answer to the signal: clicks and jitter buffers come to rest."""
TAIL_S: Final = 1.5
"""From the end of the signal to the end of the recording: what comes back comes late."""
CLOSING_S: Final = 0.5
"""From there to hanging up: the recordings are finished while their streams are open."""
OVERTIME_S: Final = 5.0
"""So much longer than the signal may it take to play it."""
CARRIER: Final = "carrier"
"""The input of a radio that says whether somebody is heard."""
FAULT: Final = "fault"
"""Alarms of this kind are about the installation: they are no emergency."""


class PathTests:
    """The path tests of a switchboard."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._running: list[PathTest] = []

    def requested(self, event: PathTestRequested) -> None:
        """Begin a test, or say why not."""
        test = PathTest(self.board, event)
        why = test.refusal()
        if why:
            test.finish(*why)
            return
        self._running.append(test)
        test.begin()

    def over(self, test: PathTest) -> None:
        """The test needs no line any more."""
        if test in self._running:
            self._running.remove(test)

    def offered(self, leg: Leg) -> None:
        """Somebody calls: no test holds up his endpoint."""
        place = self.board.endpoints.get(leg.endpoint)
        if place is None or place.capacity is None:
            return
        for test in list(self._running):
            if test.uses(leg.endpoint):
                test.abort(f"{leg.endpoint} calls")

    def alarmed(self, alarm: Alarm) -> None:
        """People are being told of an alarm."""
        if alarm.kind != FAULT:
            self.stop(f"alarm {alarm.alarm} of {alarm.endpoint}")

    def stop(self, why: str) -> None:
        """End every test."""
        for test in list(self._running):
            test.abort(why)

    def emergency(self) -> str:
        """What must not be disturbed now; empty: nothing."""
        for alarm in self.board.alarms.values():
            if alarm.plan is not None and alarm.kind != FAULT:
                return f"people are being told of alarm {alarm.alarm} of {alarm.endpoint}"
        for call in self.board.calls.values():
            if call.priority >= Priority.EMERGENCY:
                return "there is an emergency call"
        return ""


class PathTest(Silent):
    """One test. The plan of its one leg, or two."""

    def __init__(self, board: Switchboard, event: PathTestRequested) -> None:
        self.board, self.event = board, event
        self.call: Call | None = None
        self._legs: list[Leg] = []
        """The one that is played to, then the one that listens for it."""
        self._waiting: set[Leg] = set()
        """Not yet answered."""
        self._deadline: Timer | None = None
        self._outcome: FinishPathTest | None = None

    @property
    def _over(self) -> bool:
        return self._outcome is not None

    def _targets(self) -> list[Target]:
        targets = [Target(self.event.endpoint, self.event.number)]
        if self.event.listen and self.event.listen != self.event.endpoint:
            targets.append(Target(self.event.listen))
        return targets

    def uses(self, endpoint: str) -> bool:
        """Whether it has a leg there that holds up others."""
        place = self.board.endpoints.get(endpoint)
        room = place is not None and place.capacity is not None and place.capacity > 1
        return not room and any(leg.endpoint == endpoint and leg.live for leg in self._legs)

    def refusal(self) -> tuple[Outcome, str] | None:
        """Why it cannot begin now."""
        if self.board.stopping:
            return Outcome.PUT_OFF, "the gateway stops"
        for target in self._targets():
            unfit = self.board.unfit(target)
            if unfit:
                return Outcome.REFUSED, unfit[1]
            place = self.board.endpoints[target.endpoint]
            if place.duplex is Duplex.HALF and target.endpoint == self.event.endpoint:
                if not self.event.transmit:
                    return Outcome.REFUSED, f"{place.id} would transmit, which was not asked for"
                if place.detail.get("transmit") == "disabled":
                    return Outcome.REFUSED, f"transmitting is disabled on {place.id}"
                if CARRIER in place.inputs and self._deaf:
                    return Outcome.REFUSED, (
                        f"{place.id} hears nothing while it transmits: name a radio that listens"
                    )
            if place.duplex is Duplex.LISTEN and self.event.kind is not PathTestKind.TONE:
                alone = target.endpoint == self.event.endpoint and not self.event.listen
                if alone or target.endpoint == self.event.listen:
                    return Outcome.REFUSED, f"{place.id} has no microphone: name one that listens"
        if self.event.scheduled and (why := self.board.testing.emergency()):
            return Outcome.PUT_OFF, why
        if why := self._busy():
            return Outcome.PUT_OFF, why
        for target in self._targets():
            if not self.board.seize(target.endpoint, Priority.ROUTINE):
                return Outcome.PUT_OFF, f"{target.endpoint} is in use"
        return None

    @property
    def _deaf(self) -> bool:
        """Whether nobody but what is tested would hear it."""
        return self.event.kind is PathTestKind.ACOUSTIC and len(self._targets()) == 1

    def _busy(self) -> str:
        """Where somebody is heard on the air, in words; empty: nowhere."""
        for target in self._targets():
            heard = self.board.inputs.get((target.endpoint, CARRIER))
            if heard is not None and heard.value:
                return f"the channel of {target.endpoint} is busy"
        return ""

    def begin(self) -> None:
        """Call what is to be tested."""
        event = self.event
        self.call = self.board.new_call(trace=event.trace, demanded_at=self.board.now)
        self.call.yields = True
        self.call.route = "test"
        self.call.why = f"{event.kind} test asked for by {event.by or 'the operator'}"
        self.board.note(self.call.why, call=self.call, route=self.call.route)
        for target in self._targets():
            leg = self.board.dial(
                self.call,
                target,
                self,
                display=f"{event.kind} test",
                # A tone is for somebody who listens: he answers when he is there.
                auto_answer=event.kind is not PathTestKind.TONE,
                clear=event.kind is PathTestKind.LOOP,
            )
            self._legs.append(leg)
            self._waiting.add(leg)
        self._deadline = self.board.after(event.ring_s, self._unanswered)

    def _unanswered(self) -> None:
        names = ", ".join(leg.endpoint for leg in self._legs if leg in self._waiting)
        detail = f"{names} did not answer within {self.event.ring_s:g} s"
        self._end(Outcome.UNANSWERED, detail, Cause.NO_ANSWER)

    def answered(self, leg: Leg) -> None:
        """Everybody is there: record, and play."""
        self._waiting.discard(leg)
        if not self._waiting and not self._over:
            self._after(SETTLE_S, self._play)

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.board.after(seconds, act)

    def _play(self) -> None:
        if why := self._busy():
            self._end(Outcome.PUT_OFF, why)
            return
        # All at once, so that the recordings begin at the same moment.
        for leg, file in zip(self._legs, self._files(), strict=True):
            self.board.act(Record(leg=leg.id, file=file))
        speaker, event = self._legs[0], self.event
        play = Play(
            leg=speaker.id,
            play=f"{speaker.id}/test",
            signal=event.signal,
            seconds=event.seconds,
            level_dbm0=event.level_dbm0,
        )
        self.board.bridging.say(speaker, play)
        late = f"the test signal was not over after {event.seconds + OVERTIME_S:g} s"
        self._after(event.seconds + OVERTIME_S, lambda: self._end(Outcome.FAILED, late))

    def _files(self) -> list[str]:
        names = [f"tests/{self.event.test}.wav", f"tests/{self.event.test}-heard.wav"]
        return names[: len(self._legs)]

    def play_ended(self, leg: Leg, play: str) -> None:
        """All was played: wait for what is under way."""
        if not self._over:
            self._after(TAIL_S, self._heard)

    def _heard(self) -> None:
        self._stop_recording()
        self.finish(Outcome.HEARD, "")
        self._after(CLOSING_S, lambda: self._hang_up(Cause.NORMAL, "the test is over"))

    def _stop_recording(self) -> None:
        for leg in self._legs:
            self.board.act(StopRecord(leg=leg.id))

    def _hang_up(self, cause: Cause, detail: str) -> None:
        for leg in self._legs:
            self.board.hangup(leg, cause, detail)

    def finish(self, outcome: Outcome, detail: str) -> None:
        """This is how it ended, the first time it is said; made known when its lines are free."""
        if self._over:
            return
        files = self._files() if outcome is Outcome.HEARD else []
        self._outcome = FinishPathTest(
            test=self.event.test,
            endpoint=self.event.endpoint,
            kind=self.event.kind,
            outcome=outcome,
            detail=detail,
            sent=files[0] if files else "",
            heard=files[1] if len(files) > 1 else "",
            trace=self.event.trace,
        )
        if not self._legs:
            self.board.act(self._outcome)

    def _end(self, outcome: Outcome, detail: str, cause: Cause = Cause.NORMAL) -> None:
        if self._deadline:
            self._deadline.cancel()
        self.finish(outcome, detail)
        self._hang_up(cause, detail)

    def abort(self, why: str) -> None:
        """Somebody needs the line, or quiet."""
        self._end(Outcome.PUT_OFF, why, Cause.PREEMPTED)

    # Events of the legs

    def ended(self, leg: Leg) -> None:
        """One is gone: without it there is no test."""
        if not self._over:
            why = f"{leg.endpoint}: {leg.detail or leg.cause or 'it hung up'}"
            busy = leg.cause in (Cause.BUSY, Cause.CONGESTION)
            absent = leg in self._waiting and leg.cause is Cause.NO_ANSWER
            outcome = Outcome.PUT_OFF if busy else Outcome.UNANSWERED if absent else Outcome.FAILED
            self._end(outcome, why)
        else:
            self._hang_up(Cause.NORMAL, "the test is over")
        if all(other is leg or other.id not in self.board.legs for other in self._legs):
            if self._deadline:
                self._deadline.cancel()
            self.board.testing.over(self)
            if self._outcome:
                # Whoever hears of it may test again at once.
                self.board.act(self._outcome)

    def displaced(self, leg: Leg) -> bool:
        """A call takes its line."""
        if self._deadline:
            self._deadline.cancel()
        self.finish(Outcome.PUT_OFF, f"a call needs {leg.endpoint}")
        return False

    def digit(self, leg: Leg, digit: str) -> bool:
        return True

    def talked(self, leg: Leg) -> bool:
        return True
