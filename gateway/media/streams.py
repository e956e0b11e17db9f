"""What a stream of audio is: where its samples come from and go, and what was measured on it.

A stream belongs to one leg. These types are plain data: adapters build a `StreamSpec`, the
engine returns a `Stream` handle and fills `StreamStats`. Nobody outside the engine sees a sample.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from gateway.core.actions import Vox
from gateway.errors import UsageError
from gateway.media.impairments import Meter
from gateway.media.quality import VoipMetrics
from gateway.media.shaping import EchoCanceller, GainControl, NoiseGate


class Direction(StrEnum):
    """Which way audio flows, seen from the gateway (RFC 3264 section 5)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"


class Codec(StrEnum):
    """Encodings the engine speaks; the value is the RTP encoding name (RFC 3551 section 6)."""

    PCMU = "PCMU"
    PCMA = "PCMA"
    G722 = "G722"
    L16 = "L16"
    """Linear 16 bit: native byte order on a descriptor, network byte order in RTP."""


class SrtpSuite(StrEnum):
    """Crypto suites; the value is the name in SDP (RFC 4568 section 6.2, RFC 7714 section 14.2)."""

    AES_128_SHA1_80 = "AES_CM_128_HMAC_SHA1_80"
    AES_128_SHA1_32 = "AES_CM_128_HMAC_SHA1_32"
    AES_128_GCM = "AEAD_AES_128_GCM"
    AES_256_GCM = "AEAD_AES_256_GCM"

    @property
    def key_octets(self) -> int:
        """Master key and master salt together."""
        return {"AEAD_AES_128_GCM": 28, "AEAD_AES_256_GCM": 44}.get(self.value, 30)


