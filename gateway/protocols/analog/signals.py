"""The words between a port, its line and its user."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto

from gateway.protocols.analog.callerid import CallerId


class Signal(StrEnum):
    """What a line did. A backend translates its own events into these."""

    # FXS port: the telephone
    LIFTED = auto()
    HUNG_UP = auto()
    FLASHED = auto()
    PULSE_STARTED = auto()
    RINGER_OFF = auto()
    """A burst of our own ringing has ended."""
    # FXO port: the exchange
    RING_STARTED = auto()
    RING_ENDED = auto()
    BATTERY_LOST = auto()
    BATTERY_RESTORED = auto()
    POLARITY_REVERSED = auto()
    """The polarity is now the other one."""
    DIAL_DONE = auto()
    # both
    HOOK_DONE = auto()
    """A flash or a battery drop that we asked for is over."""
    FAULT = auto()
    """The card or the line reports an alarm, or is gone."""
    FAULT_CLEARED = auto()


class Rule(StrEnum):
    """Which supervision rule answered or ended a call: what a technician asks first."""

    LOCAL = auto()
    """Our own side released."""
    OFF_HOOK = auto()
    """The telephone was lifted."""
    ON_HOOK = auto()
    """The telephone was hung up."""
    CPC = auto()
    """Calling party control: the exchange dropped the battery."""
    POLARITY = auto()
    """The exchange reversed the battery."""
    TONE = auto()
    """A busy or congestion tone was heard."""
    SILENCE = auto()
    MAX_CALL = auto()
    """The call reached the longest time allowed."""
    VOICE = auto()
    """Somebody spoke after ringback."""
    TIMER = auto()
    IMMEDIATE = auto()
    """As soon as dialling was over."""
    RING_STOPPED = auto()
    """An unanswered caller gave up."""
    NO_DIAL_TONE = auto()
    NO_ANSWER = auto()
    GLARE = auto()
    """A call came in on the line that we were seizing."""
    FAULT = auto()


class ToneName(StrEnum):
    """Tones a port plays or, on an FXO port, hears."""

    DIAL = auto()
    STUTTER = auto()
    """Dial tone that says: messages wait."""
    RINGBACK = auto()
    BUSY = auto()
    CONGESTION = auto()
    HOWLER = auto()
    """Receiver off hook: hang up!"""
    CALL_WAITING = auto()
    DIAL_RECALL = auto()
    SILENCE = auto()
    VOICE = auto()
    """Not a tone: speech. Heard only."""


# -- commands: what the backend must do ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetHook:
    """FXO port: close (seize) or open the loop. FXS port: feed the loop for speech, or be idle."""

    off: bool


@dataclass(frozen=True, slots=True)
class Ring:
    """Ring the telephone, again and again."""

    cadence_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StopRing:
    """Stop ringing."""


@dataclass(frozen=True, slots=True)
class PlayTone:
    """Play a tone to the line until another, or ``StopTone``."""

    tone: ToneName


@dataclass(frozen=True, slots=True)
class StopTone:
    """Be silent."""


@dataclass(frozen=True, slots=True)
class SendCallerId:
    """Send caller ID to the telephone on hook; call ``caller_id_sent`` when it is out."""

    caller: CallerId


@dataclass(frozen=True, slots=True)
class ListenCallerId:
    """Listen for caller ID from the exchange, or no more."""

    on: bool


@dataclass(frozen=True, slots=True)
class SetPolarity:
    """Feed the battery reversed or normal."""

    reversed: bool


@dataclass(frozen=True, slots=True)
class DropBattery:
    """Drop the battery for a moment and be idle: tells a PBX or recorder that the call is over."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial digits into the exchange; ``Signal.DIAL_DONE`` when they are out."""

    digits: str
    pulse: bool


@dataclass(frozen=True, slots=True)
class SendFlash:
    """Flash the exchange (register recall)."""


# -- indications: what the user should know --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OffHook:
    """The telephone was lifted to make a call."""


@dataclass(frozen=True, slots=True)
class Digits:
    """A number was dialled; not ``complete``: it fits no dial plan, or dialling stopped midway."""

    number: str
    complete: bool


@dataclass(frozen=True, slots=True)
class DigitPressed:
    """A digit during a call."""

    digit: str


@dataclass(frozen=True, slots=True)
class Flash:
    """The recall key was pressed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The called side answered, by this rule."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Hangup:
    """The call on this port is over, by this rule. Comes exactly once for each call."""

    rule: Rule
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RingDetected:
    """The exchange rings; not yet an offer."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A call from the exchange to be answered."""

    caller: CallerId | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The dialled number is being rung."""


@dataclass(frozen=True, slots=True)
class Idle:
    """The port is free for the next call."""


@dataclass(frozen=True, slots=True)
class LockedOut:
    """The handset was left off hook; the port is useless until it is put down."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """The line or the port is out of order."""

    reason: str


@dataclass(frozen=True, slots=True)
class LineRestored:
    """It is in order again."""


Command = (
    SetHook
    | Ring
    | StopRing
    | PlayTone
    | StopTone
    | SendCallerId
    | ListenCallerId
    | SetPolarity
    | DropBattery
    | Dial
    | SendFlash
)
Indication = (
    OffHook
    | Digits
    | DigitPressed
    | Flash
    | Answered
    | Hangup
    | RingDetected
    | Alert
    | Progress
    | Idle
    | LockedOut
    | LineFault
    | LineRestored
)
Output = Command | Indication
