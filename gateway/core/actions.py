"""Action: an immutable request, in the imperative. Adapters and the engine carry them out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from gateway.core.causes import Cause
from gateway.core.events import Diversion, PathTestKind, Priority


class BridgeKind(StrEnum):
    """Who hears whom in a bridge."""

    PAIR = "pair"
    """Two legs hear each other."""
    CONFERENCE = "conference"
    """Each hears all the others."""
    PAGE = "page"
    """One speaks, all others only hear."""
    FLOOR = "floor"
    """Half duplex: whoever holds the floor is heard by all others."""


class Vox(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """When a voice counts as speech, of somebody who asks for the floor by talking."""

    dbm0: Annotated[float, msgspec.Meta(ge=-60, le=0)] = -35.0
    """Level of speech; what is below is noise."""
    attack_ms: Annotated[int, msgspec.Meta(ge=20, le=1000)] = 60
    """Speech begins when it has lasted so long; in steps of 20 ms."""
    hang_ms: Annotated[int, msgspec.Meta(ge=100, le=5000)] = 600
    """A shorter silence does not end it."""
    echo_loss_db: Annotated[float, msgspec.Meta(ge=-20, le=60)] = 6.0
    """Anti-trip: how much weaker the echo of what the telephone hears is at least when it comes
    back from it. 6 dB is what a hybrid has (ITU-T G.168 section 6); less for loudspeakers."""
    echo_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 300
    """How long that echo takes at most."""
    pause_ms: Annotated[int, msgspec.Meta(ge=0, le=5000)] = 500
    """After an over on the air nobody gets the floor by voice for so long: somebody else on the
    air may want to answer. Not where the telephone comes first."""


class Talk(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a telephone comes to the floor of a half-duplex call."""

    keys: str = ""
    """Digits that take and give back the floor; empty: its voice does."""
    vox: Vox = Vox()
    first: bool = False
    """The telephone comes before the radio."""


class _Action(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True, gc=False):
    pass


# Legs: carried out by the adapter that owns the leg's endpoint


class Dial(_Action, frozen=True, kw_only=True):
    """Begin a leg to an endpoint. The adapter reports ringing, answer or end by events."""

    leg: str
    endpoint: str
    number: str = ""
    calling: str = ""
    display: str = ""
    hidden: bool = False
    """The caller does not want to be shown: there is neither number nor name, and no other number
    is to stand for them."""
    trace: str
    call: str
    priority: Priority = Priority.ROUTINE
    auto_answer: bool = False
    """Ask the called device to answer by itself (paging, intercom)."""
    one_way: bool = False
    """We only speak: the called side's audio is not wanted."""
    diverted: tuple[Diversion, ...] = ()
    """Who sent the call on, the latest first."""
    clear: bool = False
    """The path is to be measured: what would improve it, such as an echo canceller, stays off."""


class Ring(_Action, frozen=True, kw_only=True):
    """Tell the caller that the called side is alerting (180, ringback tone)."""

    leg: str


class ReportTransfer(_Action, frozen=True, kw_only=True):
    """Tell who asked for a transfer how it goes (NOTIFY of a REFER, RFC 3515 section 2.4.5)."""

    leg: str
    endpoint: str = ""
    """Its endpoint: the leg may be over."""
    outcome: str
    """``ringing``, ``answered`` or ``failed``; the last two are final."""
    cause: Cause = Cause.NORMAL
    """Why it failed."""


class Progress(_Action, frozen=True, kw_only=True):
    """Open the caller's audio path before the answer (183, cut through)."""

    leg: str


class Answer(_Action, frozen=True, kw_only=True):
    """Answer an offered leg; `LegAnswered` follows when it took effect."""

    leg: str


class Hangup(_Action, frozen=True, kw_only=True):
    """End a leg in whatever state it is; `LegEnded` follows."""

    leg: str
    cause: Cause = Cause.NORMAL
    detail: str = ""
    """What decided it, kept in the record: "no route matched 0815"."""


class Hold(_Action, frozen=True, kw_only=True):
    """Tell the far end that it is not heard for a while."""

    leg: str
    by: str = ""
    """The endpoint that put the call on hold."""
    silent: bool = False
    """It is not sent anything either."""


class Retrieve(_Action, frozen=True, kw_only=True):
    """Take the far end off hold."""

    leg: str


class SendDigits(_Action, frozen=True, kw_only=True):
    """Send DTMF towards the far end of a connected leg."""

    leg: str
    digits: str


class Key(_Action, frozen=True, kw_only=True):
    """Key the transmitter behind a half-duplex leg. A lease: renewed while the floor is held."""

    leg: str


class Unkey(_Action, frozen=True, kw_only=True):
    """Release the transmitter."""

    leg: str


# Audio: carried out by the media engine


class OpenBridge(_Action, frozen=True, kw_only=True):
    """Create a bridge."""

    bridge: str
    kind: BridgeKind


class Join(_Action, frozen=True, kw_only=True):
    """Put a leg into a bridge; takes effect as soon as the leg has a stream."""

    bridge: str
    leg: str
    speaks: bool = True
    hears: bool = True
    gain_db: float = 0.0


class Leave(_Action, frozen=True, kw_only=True):
    """Take a leg out of its bridge."""

    bridge: str
    leg: str