class Srtp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Keys of an encrypted stream (RFC 3711). They are not shown where one is printed."""

    suite: SrtpSuite
    receive: bytes
    """Master key and salt of what the far end sends."""
    send: bytes
    """Ours."""

    def __repr__(self) -> str:
        return f"Srtp({self.suite.value})"


class Follow(StrEnum):
    """Which far ends are followed to another port in mid-call."""

    NEVER = "never"
    LEARNED = "learned"
    """Whose audio already comes from elsewhere than signalled: a NAT is between."""
    ALWAYS = "always"


class RtpSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Audio over RTP (RFC 3550) on a UDP socket that the engine binds."""

    local_ip: str
    """Address to bind and to advertise; an empty string is refused."""
    remote_ip: str | None = None
    """Where to send; None until the far end's SDP is known: nothing is sent before."""
    remote_port: int = 0
    codec: Codec = Codec.PCMU
    payload_type: int = 0
    """Payload type for sending; the same is expected on receipt."""
    telephone_event: int | None = None
    """Payload type of RFC 4733 telephone-event, None when it was not negotiated."""
    rate: int = 8000
    """Sampling rate in Hz; G722 is 16000 although its RTP clock is 8000 (RFC 3551 4.5.2)."""
    ptime_ms: int = 20
    direction: Direction = Direction.SENDRECV
    symmetric: bool = True
    """Latch on the first valid packet's source within `latch_ms` of the remote being set, if it
    comes from the signalled address (any port); then that source is locked until `update`."""
    latch_anywhere: bool = False
    """Behind NAT: with `symmetric`, the first valid packet may come from any address."""
    latch_ms: int = 5000
    """How long after the remote was signalled a source may be learned."""
    follow: Follow = Follow.NEVER
    """Whether a far end is followed whose NAT gives it another port in mid-call, when no signalling
    says so: after 0.3 s without a packet from where it was, to where three packets in a row come
    from that go on where it stopped (SSRC, numbers, timestamps); to another address only with
    SRTP, where one packet that proves itself is enough."""
    media_timeout_s: float = 0.0
    """Seconds without a packet (while receiving) before `MediaTimeout`; 0 switches it off."""
    jitter_min_ms: int = 20
    jitter_max_ms: int = 200
    multicast_ttl: int = 1
    srtp: Srtp | None = None
    """Keys of SRTP and SRTCP; None: in the clear. With keys nothing is taken in the clear."""
    pass_extensions: bool = False
    """Header extensions that come are passed on to this stream by a relay; else they end here."""
    comfort_noise: int | None = None
    """Payload type of comfort noise (RFC 3389), None when it was not negotiated. Noise that comes
    as type 13 is heard all the same, and what is relayed is never silence in its place."""
    suppress_silence: bool = False
    """Where comfort noise was negotiated, send it instead of what is under -50 dBm0 for 200 ms."""
    xr_metrics: bool = False
    """Report VoIP metrics to the far end (RFC 3611 4.7): it asked for them."""
    xr_round_trip: bool = False
    """Both sides measure round trips by RRTR and DLRR (RFC 3611 4.4, 4.5), sender or not."""
    dscp: int = 46
    """Differentiated services code point of what is sent; 46 is expedited forwarding."""


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Audio over a descriptor that the adapter opened: a DAHDI channel, a pipe, a socket pair.

    The engine dups `fd`, makes it non-blocking, and reads and writes whole blocks.
    """

    fd: int
    codec: Codec = Codec.PCMU
    rate: int = 8000
    block_bytes: int = 160
    """Bytes per read and write; 160 octets are 20 ms of G.711."""
    paced_by_device: bool = True
    """True: one block is written for each block read (a sound card's or line card's clock).
    False: the engine writes a block each block time by its own clock (pipes, sockets)."""


class HeaderExtension(msgspec.Struct, frozen=True, gc=False):
    """An RTP header extension (RFC 3550 section 5.3.1)."""

    profile: int
    """16 bits: 0xBEDE is RFC 8285's one-byte form, 0x0167 ED-137's."""
    data: bytes
    """Whole 32-bit words, at most 64 octets."""


def one_byte_elements(elements: dict[int, bytes]) -> HeaderExtension:
    """Elements by their identifiers in RFC 8285's one-byte form (section 4.2).

    Raises `UsageError` for an identifier other than 1 to 14 or an element not of 1 to 16 octets.
    """
    data = b""
    for identifier, value in elements.items():
        if not (1 <= identifier <= 14 and 1 <= len(value) <= 16):
            raise UsageError(
                f"element {identifier} of {len(value)} octets; use 1 to 14, and 1 to 16 octets"
            )
        data += bytes([identifier << 4 | (len(value) - 1)]) + value
    return HeaderExtension(0xBEDE, data + bytes(-len(data) % 4))


def elements_of(extension: HeaderExtension) -> dict[int, bytes]:
    """Elements of RFC 8285's one-byte form; what does not add up ends them, as does identifier
    15. Of another profile there are none."""
    found: dict[int, bytes] = {}
    data, at = extension.data, 0
    if extension.profile != 0xBEDE:
        return found
    while at < len(data):
        identifier, n = data[at] >> 4, (data[at] & 15) + 1
        at += 1
        if identifier == 0:
            continue  # padding
        if identifier == 15 or at + n > len(data):
            break
        found[identifier] = data[at : at + n]
        at += n
    return found


class NullSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """No transport: a leg that only plays, records or is measured (tests, service legs)."""

    rate: int = 8000


StreamSpec = RtpSpec | DeviceSpec | NullSpec


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a leg wants of its stream, whatever carries it."""

    detect_dtmf: bool = False
    """Detect in-band DTMF; never on together with a negotiated telephone-event."""
    mute_dtmf: bool = False
    """Keep detected in-band digits from the other side (the digits travel as events)."""
    digits_beside: bool = False
    """The far end is told the other side's digits in the signalling: it hears none."""
    detect_tones: tuple[str, ...] = ()
    """Names of call-progress tones to look for, such as ``busy``; see `gateway.media.tones`."""
    detect_fsk: str | None = None
    """Caller ID receiver: ``bell202`` or ``v23``; frames arrive as `FskReceived`."""
    country: str = "us"
    """Tone plan for `play_tone` and `detect_tones`."""
    gain_in_db: float = 0.0
    gain_out_db: float = 0.0
    echo: EchoCanceller | None = None
    """Of what is received; it is kept, with what it has learned, while this stays the same."""
    agc: GainControl | None = None
    """Of what the others hear of this leg; what is measured and detected is before it."""
    gate: NoiseGate | None = None


