"""Event: an immutable fact, in the past tense. Adapters and the engine emit them.

Plain data: `msgspec` writes and reads them, the tag is the class name. Times inside an event are
seconds of the monotonic clock that the switchboard is driven with.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec

from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint


class Priority(IntEnum):
    """Precedence of a call or alarm; a higher one may take what a lower one holds."""

    ROUTINE = 0
    PRIORITY = 1
    URGENT = 2
    EMERGENCY = 3


class Severity(IntEnum):
    """Severity of an alarm, ordered (names of ITU-T X.733 perceived severity)."""

    INDETERMINATE = 0
    WARNING = 1
    MINOR = 2
    MAJOR = 3
    CRITICAL = 4


class Quality(StrEnum):
    """Whether an input's value can be trusted."""

    GOOD = "good"
    STALE = "stale"
    """The source stopped answering: the value is the last one heard, not the present one."""
    BAD = "bad"


class Impairment(StrEnum):
    """What keeps an answered leg from being heard as it should be."""

    SILENCE = "silence"
    """Audio arrives, and nothing is in it: muted, no microphone, an open pair."""
    CLIPPING = "clipping"
    """The tops of the speech lie flat at full scale."""
    ONE_WAY = "one-way"
    """Nothing arrives, while we send."""


class PathTestKind(StrEnum):
    """What is found out about the path to an endpoint."""

    TONE = "tone"
    """A tone plays for whoever listens; what comes back is measured: hum, noise, DC."""
    LOOP = "loop"
    """Noise is sent; what comes back of it: delay, loss, echo of a hybrid."""
    ACOUSTIC = "acoustic"
    """A sweep sounds from a loudspeaker; a microphone hears it."""


