"""The FXS port: what a telephone is given.

::

    IDLE --lifted--> DIAL_TONE --digit--> COLLECTING --number--> CALLING --answered--> TALKING
    IDLE --ring()--> RINGING --lifted--> TALKING
    any call --release()--> CLEARING (battery drop, or polarity back) --> BUSY_TONE --> HOWLER
        --> LOCKED_OUT
    anything --hung up--> GUARD --> IDLE
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum, auto

from gateway.protocols.analog.cadence import RING_CADENCES
from gateway.protocols.analog.callerid import CallerId
from gateway.protocols.analog.digits import DialPlan, DigitCollector
from gateway.protocols.analog.signals import (
    Answered,
    DigitPressed,
    Digits,
    DropBattery,
    Flash,
    Hangup,
    Idle,
    LineFault,
    LineRestored,
    LockedOut,
    OffHook,
    Output,
    PlayTone,
    Ring,
    Rule,
    SendCallerId,
    SetHook,
    SetPolarity,
    Signal,
    StopRing,
    StopTone,
    ToneName,
)
from gateway.protocols.analog.timers import Timers


class FxsState(StrEnum):
    """Where the port is."""

    IDLE = auto()
    PRE_RING = auto()
    """Polarity is reversed and caller ID goes out before the first ring."""
    RINGING = auto()
    DIAL_TONE = auto()
    COLLECTING = auto()
    CALLING = auto()
    TALKING = auto()
    CLEARING = auto()
    """The far end has released; the battery is dropped or the polarity back to normal."""
    BUSY_TONE = auto()
    HOWLER = auto()
    LOCKED_OUT = auto()
    GUARD = auto()
    """Just hung up: no ringing yet."""
    FAULT = auto()
    LENT = auto()
    """Only its audio is used: nobody is rung, and the hook starts and ends nothing."""


class CallerIdWhen(StrEnum):
    """When caller ID goes to the telephone."""

    NEVER = auto()
    AFTER_FIRST_RING = auto()
    BEFORE_RING = auto()


@dataclass(frozen=True, slots=True)
class FxsConfig:
    """What can be set of an FXS port; times in seconds."""

    plan: DialPlan = field(default_factory=DialPlan)
    hotline: str = ""
    """Number dialled by lifting the handset."""
    hotline_delay: float = 0.0
    """0: at once, without dial tone; else a digit within this time dials by hand."""
    first_digit: float = 15.0
    inter_digit: float = 4.0
    full_match: float = 2.0
    terminator: str = "#"
    cadence_ms: tuple[int, ...] = RING_CADENCES["us"]
    caller_id: CallerIdWhen = CallerIdWhen.AFTER_FIRST_RING
    caller_id_pause: float = 0.5
    """Silence between ring and caller ID (GR-30-CORE: at least 0.3, here as most exchanges)."""
    flash: bool = True
    """Report the recall key; else it is ignored."""
    answer_reversal: bool = False
    """Reverse polarity while the far end is answered, for payphones and metering."""
    battery_drop: bool = True
    """Drop the battery when the far end releases."""
    battery_drop_time: float = 0.9
    """From the drop until the loop is fed again: drop and the card's own guard after it."""
    busy_tone: float = 30.0
    howler: float = 60.0
    """Receiver-off-hook tone; then the port is locked out. 0: no howler."""
    ring_guard: float = 0.3
    """On hook for so long before the next ring."""


# A rotary dial takes more than a second for a 0 before the digit is known.
_LONGEST_PULSES = 2.0

# States in which the handset is up.
_UP = frozenset(
    {
        FxsState.DIAL_TONE,
        FxsState.COLLECTING,
        FxsState.CALLING,
        FxsState.TALKING,
        FxsState.CLEARING,
        FxsState.BUSY_TONE,
        FxsState.HOWLER,
        FxsState.LOCKED_OUT,
    }
)
_IN_CALL = frozenset(
    {
        FxsState.PRE_RING,
        FxsState.RINGING,
        FxsState.DIAL_TONE,
        FxsState.COLLECTING,
        FxsState.CALLING,
        FxsState.TALKING,
        FxsState.LENT,
    }
)