class StreamStats(msgspec.Struct, kw_only=True, gc=False):
    """Counters of one stream since it was opened, or since the last read for the levels."""

    codec: str = ""
    local: str = ""
    remote: str = ""
    packets_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    """Sequence gaps that never filled (RFC 3550 A.3)."""
    packets_late: int = 0
    packets_duplicate: int = 0
    packets_in_kernel: int = 0
    """Of the received: relayed by the kernel, unseen by the engine."""
    moves: int = 0
    """How often the far end was followed to another port in mid-call."""
    packets_refused: int = 0
    """Wrong source, version, payload type or length."""
    srtp_suite: str = ""
    """Crypto suite; empty: RTP in the clear."""
    srtp_failed: int = 0
    """Packets that were not encrypted with the agreed key, or changed on their way."""
    srtp_replayed: int = 0
    """Packets that came again: a network that doubles them, or somebody who recorded them."""
    frames_concealed: int = 0
    digits_dropped: int = 0
    """Digits that were not sent because 64 were waiting; the newest are dropped."""
    jitter_ms: float = 0.0
    """Interarrival jitter (RFC 3550 6.4.1)."""
    buffer_ms: int = 0
    """Present depth of the jitter buffer."""
    level_in_dbm0: float = -99.0
    """Level received since the last read; a full-scale sine is +3.14 dBm0."""
    level_out_dbm0: float = -99.0
    remote_loss_percent: float = 0.0
    """What the far end reported of our stream (RTCP receiver report)."""
    round_trip_ms: float | None = None
    extensions_received: int = 0
    """Packets with an RTP header extension."""
    extensions_refused: int = 0
    """Of more than 64 octets; the packet itself was taken."""
    quality: VoipMetrics | None = None
    """How well the far end is heard here; None: nothing came, or not over RTP."""
    remote_quality: VoipMetrics | None = None
    """How well it says that it hears us; None: it has sent no such report (RFC 3611)."""
    silent_s: float = 0.0
    """How long what we receive has been under -60 dBm0."""
    signalled: str = ""
    """Where signalling said that the far end is; `remote` may have been learned since."""
    direction: str = ""
    """A `Direction`; empty where audio always goes both ways."""
    payload_type: int | None = None
    """The one agreed; None: not RTP."""
    telephone_event: bool = False
    """RFC 4733 was agreed."""
    packets_elsewhere: int = 0
    """Of the refused: from another address than agreed."""
    elsewhere: str = ""
    """The last of these addresses."""
    packets_wrong_type: int = 0
    """Of the refused: of a payload type that was not agreed."""
    wrong_type: int | None = None
    """The last of these types."""
    send_errors: int = 0
    send_error: str = ""
    """What the system said to the last of them."""
    heard_s: float = 0.0
    """Audio received and looked at; what was lost is not in it."""
    active_s: float = 0.0
    """Of it above -60 dBm0."""
    active_dbm0: float = -99.0
    """Mean level of that."""
    loudest_dbm0: float = -99.0
    """Level of the loudest 20 ms."""
    clipped_s: float = 0.0
    """Frames whose tops lie flat at full scale."""
    flat_s: float = 0.0
    """Frames of one value only: no microphone and no line is so quiet."""
    event_digits: int = 0
    """Digits received by RFC 4733."""
    inband_digits: int = 0
    """Digits in the audio although RFC 4733 was agreed."""
    slips: int = 0
    """Frames dropped because they came faster than they are played."""
    drift_ppm: float | None = None
    """How much slower the sender's clock is than ours, in millionths; None: not measured yet, or
    its packets' times do not lie on a line."""

    echo_tail_ms: int = 0
    """A line echo canceller works, for an echo so long; 0: none does."""
    echo_delay_ms: int | None = None
    """Of the echo behind what we send, our own buffers included; None: no echo was found."""
    erl_db: float | None = None
    """Echo return loss of the line (G.168): how much weaker its echo is than what we send."""
    erle_db: float | None = None
    """Echo return loss enhancement (G.168): what the canceller adds to that, without the
    suppression, over about the last second in which only we spoke."""
    echo_s: float = 0.0
    """Time in which there was an echo to be measured."""
    echo_heard_s: float = 0.0
    """Of it, when the other side got to hear its own voice less than 26 dB weaker (G.131), with
    all that canceller and suppression took away."""
    agc_db: float | None = None
    """Present gain of the automatic control; None: off."""