class Diversion(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Somebody who was called and sent the call on to another number."""

    number: str = ""
    """Empty: hidden."""
    reason: str = "unknown"
    """Of RFC 5806 section 4.1: ``unconditional``, ``user-busy``, ``no-answer``, ..."""


class _Event(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True, gc=False):
    pass


# Legs


class LegOffered(_Event, frozen=True, kw_only=True):
    """Somebody outside wants to talk: an INVITE, digits from a handset, a ring, a call button."""

    leg: str
    endpoint: str
    called: str = ""
    """The number or name dialled; empty for a hotline or a help point."""
    calling: str = ""
    display: str = ""
    hidden: bool = False
    """The caller does not want to be shown to whoever is called."""
    trace: str
    demanded_at: float
    """When the human or physical demand began: off hook, first ring, button, INVITE."""
    priority: Priority = Priority.ROUTINE
    auto_answer: bool = False
    """The caller asked that the called side answers by itself."""
    diverted: tuple[Diversion, ...] = ()
    """Who sent the call on before it came here, the latest first."""
    replaces: str = ""
    """The leg that this one takes the place of: a ringing one is picked up, a connected one taken
    over (RFC 3891). Nothing is routed then."""


class LegRinging(_Event, frozen=True, kw_only=True):
    """The called side alerts its user."""

    leg: str


class LegProgressed(_Event, frozen=True, kw_only=True):
    """Audio before the answer (early media) comes from the called side."""

    leg: str


class LegAnswered(_Event, frozen=True, kw_only=True):
    """The leg is connected; for an offered leg: our answer took effect."""

    leg: str


class LegHeld(_Event, frozen=True, kw_only=True):
    """The far end put us on hold."""

    leg: str
    sends: bool = False
    """It still sends audio: its own music."""


class LegRetrieved(_Event, frozen=True, kw_only=True):
    """The far end took us off hold."""

    leg: str


class LegFlashed(_Event, frozen=True, kw_only=True):
    """Hook flash: the user wants something of the switch."""

    leg: str


class TransferRequested(_Event, frozen=True, kw_only=True):
    """The far end of this leg asks that its partner be connected to somebody else (REFER)."""

    leg: str
    target: str
    """An endpoint with optional number, or a number to be routed as if dialled."""
    replaces: str = ""
    """The leg at the target that the new one takes the place of (attended transfer)."""


class LegEnded(_Event, frozen=True, kw_only=True):
    """The leg is over and its resources are free; exactly once for each leg."""

    leg: str
    cause: Cause
    detail: str = ""
    """What decided it, in the network's words: "486 Busy Here", "cpc", "busy tone, 3 cycles"."""
    redirect: str = ""
    """The number that the called side wants to be called instead (302); routed as if it had
    dialled it itself."""
    redirect_reason: str = ""
    """Why, as in `Diversion`."""


class PageMember(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A member of a page, and the sign that it gave of having played it."""

    name: str
    """As configured, else its address."""
    by: str
    """``rtcp``: a receiver report on our stream (RFC 3550 section 6.4.2); ``sip``: it answered the
    INVITE; ``input``: a contact or level of another adapter (an amplifier's acknowledgement)."""
    evidence: str = ""
    """What was seen: the reporter's address, the endpoint and input, the answer."""


class PageDelivered(_Event, frozen=True, kw_only=True):
    """A page is over in one place: who gave a sign of having played it. Before its `LegEnded`."""

    leg: str
    members: tuple[PageMember, ...] = ()
    missing: tuple[str, ...] = ()
    """Who is expected to give a sign, and did not."""


class DigitPressed(_Event, frozen=True, kw_only=True):
    """One digit on a connected or collecting leg, once for each key press."""

    leg: str
    digit: str
    duration_ms: int = 0
    via: str = ""
    """``rfc4733``, ``inband`` (the others in the call hear it), ``info``, ``pulse``, ``keypad``."""


class FloorRequested(_Event, frozen=True, kw_only=True):
    """A half-duplex side begins to speak: carrier detect, push-to-talk, VOX, a DTMF key."""

    leg: str


class FloorReleased(_Event, frozen=True, kw_only=True):
    """It stopped speaking."""

    leg: str


class AudioBorrowed(_Event, frozen=True, kw_only=True):
    """The leg speaks over another endpoint's line, which has none left for others meanwhile."""

    leg: str
    endpoint: str


class AudioReturned(_Event, frozen=True, kw_only=True):
    """The leg goes on without the line it had borrowed. Its end gives it back by itself."""

    leg: str


class MediaFlowing(_Event, frozen=True, kw_only=True):
    """The first audio from the far end arrived."""

    leg: str
    source: str = ""


class MediaLost(_Event, frozen=True, kw_only=True):
    """No audio arrived for as long as the leg allows."""

    leg: str


class AudioImpaired(_Event, frozen=True, kw_only=True):
    """What an answered leg sends us has become bad; `AudioRestored` or the leg's end follows."""

    leg: str
    impairment: Impairment
    seconds: float
    """How long it had been so already."""
    level_dbm0: float | None = None
    """What arrived meanwhile; None: nothing."""
    percent: float | None = None
    """Of the speech with its tops cut off, where it clips."""


class AudioRestored(_Event, frozen=True, kw_only=True):
    """It is good again, or there is no reason any more to expect speech (a hold, the floor)."""

    leg: str
    impairment: Impairment
    lasted_s: float
    """Since its beginning, which was before the `AudioImpaired`."""


class ToneHeard(_Event, frozen=True, kw_only=True):
    """A call-progress tone was recognised on the leg."""

    leg: str
    tone: str


class AnnouncementEnded(_Event, frozen=True, kw_only=True):
    """A play of ours came to its end; not emitted for one that was stopped or cut off."""

    leg: str
    play: str


# Places


class EndpointChanged(_Event, frozen=True, kw_only=True):
    """An endpoint appeared, or its condition or abilities changed."""

    endpoint: Endpoint


class EndpointRemoved(_Event, frozen=True, kw_only=True):
    """An endpoint is gone for good (unregistered, removed from the configuration)."""

    endpoint: str
    reason: str = ""


class InputChanged(_Event, frozen=True, kw_only=True):
    """A contact, level or register changed, or lost its quality."""

    endpoint: str
    input: str
    value: float
    """Contacts: 0 is off, 1 is on. Everything else in the unit the adapter documents."""
    quality: Quality = Quality.GOOD
    trace: str = ""
    raised_at: float | None = None
    """When it began an alarm: set by the gateway for what a route takes as one, which is then on
    disk before anything is done about it. None: for all others, and from adapters."""
    standing: bool = False
    """The first value since the adapter looked: it is so, and nobody saw it become so."""
    by: str = ""
    """Who acknowledged the alarm that it began before a restart: set by the gateway."""

    @property
    def alarm(self) -> str:
        """Name of the alarm that a route may make of it."""
        return self.input if self.quality is Quality.GOOD else f"{self.input}/{self.quality}"


class AlarmRaised(_Event, frozen=True, kw_only=True):
    """Something is wrong out there and somebody must know."""

    endpoint: str
    alarm: str
    """Names the alarm on its endpoint; the same name again while active is the same alarm."""
    kind: str = ""
    """``fire``, ``intrusion``, ``panic``, ``medical``, ``gas``, ``tamper``, ``fault``..."""
    severity: Severity = Severity.MAJOR
    text: str = ""
    trace: str
    raised_at: float
    standing: bool = False
    """The source says that it is so, not that it has become so: a retained message, the first
    reading of a contact. An alarm that is acknowledged stays so."""
    by: str = ""
    """Who acknowledged it before a restart: set by the gateway, never by adapters."""


class AlarmCleared(_Event, frozen=True, kw_only=True):
    """The cause is gone, or the panel was disarmed or reset."""

    endpoint: str
    alarm: str


class AlarmAcknowledged(_Event, frozen=True, kw_only=True):
    """Somebody took the alarm in hand outside of a call of ours (panel key, contact, console)."""

    endpoint: str
    alarm: str
    by: str = ""


class PanelChanged(_Event, frozen=True, kw_only=True):
    """An alarm panel reports its state (``armed_away``, ``disarmed``, ``pending``...)."""

    endpoint: str
    state: str


class CommandFinished(_Event, frozen=True, kw_only=True):
    """The outcome of a `Command`; `command` is the id that the action carried."""

    command: str
    ok: bool
    detail: str = ""


class MessageReceived(_Event, frozen=True, kw_only=True):
    """A text message (SIP MESSAGE, SMS, MQTT) for a person or a route."""

    endpoint: str
    sender: str
    recipient: str = ""
    text: str
    trace: str = ""
    hops: int = 70
    """Through how many exchanges it may still go (Max-Forwards)."""


# People at the gateway


class CallRequested(_Event, frozen=True, kw_only=True):
    """An operator or schedule asked for a call between two places."""

    origin: str
    target: str
    by: str = ""
    trace: str
    priority: Priority = Priority.ROUTINE


class HangupRequested(_Event, frozen=True, kw_only=True):
    """An operator asked for the end of a call, or of one leg of it."""

    call: str = ""
    leg: str = ""
    by: str = ""


class AcknowledgeRequested(_Event, frozen=True, kw_only=True):
    """An operator acknowledges an alarm from the console or the command line."""

    endpoint: str
    alarm: str
    by: str = ""


class PathTestRequested(_Event, frozen=True, kw_only=True):
    """A person or the timetable asked for a test of the path to an endpoint."""

    test: str
    """Id of this test."""
    endpoint: str
    number: str = ""
    """What is dialled there, for a trunk."""
    kind: PathTestKind
    signal: str
    """What is played; see `gateway.media.signals`."""
    level_dbm0: float = -10.0
    seconds: float = 3.0
    listen: str = ""
    """Another endpoint whose microphone hears it; empty: its own."""
    transmit: bool = False
    """A transmitter may be keyed for it."""
    ring_s: float = 30.0
    scheduled: bool = False
    """Nobody waits for it: it makes way for an emergency before it begins."""
    by: str = ""
    trace: str


class PathTested(_Event, frozen=True, kw_only=True):
    """The outcome of a test of a path."""

    test: str
    endpoint: str
    kind: PathTestKind
    ok: bool
    judged: bool = True
    """False: it could not be carried out now; nothing is known of the path."""
    verdict: str
    """In a word or two: ``closed``, ``open``, ``hybrid echo``, ``loudspeaker silent``..."""
    detail: str = ""
    """In a sentence."""
    figures: dict[str, float] = {}
    """What was measured; each name ends in its unit."""
    listen: str = ""
    scheduled: bool = False
    trace: str = ""


# The gateway itself


class AdapterReady(_Event, frozen=True, kw_only=True):
    """The adapter has opened what it serves."""

    adapter: str


class AdapterLost(_Event, frozen=True, kw_only=True):
    """The adapter's device, broker or task is gone; it is started again, later each time."""

    adapter: str
    reason: str


class StopRequested(_Event, frozen=True, kw_only=True):
    """The gateway is to stop: no new calls; present ones end by `deadline_s` seconds."""

    deadline_s: float = 0.0


Event = (
    LegOffered
    | LegRinging
    | LegProgressed
    | LegAnswered
    | LegHeld
    | LegRetrieved
    | LegFlashed
    | TransferRequested
    | LegEnded
    | PageDelivered
    | DigitPressed
    | FloorRequested
    | FloorReleased
    | AudioBorrowed
    | AudioReturned
    | MediaFlowing
    | MediaLost
    | AudioImpaired
    | AudioRestored
    | ToneHeard
    | AnnouncementEnded
    | EndpointChanged
    | EndpointRemoved
    | InputChanged
    | AlarmRaised
    | AlarmCleared
    | AlarmAcknowledged
    | PanelChanged
    | CommandFinished
    | MessageReceived
    | CallRequested
    | HangupRequested
    | AcknowledgeRequested
    | PathTestRequested
    | PathTested
    | AdapterReady
    | AdapterLost
    | StopRequested
)