class GiveFloor(_Action, frozen=True, kw_only=True):
    """Only this leg is heard by the others; None: nobody."""

    bridge: str
    leg: str | None = None


class WatchSpeech(_Action, frozen=True, kw_only=True):
    """Report a leg's speech as `FloorRequested` and `FloorReleased`; None: no more."""

    leg: str
    vox: Vox | None = None


class CloseBridge(_Action, frozen=True, kw_only=True):
    """Dissolve a bridge; its legs hear silence."""

    bridge: str


class Play(_Action, frozen=True, kw_only=True):
    """Play to one leg, instead of what its bridge says, until the end or `StopPlay`."""

    leg: str
    play: str
    """Names this play in `AnnouncementEnded` and `StopPlay`."""
    file: str = ""
    tone: str = ""
    text: str = ""
    """To be spoken by the configured synthesiser."""
    repeat: int = 1
    """How often; 0 is until stopped."""
    gap_s: float = 0.0
    signal: str = ""
    """A test signal for `seconds` at `level_dbm0`; see `gateway.media.signals`."""
    seconds: float = 0.0
    level_dbm0: float = 0.0


class StopPlay(_Action, frozen=True, kw_only=True):
    """Stop a play; harmless when it is over."""

    leg: str
    play: str


class Record(_Action, frozen=True, kw_only=True):
    """Record a leg, both directions, to a file of the recordings directory."""

    leg: str
    file: str


class StopRecord(_Action, frozen=True, kw_only=True):
    """Finish a recording."""

    leg: str


# Places


class SetOutput(_Action, frozen=True, kw_only=True):
    """Switch a relay, lamp or register of an endpoint."""

    endpoint: str
    output: str
    value: float
    pulse_ms: int = 0
    """Return to the former value after this time; 0: stay."""


class AcknowledgeAlarm(_Action, frozen=True, kw_only=True):
    """Tell the alarm's source that somebody took it in hand."""

    endpoint: str
    alarm: str
    by: str
    trace: str = ""


class Command(_Action, frozen=True, kw_only=True):
    """Tell an alarm panel or another device what to do; `CommandFinished` follows."""

    command: str
    """Id of this request."""
    endpoint: str
    verb: str
    """``ARM_AWAY``, ``ARM_HOME``, ``ARM_NIGHT``, ``DISARM``, ``TRIGGER``..."""
    code: str = ""
    """The person's code, for panels that check it themselves."""
    by: str = ""
    trace: str = ""


class SendMessage(_Action, frozen=True, kw_only=True):
    """Send a text message."""

    endpoint: str
    recipient: str
    text: str
    sender: str = ""
    """Number of who wrote it; empty: the gateway."""
    trace: str = ""
    hops: int = 70
    """Through how many exchanges it may still go."""


# Tests: carried out by the gateway's tester


class Outcome(StrEnum):
    """How far a test of a path got."""

    HEARD = "heard"
    """Signal and answer are recorded, to be measured."""
    REFUSED = "refused"
    """It must not, or cannot, be carried out at all."""
    PUT_OFF = "put off"
    """Somebody else needs the line: later."""
    UNANSWERED = "unanswered"
    """It rang, and nobody answered."""
    FAILED = "failed"
    """It began, and ended too early."""


class FinishPathTest(_Action, frozen=True, kw_only=True):
    """Measure what was recorded, or say why there is nothing; `PathTested` follows."""

    test: str
    endpoint: str
    kind: PathTestKind
    outcome: Outcome
    detail: str = ""
    sent: str = ""
    """File of the recordings directory: received left, sent right."""
    heard: str = ""
    """Another one, when another endpoint listened."""
    trace: str = ""


# For the record


class Note(_Action, frozen=True, kw_only=True):
    """Say why: which route matched, why none did, what was pre-empted. Changes nothing."""

    text: str
    trace: str = ""
    call: str = ""
    leg: str = ""
    route: str = ""


class OpenAlarm(_Action, frozen=True, kw_only=True):
    """The alarm's plan has begun; it is carried out to its end even over a restart."""

    endpoint: str
    alarm: str
    route: str
    trace: str


class CloseAlarm(_Action, frozen=True, kw_only=True):
    """The alarm's plan is over: acknowledged, cleared, or nobody left to tell."""

    endpoint: str
    alarm: str
    outcome: str
    """``acknowledged``, ``cleared``, ``delivered``, ``exhausted`` (nobody was left to tell),
    ``dropped`` (too many alarms at once), ``unrouted`` (an input's, after a restart with other
    routes)."""
    by: str = ""
    trace: str = ""


LegAction = (
    Dial
    | Ring
    | ReportTransfer
    | Progress
    | Answer
    | Hangup
    | Hold
    | Retrieve
    | SendDigits
    | Key
    | Unkey
)
MediaAction = (
    OpenBridge
    | Join
    | Leave
    | GiveFloor
    | WatchSpeech
    | CloseBridge
    | Play
    | StopPlay
    | Record
    | StopRecord
)
PlaceAction = SetOutput | AcknowledgeAlarm | Command | SendMessage
TestAction = FinishPathTest
RecordAction = Note | OpenAlarm | CloseAlarm
Action = LegAction | MediaAction | PlaceAction | TestAction | RecordAction