class DigitDetected(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """A DTMF digit ended (or is long enough to count), once per key press."""

    digit: str
    duration_ms: int
    via: str
    """``rfc4733`` or ``inband``."""


class ToneDetected(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """A call-progress tone matched in frequency and cadence."""

    tone: str


class FskReceived(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """A caller ID burst was demodulated; `data` is the message layer with its checksum."""

    data: bytes


class SpeechChanged(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Speech began or ended on a stream that is watched for it."""

    speaking: bool
    sent: bool = False
    """In what we send; else in what we receive."""


class MediaStarted(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """The first valid packet or block arrived."""

    source: str


class MediaTimeout(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Nothing valid arrived for `media_timeout_s`."""


class PlayEnded(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """A play came to its end; not sent for one that was stopped."""

    play: str


class DeviceFailed(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """The descriptor reported end of file or an error; the stream is silent from here on."""

    errno: int


class RecordEnded(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """A recording's file is complete and closed."""

    path: str
    """As written."""
    duration_s: float
    dropped_s: float = 0.0
    """Audio that the file lacks because the disk was too slow."""
    error: str = ""
    """Why the file ends early; empty when it does not."""


class ByeReceived(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """RTCP BYE from the remote (informative: signalling ends calls, never RTCP)."""


class OtherPayload(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """The far end sends another payload type than `RtpSpec.payload_type`, from where it should:
    three packets in a row, none of which is heard. Told five times a second at most."""

    payload_type: int


MediaEvent = (
    DigitDetected
    | ToneDetected
    | FskReceived
    | SpeechChanged
    | MediaStarted
    | MediaTimeout
    | PlayEnded
    | DeviceFailed
    | RecordEnded
    | ByeReceived
    | OtherPayload
)


class Stream(Protocol):
    """Handle of an open stream. Methods return at once; closing twice is harmless."""

    @property
    def id(self) -> int:
        """Engine's number of this stream, unique while the engine lives."""

    @property
    def local(self) -> tuple[str, int]:
        """Bound address and port (RTP); ``("", 0)`` for other kinds."""

    def update(self, spec: RtpSpec) -> None:
        """Apply a new remote, codec, payload type or direction without losing the port.

        Raises `UsageError` on a closed or non-RTP stream, or when `local_ip` changes.
        """

    def configure(self, options: StreamOptions) -> None:
        """Replace the stream's options."""

    def watch_speech(self, vox: Vox | None) -> None:
        """Report `SpeechChanged` from now on, silence being assumed; None: no more."""

    def play_tone(self, tone: str, *, play: str = "", repeat: bool = True) -> None:
        """Play a call-progress tone to this leg (``dial``, ``ringback``, ``busy``...) instead of
        what its bridge says. Unknown tone: `UsageError` naming the legal ones."""

    def play_file(self, path: str, *, play: str = "", repeat: int = 1, gap_s: float = 0.0) -> None:
        """Play a WAV file to this leg instead of its bridge, `repeat` times (0: for ever).

        Raises `DeviceError` when the file is missing or not 8/16/48 kHz 16-bit PCM or G.711.
        """

    def play_samples(self, samples: bytes, *, rate: int = 8000, play: str = "") -> None:
        """Play signed 16-bit mono samples once (caller ID bursts, synthesised speech)."""

    def stop_play(self) -> None:
        """Stop whatever plays; the bridge is heard again."""

    def send_digits(self, digits: str, *, on_ms: int = 100, off_ms: int = 100) -> None:
        """Send DTMF: as RFC 4733 where negotiated, else in-band. `UsageError` on a bad digit."""

    def record(self, path: str, *, both: bool = True) -> None:
        """Record to a WAV file: received left, sent right (`both`), or received only."""

    def stop_record(self) -> None:
        """Finish the file; harmless when nothing is recorded."""

    def stats(self) -> StreamStats:
        """Present counters."""

    def meter(self) -> Meter | None:
        """What tells whether speech arrives, cheaply; None: closed."""

    def close(self) -> None:
        """Free port or descriptor and leave any bridge. Later calls do nothing."""