class FxsPort:
    """One FXS port.

    Driven by ``signal`` and ``digit`` (line), ``ring``, ``progress``, ``answered``, ``release``,
    ``caller_id_sent`` (user) and ``tick`` (time); then drain ``next_output``. A signal that means
    nothing in the present state is counted in ``ignored``.
    """

    def __init__(self, config: FxsConfig | None = None) -> None:
        self.config = config or FxsConfig()
        self.state = FxsState.IDLE
        self.messages_waiting = False
        """Give stutter dial tone."""
        self.ignored: Counter[str] = Counter()
        self._out: deque[Output] = deque()
        self._timers = Timers()
        self._caller: CallerId | None = None
        self._collector: DigitCollector | None = None
        self._cadence = self.config.cadence_ms
        self._bursts = 0
        """Bursts of ringing so far."""
        self._tone: ToneName | None = None
        self._busy_name = ToneName.BUSY
        self._reversed = False
        self._fed = False
        self._lifted_lent = False
        self._connects = False
        """It is lent again as soon as the call before is cleared."""
        self._dropped_until = 0.0
        """The card takes no order before; a handset that goes down meanwhile does not end that."""

    # -- outputs -------------------------------------------------------------------------------

    def next_output(self) -> Output | None:
        """The next command or indication, oldest first."""
        return self._out.popleft() if self._out else None

    def next_timeout(self) -> float | None:
        """When ``tick`` must be called next."""
        return self._timers.next()

    @property
    def off_hook(self) -> bool:
        """The handset is up, as far as the port knows."""
        return self.state in _UP

    # -- line ----------------------------------------------------------------------------------

    def signal(self, signal: Signal, now: float) -> None:
        """The line did something."""
        if self.state is FxsState.LENT and signal in (Signal.LIFTED, Signal.HUNG_UP):
            self._lifted_lent = signal is Signal.LIFTED
            return
        match signal:
            case Signal.LIFTED:
                self._lifted(now)
            case Signal.HUNG_UP:
                self._hung_up(now)
            case Signal.FLASHED if self.config.flash and self.state is FxsState.TALKING:
                self._out.append(Flash())
            case Signal.PULSE_STARTED if self.state in (FxsState.DIAL_TONE, FxsState.COLLECTING):
                self._set_tone(None)
                if self._timers.running("digit"):
                    self._timers.start("digit", now + _LONGEST_PULSES + self.config.inter_digit)
            case Signal.RINGER_OFF if self.state is FxsState.RINGING:
                self._ring_paused(now)
            case Signal.FAULT:
                self._fault()
            case Signal.FAULT_CLEARED if self.state is FxsState.FAULT:
                self._out.append(LineRestored())
                self._become_idle()
            case _:
                self.ignored[f"{signal} in {self.state}"] += 1

    def digit(self, digit: str, now: float) -> None:
        """A digit was dialled, by tone or pulse."""
        match self.state:
            case FxsState.DIAL_TONE | FxsState.COLLECTING if self._collector:
                self._set_tone(None)
                self._timers.stop("hotline")
                self.state = FxsState.COLLECTING
                wait = self._collector.digit(digit)
                if wait is None:
                    self._dialled(now)
                else:
                    self._timers.start("digit", now + wait)
            case FxsState.TALKING | FxsState.CALLING:
                self._out.append(DigitPressed(digit))
            case _:
                self.ignored[f"digit in {self.state}"] += 1

    # -- user ----------------------------------------------------------------------------------

    def ring(
        self, now: float, caller: CallerId | None = None, cadence_ms: tuple[int, ...] = ()
    ) -> bool:
        """Ring the telephone; False when it is in use or out of order."""
        if self.state is not FxsState.IDLE:
            return False
        self._caller, self._cadence = caller, cadence_ms or self.config.cadence_ms
        if caller and self.config.caller_id is CallerIdWhen.BEFORE_RING:
            self.state = FxsState.PRE_RING
            self._set_polarity(True)
            self._timers.start("caller id", now + self.config.caller_id_pause)
            # should the modem never say that it is done, ring without
            self._timers.start("ring", now + self.config.caller_id_pause + 3.0)
        else:
            self._start_ringing()
        return True

    def caller_id_sent(self, now: float) -> None:
        """The caller ID is out."""
        if self.state is FxsState.PRE_RING:
            self._timers.start("ring", now + 0.2)

    def progress(self, now: float, *, early_media: bool = False) -> None:
        """The far end rings: play ringback, or let its own audio be heard."""
        if self.state is FxsState.CALLING:
            self._set_tone(None if early_media else ToneName.RINGBACK)

    def answered(self, now: float) -> None:
        """The far end answered the call that this telephone made."""
        if self.state is FxsState.CALLING:
            self._set_tone(None)
            self.state = FxsState.TALKING
            if self.config.answer_reversal:
                self._set_polarity(True)

    def connect(self, now: float) -> bool:
        """Feed the loop and let only its audio be used; False when it is in use or out of order.

        Where the far end of the call before is just being told that it is over, it follows that.
        """
        if self.state is FxsState.CLEARING:
            # Refused, who took the line from a lower call would not get it either.
            self._connects = True
            return True
        held = self.state is FxsState.BUSY_TONE and self._lifted_lent
        if self.state not in (FxsState.IDLE, FxsState.GUARD) and not held:
            return False
        self._connect(lifted=held)
        return True

    def _connect(self, *, lifted: bool) -> None:
        self._timers.clear()
        self._set_tone(None)
        self.state, self._lifted_lent, self._connects = FxsState.LENT, lifted, False
        self._feed(True)

    def release(self, now: float, tone: ToneName = ToneName.BUSY) -> None:
        """End the call from our side. A telephone that is up gets the battery drop and ``tone``.

        Without a call nothing happens.
        """
        self._connects = False
        if self.state not in _IN_CALL:
            return
        if self.state is FxsState.LENT:
            self._out.append(Hangup(Rule.LOCAL))
            if self._lifted_lent:
                # Whoever borrowed it is told like any other that the call is over.
                self._tell_over(now, tone)
            else:
                self._feed(False)
                self._guard(now)
            return
        self._lifted_lent = False
        if self.state in (FxsState.RINGING, FxsState.PRE_RING):
            self._stop_ringing()
            self._out.append(Hangup(Rule.LOCAL))
            self._guard(now)
            return
        self._out.append(Hangup(Rule.LOCAL))
        self._set_tone(None)
        self._set_polarity(False)
        self._tell_over(now, tone)

    def _tell_over(self, now: float, tone: ToneName) -> None:
        was_talking = self.state in (FxsState.TALKING, FxsState.LENT)
        self._timers.clear()
        self._busy_name = tone
        if was_talking and self.config.battery_drop:
            self.state = FxsState.CLEARING
            self._fed = False
            self._out.append(DropBattery())
            self._dropped_until = now + self.config.battery_drop_time
            self._timers.start("clear", self._dropped_until)
        else:
            self._start_busy(now)

    def stop(self, now: float) -> None:
        """Safe state: no ringing, no tone, loop idle. The call, if any, ends."""
        if self.state in _IN_CALL:
            self._out.append(Hangup(Rule.LOCAL))
        up = self.off_hook or (self.state is FxsState.LENT and self._lifted_lent)
        self._connects = False
        self._silence()
        self._timers.clear()
        if up:
            self.state = FxsState.LOCKED_OUT
        elif self.state is not FxsState.FAULT:
            self.state = FxsState.IDLE

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Time went on."""
        while due := self._timers.take(now):
            name, at = due
            match name:
                case "digit":
                    self._digits_over(at)
                case "hotline":
                    self._dial_hotline(at)
                case "caller id" if self._caller:
                    self._out.append(SendCallerId(self._caller))
                    self._caller = None
                case "ring":
                    self._set_polarity(False)
                    self._start_ringing()
                case "clear" if self._connects:
                    self._connect(lifted=True)
                case "clear":
                    self._start_busy(at)
                case "busy":
                    self._start_howler(at)
                case "howler":
                    self._lock_out()
                case "guard":
                    self._become_idle()

    # -- inside --------------------------------------------------------------------------------

    def _lifted(self, now: float) -> None:
        match self.state:
            case FxsState.IDLE | FxsState.GUARD:
                self._timers.clear()
                self._feed(True)
                self._out.append(OffHook())
                self._begin_dialling(now)
            case FxsState.RINGING | FxsState.PRE_RING:
                self._stop_ringing()
                self._feed(True)
                self.state = FxsState.TALKING
                if self.config.answer_reversal:
                    self._set_polarity(True)
                self._out.append(Answered(Rule.OFF_HOOK))
            case _:
                self.ignored[f"lifted in {self.state}"] += 1

    def _hung_up(self, now: float) -> None:
        if self.state not in _UP:
            self.ignored[f"hung up in {self.state}"] += 1
            return
        if self.state in _IN_CALL:
            self._out.append(Hangup(Rule.ON_HOOK))
        if self._connects:
            self._connect(lifted=False)
            return
        self._silence()
        self._guard(now)

    def _begin_dialling(self, now: float) -> None:
        config = self.config
        if config.hotline and config.hotline_delay <= 0:
            self._dial_hotline(now)
            return
        self._collector = DigitCollector(
            config.plan,
            first_digit=config.first_digit,
            inter_digit=config.inter_digit,
            full_match=config.full_match,
            terminator=config.terminator,
        )
        self.state = FxsState.DIAL_TONE
        self._set_tone(ToneName.STUTTER if self.messages_waiting else ToneName.DIAL)
        if config.hotline:
            self._timers.start("hotline", now + config.hotline_delay)
        else:
            self._timers.start("digit", now + config.first_digit)

    def _dial_hotline(self, now: float) -> None:
        self._set_tone(None)
        self._timers.stop("digit")
        self._collector = None
        self.state = FxsState.CALLING
        self._out.append(Digits(self.config.hotline, True))

    def _digits_over(self, now: float) -> None:
        if self._collector:
            self._collector.timed_out()
            self._dialled(now)

    def _dialled(self, now: float) -> None:
        collector, self._collector = self._collector, None
        assert collector is not None
        self._timers.stop("digit", "hotline")
        self._out.append(Digits(collector.dialled, collector.complete))
        if collector.complete:
            self.state = FxsState.CALLING
        else:
            self._out.append(
                Hangup(Rule.LOCAL, "no such number" if collector.dialled else "no digit")
            )
            self._busy_name = ToneName.CONGESTION
            self._start_busy(now)

    def _start_ringing(self) -> None:
        self.state = FxsState.RINGING
        self._bursts = 0
        self._out.append(Ring(self._cadence))

    def _ring_paused(self, now: float) -> None:
        pauses = self._cadence[1::2]
        pause = pauses[self._bursts % len(pauses)]
        self._bursts += 1
        # Caller ID fits only into the long pause of a cadence of several bursts.
        if (
            self._caller
            and self.config.caller_id is CallerIdWhen.AFTER_FIRST_RING
            and pause == max(pauses)
        ):
            self._timers.start("caller id", now + self.config.caller_id_pause)

    def _stop_ringing(self) -> None:
        self._timers.clear()
        if self.state is FxsState.RINGING:
            self._out.append(StopRing())
        self._set_polarity(False)
        self._caller = None

    def _start_busy(self, now: float) -> None:
        self._feed(True)
        self.state = FxsState.BUSY_TONE
        self._set_tone(self._busy_name)
        self._timers.start("busy", now + self.config.busy_tone)

    def _start_howler(self, now: float) -> None:
        # No howler for a station's amplifier: it may hold the line for good.
        if self.config.howler <= 0 or self._lifted_lent:
            self._lock_out()
            return
        self.state = FxsState.HOWLER
        self._set_tone(ToneName.HOWLER)
        self._timers.start("howler", now + self.config.howler)

    def _lock_out(self) -> None:
        self._set_tone(None)
        self.state = FxsState.LOCKED_OUT
        self._out.append(LockedOut())

    def _fault(self) -> None:
        if self.state is FxsState.FAULT:
            return
        if self.state in _IN_CALL:
            self._out.append(Hangup(Rule.FAULT))
        self._connects = False
        self._silence()
        self._timers.clear()
        self.state = FxsState.FAULT
        self._out.append(LineFault("port alarm"))

    def _guard(self, now: float) -> None:
        self._timers.clear()
        self._collector = None
        self.state = FxsState.GUARD
        self._timers.start("guard", max(now + self.config.ring_guard, self._dropped_until))

    def _become_idle(self) -> None:
        self.state = FxsState.IDLE
        self._out.append(Idle())

    def _silence(self) -> None:
        if self.state is FxsState.RINGING:
            self._out.append(StopRing())
        self._set_tone(None)
        self._set_polarity(False)
        self._feed(False)
        self._collector, self._caller = None, None

    def _set_tone(self, tone: ToneName | None) -> None:
        if tone is not self._tone:
            self._tone = tone
            self._out.append(PlayTone(tone) if tone else StopTone())

    def _set_polarity(self, reversed_: bool) -> None:
        if reversed_ != self._reversed:
            self._reversed = reversed_
            self._out.append(SetPolarity(reversed_))

    def _feed(self, on: bool) -> None:
        if on != self._fed:
            self._fed = on
            self._out.append(SetHook(on))
