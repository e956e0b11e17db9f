"""The FXO port: an exchange line, seen from the telephone's side.

::

    IDLE --ring--> VALIDATING --long enough--> RINGING --caller ID or its time over--> ALERTING
    ALERTING --answer()--> TALKING            ALERTING --no ring for long--> IDLE
    ALERTING --release()--> DECLINED --no ring for long--> IDLE
    IDLE --seize()--> SEIZING --dial tone, or its time over--> DIALLING --> PROGRESS
    PROGRESS --polarity | voice | timer | immediate--> TALKING
    any call --battery drop | polarity | tone | silence | longest call | release()--> GUARD --> IDLE
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum, auto

from gateway.protocols.analog.callerid import CallerId
from gateway.protocols.analog.signals import (
    Alert,
    Answered,
    Dial,
    Hangup,
    Idle,
    LineFault,
    LineRestored,
    ListenCallerId,
    Output,
    Progress,
    RingDetected,
    Rule,
    SendFlash,
    SetHook,
    Signal,
    ToneName,
)
from gateway.protocols.analog.timers import Timers


class FxoState(StrEnum):
    """Where the port is."""

    IDLE = auto()
    VALIDATING = auto()
    """The first burst of ringing is not yet long enough to be believed."""
    RINGING = auto()
    """It rings; caller ID may still come."""
    ALERTING = auto()
    DECLINED = auto()
    """It rings on although nobody wants the call; until it stops."""
    SEIZING = auto()
    """Off hook, waiting for dial tone."""
    DIALLING = auto()
    PROGRESS = auto()
    TALKING = auto()
    GUARD = auto()
    FAULT = auto()


class CallerIdFrom(StrEnum):
    """When the exchange sends caller ID."""

    NONE = auto()
    AFTER_FIRST_RING = auto()
    BEFORE_RING = auto()
    """After a polarity reversal."""


@dataclass(frozen=True, slots=True)
class FxoConfig:
    """What can be set of an FXO port; times in seconds."""

    ring_min: float = 0.3
    """A burst of ringing shorter than this is noise."""
    ring_timeout: float = 10.0
    """No ring for so long: the caller gave up. Longer than the pause of the ringing."""
    caller_id: CallerIdFrom = CallerIdFrom.AFTER_FIRST_RING
    caller_id_window: float = 3.5
    """From the end of the first ring, or from the reversal."""
    wait_dial_tone: float = 3.0
    """0: wait ``dial_delay`` instead."""
    dial_without_tone: bool = True
    """Dial although no dial tone came; else the call ends (``no_dial_tone``)."""
    dial_delay: float = 2.0
    pulse: bool = False
    answer: tuple[Rule, ...] = (Rule.POLARITY, Rule.VOICE, Rule.TIMER)
    """Which rules answer a call that we made; the first to come counts."""
    answer_timer: float = 30.0
    """For ``timer``: from the end of dialling."""
    no_answer: float = 120.0
    cpc_min: float = 0.25
    """A shorter battery drop is not a release."""
    hangup_polarity: bool = True
    hangup_tones: tuple[ToneName, ...] = (ToneName.BUSY, ToneName.CONGESTION)
    silence: float = 0.0
    """Nothing heard for so long ends the call; 0: never."""
    max_call: float = 0.0
    """Longest call; 0: any."""
    guard: float = 1.5
    """On hook between calls; an exchange wants 0.6 at least."""
    glare: float = 0.5
    """Ringing so soon after we seized the line is a call that came in meanwhile."""
    fault_after: float = 1.0
    """No battery for so long while idle is a fault."""


_OUTGOING = frozenset({FxoState.SEIZING, FxoState.DIALLING, FxoState.PROGRESS})
_OFF_HOOK = _OUTGOING | {FxoState.TALKING}
_INCOMING = frozenset({FxoState.VALIDATING, FxoState.RINGING, FxoState.ALERTING})
_RUNG = _INCOMING | {FxoState.DECLINED}


class FxoPort:
    """One FXO port.

    Driven by ``signal``, ``tone``, ``heard`` and ``caller_id`` (line), ``seize``, ``answer``,
    ``dial``, ``flash``, ``release`` (user) and ``tick`` (time); then drain ``next_output``. A
    signal that means nothing in the present state is counted in ``ignored``.
    """

    def __init__(self, config: FxoConfig | None = None) -> None:
        self.config = config or FxoConfig()
        self.state = FxoState.IDLE
        self.ignored: Counter[str] = Counter()
        self._out: deque[Output] = deque()
        self._timers = Timers()
        self._number = ""
        self._caller: CallerId | None = None
        self._listening = False
        self._ringing = False
        self._seized_at = 0.0
        self._ringback_heard = False
        self._offered = False
        self._battery = True
        self._may_be_answer = False
        self._connects = False
        """To be taken when the guard time is over."""

    # -- outputs -------------------------------------------------------------------------------

    def next_output(self) -> Output | None:
        """The next command or indication, oldest first."""
        return self._out.popleft() if self._out else None

    def next_timeout(self) -> float | None:
        """When ``tick`` must be called next."""
        return self._timers.next()

    @property
    def off_hook(self) -> bool:
        """The line is seized."""
        return self.state in _OFF_HOOK

    # -- line ----------------------------------------------------------------------------------

    def signal(self, signal: Signal, now: float) -> None:
        """The line did something."""
        match signal:
            case Signal.RING_STARTED:
                self._ring_started(now)
            case Signal.RING_ENDED:
                self._ring_ended(now)
            case Signal.BATTERY_LOST:
                self._battery = False
                if self.off_hook:
                    self._timers.start("cpc", now + self.config.cpc_min)
                elif self.state is not FxoState.FAULT:
                    self._timers.start("fault", now + self.config.fault_after)
            case Signal.BATTERY_RESTORED:
                self._battery = True
                self._timers.stop("cpc", "fault")
                if self.state is FxoState.FAULT:
                    self._restored()
            case Signal.POLARITY_REVERSED:
                self._polarity(now)
            case Signal.DIAL_DONE if self.state is FxoState.DIALLING:
                self._dialled(now)
            case Signal.FAULT:
                self._fault(now, "line alarm")
            case Signal.FAULT_CLEARED if self.state is FxoState.FAULT:
                self._restored()
            case _:
                self.ignored[f"{signal} in {self.state}"] += 1

    def tone(self, tone: ToneName, now: float, detail: str = "") -> None:
        """A tone was recognised on the line, busy and congestion by their cadence."""
        match self.state:
            case FxoState.SEIZING if tone is ToneName.DIAL:
                self._dial(now)
            case FxoState.PROGRESS if tone is ToneName.RINGBACK:
                if not self._ringback_heard:
                    self._ringback_heard = True
                    self._out.append(Progress())
            case FxoState.PROGRESS if (
                tone is ToneName.VOICE and self._ringback_heard and Rule.VOICE in self.config.answer
            ):
                self._answered(Rule.VOICE, now)
            case FxoState.SEIZING | FxoState.PROGRESS | FxoState.TALKING if (
                tone in self.config.hangup_tones
            ):
                self._hang_up(Rule.TONE, now, detail or str(tone))
            case _:
                self.ignored[f"{tone} in {self.state}"] += 1
        if tone is ToneName.VOICE:
            self.heard(now)

    def heard(self, now: float) -> None:
        """Something louder than silence was heard."""
        if self.state is FxoState.TALKING and self.config.silence > 0:
            self._timers.start("silence", now + self.config.silence)

    def caller_id(self, caller: CallerId | None, now: float) -> None:
        """Caller ID came, or (None) was garbled."""
        if not self._listening:
            self.ignored[f"caller id in {self.state}"] += 1
            return
        self._listen(False)
        self._timers.stop("caller id")
        self._caller = caller
        if self.state is FxoState.RINGING:
            self._alert()

    # -- user ----------------------------------------------------------------------------------

    def seize(self, number: str, now: float) -> bool:
        """Call ``number``; False when the line is in use, rings, or is out of order."""
        if self.state is not FxoState.IDLE or not self._battery or self._ringing:
            return False
        self._timers.clear()
        self._listen(False)
        self._number, self._seized_at = number, now
        self._ringback_heard, self._may_be_answer = False, True
        self.state = FxoState.SEIZING
        self._out.append(SetHook(True))
        wait = self.config.wait_dial_tone or self.config.dial_delay
        self._timers.start("dial", now + wait)
        self._call_limits(now)
        return True

    def answer(self, now: float) -> bool:
        """Answer the call from the exchange; False when there is none (any more)."""
        if self.state not in (FxoState.RINGING, FxoState.ALERTING):
            return False
        self._timers.clear()
        self._listen(False)
        self._may_be_answer, self._offered = False, False
        self._out.append(SetHook(True))
        self._call_limits(now)
        self._talk(now)
        return True

    def connect(self, now: float, *, ringing: bool = False) -> bool:
        """Take the line and dial nothing; False when it is in use, has no battery, or rings.

        ringing: take it also then. Just after a call it is taken when the exchange has had its
        guard time.
        """
        if self.state is FxoState.GUARD:
            self._connects = True
            return True
        if self.state is not FxoState.IDLE and not (ringing and self.state in _RUNG):
            return False
        if not self._battery:
            return False
        self._connect(now)
        return True

    def _connect(self, now: float) -> None:
        self._timers.clear()
        self._listen(False)
        self._connects = self._may_be_answer = self._offered = self._ringing = False
        self._out.append(SetHook(True))
        self._call_limits(now)
        self._talk(now)

    def dial(self, digits: str, now: float) -> bool:
        """Send digits during a call; False when there is none."""
        if self.state is not FxoState.TALKING or not digits:
            return False
        self._out.append(Dial(digits, self.config.pulse))
        return True

    def flash(self, now: float) -> bool:
        """Flash the exchange; False when there is no call."""
        if self.state is not FxoState.TALKING:
            return False
        self._out.append(SendFlash())
        return True

    def release(self, now: float) -> None:
        """Give the line back, or ignore the ringing. Without a call nothing happens."""
        self._connects = False
        if self.off_hook:
            self._hang_up(Rule.LOCAL, now)
        elif self.state in _INCOMING:
            self._end_ringing(Rule.LOCAL, now)

    def stop(self, now: float) -> None:
        """Safe state: on hook. The call, if any, ends."""
        self.release(now)
        self._listen(False)
        self._timers.clear()
        if self.state is not FxoState.FAULT:
            self.state = FxoState.IDLE

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time went on."""
        while due := self._timers.take(now):
            name, at = due
            match name:
                case "ring valid" if self._ringing and self.state is FxoState.VALIDATING:
                    self._ring_valid(at)
                case "ring over":
                    self._end_ringing(Rule.RING_STOPPED, at)
                case "caller id":
                    self._listen(False)
                    if self.state is FxoState.RINGING:
                        self._alert()
                case "dial":
                    self._dial_tone_missing(at)
                case "answer":
                    self._answered(Rule.TIMER, at)
                case "no answer":
                    self._hang_up(Rule.NO_ANSWER, at)
                case "cpc":
                    self._hang_up(Rule.CPC, at)
                case "silence":
                    self._hang_up(Rule.SILENCE, at)
                case "max call":
                    self._hang_up(Rule.MAX_CALL, at)
                case "guard" if self._connects and self._battery:
                    self._connect(at)
                case "guard":
                    self._become_idle(at)
                case "fault":
                    self._fault(at, "no battery")

    # -- incoming ------------------------------------------------------------------------------

    def _ring_started(self, now: float) -> None:
        self._ringing = True
        if self._connects:
            self._connect(now)
            return
        match self.state:
            case FxoState.IDLE | FxoState.GUARD:
                # the exchange may ring as soon as it likes; our guard is only for seizing
                self._timers.stop("guard", "ring over")
                self.state = FxoState.VALIDATING
                self._offered = False
                self._timers.start("ring valid", now + self.config.ring_min)
                self._timers.start("ring over", now + self.config.ring_timeout)
            case FxoState.RINGING | FxoState.ALERTING | FxoState.DECLINED:
                self._timers.start("ring over", now + self.config.ring_timeout)
                if self.state is FxoState.RINGING and self._listening:
                    # the pause is over and so is the chance for caller ID
                    self._timers.stop("caller id")
                    self._listen(False)
                    self._alert()
            case FxoState.SEIZING if now - self._seized_at <= self.config.glare:
                self._hang_up(Rule.GLARE, now)
            case _:
                self.ignored[f"ring in {self.state}"] += 1

    def _ring_ended(self, now: float) -> None:
        self._ringing = False
        match self.state:
            case FxoState.VALIDATING:
                self.ignored["short ring"] += 1
                self._timers.stop("ring valid", "ring over")
                self.state = FxoState.IDLE
                self._caller = None
            case FxoState.RINGING:
                self._timers.start("ring over", now + self.config.ring_timeout)
                if self.config.caller_id is CallerIdFrom.AFTER_FIRST_RING:
                    self._listen(True)
                    self._timers.start("caller id", now + self.config.caller_id_window)
            case FxoState.ALERTING | FxoState.DECLINED:
                self._timers.start("ring over", now + self.config.ring_timeout)
            case _:
                self.ignored[f"ring ended in {self.state}"] += 1

    def _ring_valid(self, now: float) -> None:
        self.state = FxoState.RINGING
        self._out.append(RingDetected())
        if self.config.caller_id is not CallerIdFrom.AFTER_FIRST_RING:
            self._listen(False)
            self._timers.stop("caller id")
            self._alert()

    def _alert(self) -> None:
        self.state = FxoState.ALERTING
        self._offered = True
        self._out.append(Alert(self._caller))

    def _end_ringing(self, rule: Rule, now: float) -> None:
        self._timers.clear()
        self._listen(False)
        if self._offered:
            self._out.append(Hangup(rule))
        self._offered, self._caller = False, None
        if rule is Rule.LOCAL:
            # The exchange rings on until its caller gives up: the same call, not to be offered
            # again at each burst.
            self.state = FxoState.DECLINED
            self._timers.start("ring over", now + self.config.ring_timeout)
        else:
            self._ringing = False
            self._become_idle(now)

    # -- outgoing ------------------------------------------------------------------------------

    def _dial_tone_missing(self, now: float) -> None:
        if self.config.wait_dial_tone > 0 and not self.config.dial_without_tone:
            self._hang_up(Rule.NO_DIAL_TONE, now)
        else:
            self._dial(now)

    def _dial(self, now: float) -> None:
        self._timers.stop("dial")
        if not self._number:
            self._dialled(now)
            return
        self.state = FxoState.DIALLING
        self._out.append(Dial(self._number, self.config.pulse))

    def _dialled(self, now: float) -> None:
        self.state = FxoState.PROGRESS
        if Rule.IMMEDIATE in self.config.answer:
            self._answered(Rule.IMMEDIATE, now)
            return
        if Rule.TIMER in self.config.answer:
            self._timers.start("answer", now + self.config.answer_timer)
        self._timers.start("no answer", now + self.config.no_answer)

    def _answered(self, rule: Rule, now: float) -> None:
        if self.state is not FxoState.PROGRESS:
            return
        self._out.append(Answered(rule))
        self._talk(now)

    def _talk(self, now: float) -> None:
        self._timers.stop("answer", "no answer", "dial")
        self.state = FxoState.TALKING
        if self.config.silence > 0:
            self._timers.start("silence", now + self.config.silence)

    # -- both ----------------------------------------------------------------------------------

    def _call_limits(self, now: float) -> None:
        if self.config.max_call > 0:
            self._timers.start("max call", now + self.config.max_call)

    def _polarity(self, now: float) -> None:
        match self.state:
            case FxoState.IDLE if self.config.caller_id is CallerIdFrom.BEFORE_RING:
                self._listen(True)
                self._timers.start("caller id", now + self.config.caller_id_window)
            case FxoState.PROGRESS if Rule.POLARITY in self.config.answer:
                self._may_be_answer = False
                self._answered(Rule.POLARITY, now)
            case FxoState.TALKING if self._may_be_answer:
                # A timer or a voice was quicker; this is the answer, the next is the release.
                self._may_be_answer = False
                self.ignored["late answer"] += 1
            case FxoState.TALKING if self.config.hangup_polarity:
                self._hang_up(Rule.POLARITY, now)
            case _:
                self.ignored[f"polarity in {self.state}"] += 1

    def _hang_up(self, rule: Rule, now: float, detail: str = "") -> None:
        if not self.off_hook:
            return
        self._timers.clear()
        self._out.append(SetHook(False))
        self._out.append(Hangup(rule, detail))
        self.state = FxoState.GUARD
        self._ringing, self._offered, self._caller = False, False, None
        self._timers.start("guard", now + self.config.guard)

    def _become_idle(self, now: float) -> None:
        self.state = FxoState.IDLE
        self._out.append(Idle())
        if not self._battery:
            self._timers.start("fault", now + self.config.fault_after)

    def _fault(self, now: float, reason: str) -> None:
        if self.state is FxoState.FAULT:
            return
        if self.off_hook:
            self._hang_up(Rule.FAULT, now, reason)
        elif self.state in _INCOMING:
            self._end_ringing(Rule.FAULT, now)
        self._timers.clear()
        self._listen(False)
        self.state = FxoState.FAULT
        self._out.append(LineFault(reason))

    def _restored(self) -> None:
        self.state = FxoState.IDLE
        self._battery = True
        self._timers.clear()
        self._out.append(LineRestored())

    def _listen(self, on: bool) -> None:
        if on != self._listening:
            self._listening = on
            self._out.append(ListenCallerId(on))
