"""The audio of one SIP leg: its stream, and the offers and answers that describe it (RFC 3264)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.sip.config import FollowMedia
from gateway.adapters.sip.keying import Keying
from gateway.adapters.sip.natting import follow
from gateway.errors import PeerError
from gateway.media.streams import (
    Codec,
    Direction,
    MediaEvent,
    OtherPayload,
    RtpSpec,
    Stream,
    StreamOptions,
)
from gateway.protocols import sdp
from gateway.protocols.sip.headers import quote
from gateway.protocols.sip.locating import is_address, is_group
from gateway.protocols.sip.message import Header

_KNOWN: Final = {
    "G722": sdp.G722,
    "PCMA": sdp.PCMA,
    "PCMU": sdp.PCMU,
    "L16": sdp.L16,
    "L16/8000": sdp.L16_8,
}
_NOBODY: Final = ("0.0.0.0", "::")


def _rate(codec: sdp.Codec) -> int:
    """Samples per second: G.722's clock says half of them (RFC 3551 4.5.2)."""
    return 16000 if codec.name.upper() == "G722" else codec.clock


class Audio:
    """Stream and session description of one leg."""

    __slots__ = (
        "_codecs", "_follow", "_hides", "_host", "_id", "_keying", "_leg", "_lines", "_listens",
        "_local_ip", "_media_timeout_s", "_offer", "_options", "_peer", "_reports", "_shown_ip",
        "_towards", "_version", "behind_nat", "choice", "hold_way", "stream", "warning", "why",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        leg: str,
        peer: str,
        towards: Callable[[str], tuple[str, str]],
        hides: Callable[[str, str], bool],
        *,
        codecs: Sequence[str],
        keying: Keying,
        media_timeout_s: float,
        options: StreamOptions,
        follow: FollowMedia = FollowMedia.NEVER,
        events: bool = True,
        reports: bool = True,
        noise: bool = False,
    ) -> None:
        """`towards` tells our own address towards another one, and what it is shown as; `peer` is
        where we expect the audio to go, and where it goes when the address in its description is
        one behind its NAT, as `hides` tells. Without `events` digits are in the audio alone;
        without `reports` extended reports (RFC 3611) are neither offered nor answered; `noise`
        stands for silence (RFC 3389) where the peer agrees."""
        self._host, self._leg = host, leg
        self._towards, self._keying = towards, keying
        self._local_ip, self._shown_ip = towards(peer)
        self._peer, self._hides = peer, hides
        self._codecs = [_KNOWN[name] for name in codecs]
        if events:
            self._codecs.append(sdp.TELEPHONE_EVENT)
            if sdp.L16 in self._codecs:
                self._codecs.append(sdp.TELEPHONE_EVENT_16)
        if noise:
            self._codecs.append(sdp.CN)
            if sdp.L16 in self._codecs:
                self._codecs.append(sdp.CN_16)
        self._reports = sdp.RTCP_XR if reports else ""
        self._media_timeout_s = media_timeout_s
        self._options = options
        self._follow = follow
        self.behind_nat = False
        """Signalling shows that it is."""
        self._version = 0
        self._id = str(abs(hash((leg, id(self)))) % 10**9)
        self.stream: Stream | None = None
        self.choice: sdp.Choice | None = None
        self._offer: sdp.SessionDescription | None = None
        self._lines: list[sdp.MediaDescription] = []
        """The lines that were answered last, for our own offers have them too."""
        self.why = ""
        """Why the last offer or answer was refused."""
        self.warning = 305
        """The same as a code of Warning (RFC 3261 section 20.43)."""
        self.hold_way: sdp.Direction | None = None
        """Which way audio goes while we have the far end on hold."""
        self._listens = False
        """The last description that the far end offered takes audio from us."""

    @property
    def remote_hold(self) -> bool | None:
        """The far end does not listen to us; None: it cannot, nothing is sent to it."""
        if self.hold_way is sdp.Direction.INACTIVE:
            return False if self._listens else None
        return self.choice is not None and self.choice.on_hold

    @property
    def refusal(self) -> Header:
        """Why the last offer or answer was refused, for the far end."""
        return ("Warning", f"{self.warning} crosspoint {quote(self.why)}")

    @property
    def is_sent(self) -> bool:
        """The far end sends us audio."""
        return self.choice is not None and self.choice.direction.receives

    def _open(self) -> Stream:
        if self.stream is None:
            first = self._codecs[0]
            spec = RtpSpec(local_ip=self._local_ip, codec=Codec(first.name), rate=_rate(first))
            self.stream = self._host.open_stream(self._leg, spec, self._options, self._heard)
        return self.stream

    def _way(self) -> sdp.Direction:
        return self.hold_way or sdp.Direction.SENDRECV

    def offer(self) -> bytes:
        """Our offer. Raises `DeviceError` when no port is free, or required SRTP impossible."""
        protocol, crypto = self._keying.offer()
        _, port = self._open().local
        self._version += 1
        self._offer = sdp.make_offer(
            self._codecs,
            self._shown_ip,
            port,
            session_id=self._id,
            version=self._version,
            way=self._way(),
            protocol=protocol,
            crypto=crypto,
            rtcp_xr=self._reports,
        )
        if self._lines and self.choice is not None:
            # A line that was there once stays in its place (RFC 3264 section 8).
            (audio,) = self._offer.media
            self._offer.media = [
                audio
                if index == self.choice.index
                else sdp.MediaDescription(line.kind, 0, line.protocol, line.formats)
                for index, line in enumerate(self._lines)
            ]
        return self._offer.encode()

    def answer(self, offer: bytes) -> bytes | None:
        """Our answer to the far end's offer, applied; None (see `why`) when nothing fits.

        Raises `PeerError` when the offer is malformed, `DeviceError` when no port is free.
        """
        described = sdp.parse(offer)
        taken = self._choose(described)
        if taken is None:
            return None
        choice, crypto = taken
        if not self._fits(choice):
            if self.stream is not None:
                raise PeerError("the audio cannot change between IPv4 and IPv6 during a call")
            # Signalling over one version of IP, audio over the other.
            self._local_ip, self._shown_ip = self._towards(choice.address)
        # The answer names one of them: the far end may send no other.
        _, port = self._apply(msgspec.structs.replace(choice, codecs=choice.codecs[:1])).local
        self._listens = described.direction_of(described.media[choice.index]).receives
        self._version += 1
        answer = sdp.answer(
            described,
            choice,
            self._shown_ip,
            port,
            session_id=self._id,
            version=self._version,
            crypto=crypto,
            single_codec=True,
            rtcp_xr=self._reports,
        )
        self._lines = answer.media
        return answer.encode()

    def _choose(self, described: sdp.SessionDescription) -> tuple[sdp.Choice, list[str]] | None:
        audio = [line for line in described.media if line.kind == "audio" and line.port]
        if not audio:
            self.why, self.warning = "no audio is offered", 304
        elif not {line.protocol.upper() for line in audio} & {*self._keying.protocols}:
            self.why, self.warning = f"{audio[0].protocol} is not taken", 302
        else:
            self.why, self.warning = "no codec in common", 305
        for protocol in self._keying.protocols:
            choice = sdp.choose(
                described,
                self._codecs,
                wanted=self._way(),
                protocols=(protocol,),
                prefer_ours=True,
            )
            if choice is None:
                continue
            try:
                return choice, self._keying.answer(choice)
            except PeerError as error:
                self.why = str(error)
        return None

    def accept(self, answer: bytes) -> bool:
        """Apply the far end's answer to our offer; False when it took no audio of ours.

        Raises `PeerError` when the answer is malformed or does not fit.
        """
        if self._offer is None:
            raise PeerError("an answer came without an offer of ours")
        choice = sdp.accept(self._offer, sdp.parse(answer), self._codecs)
        if choice is None:
            self.why = "the answer took no audio"
            return False
        if not self._fits(choice):
            raise PeerError("IPv4 was offered and IPv6 answered, or the other way round")
        self._keying.accept(choice)
        self._apply(choice)
        self._listens = False
        return True

    def _fits(self, choice: sdp.Choice) -> bool:
        """Whether the far end is of our socket's version of IP."""
        return choice.address in _NOBODY or (":" in choice.address) == (":" in self._local_ip)

    def hold(self, way: sdp.Direction | None) -> bytes:
        """A new offer that puts the far end on hold, or takes it off (None)."""
        self.hold_way = way
        return self.offer()

    def _apply(self, choice: sdp.Choice) -> Stream:
        if not is_address(choice.address):
            raise PeerError(f"{choice.address!r} is no IP address: names are not looked up")
        if is_group(choice.address):
            # A call is one far end's: to a group it would be a flood for a whole network.
            raise PeerError(f"{choice.address} is the address of many")
        self.choice = choice
        codec = Codec(choice.codec.name.upper())
        event, noise = choice.telephone_event, choice.comfort_noise
        # An address of zeros is the old way to say hold (RFC 2543); nothing may be sent there.
        silent = choice.address in _NOBODY
        direction = Direction.INACTIVE if silent else Direction(choice.direction.value)
        # Nobody has to send during a hold, whoever asked for it.
        timeout_s = self._media_timeout_s if direction is Direction.SENDRECV else 0.0
        spec = RtpSpec(
            local_ip=self._local_ip,
            remote_ip=None if silent else self._reached_at(choice.address),
            remote_port=0 if silent else choice.port,
            codec=codec,
            payload_type=choice.codec.payload,
            telephone_event=event.payload if event else None,
            rate=_rate(choice.codec),
            ptime_ms=min(max(choice.ptime_ms or 20, 10), choice.maxptime_ms or 60, 60),
            direction=direction,
            follow=follow(self._follow, behind_nat=self._is_behind_nat(choice.address)),
            media_timeout_s=timeout_s,
            srtp=self._keying.agreed,
            comfort_noise=noise.payload if noise else None,
            suppress_silence=noise is not None,
            xr_metrics=bool(self._reports) and choice.xr_metrics,
            xr_round_trip=bool(self._reports) and choice.xr_round_trip,
        )
        # Digits come in the audio only where no telephone-event was negotiated: never twice.
        if self._options.detect_dtmf != (event is None):
            self._options = msgspec.structs.replace(self._options, detect_dtmf=event is None)
        if self.stream is None:
            self.stream = self._host.open_stream(self._leg, spec, self._options, self._heard)
        else:
            self.stream.update(spec)
            self.stream.configure(self._options)
        return self.stream

    def _heard(self, event: MediaEvent) -> bool:
        """Whether it was for us: of several codecs that it agreed on the far end sends another
        now (RFC 3264 section 5.1). It is sent that one from here on, too."""
        choice = self.choice
        if not isinstance(event, OtherPayload) or choice is None:
            return False
        for codec in choice.codecs[1:]:
            # Digits and noise were agreed for the first one's clock.
            if codec.payload == event.payload_type and codec.clock == choice.codec.clock:
                others = tuple(other for other in choice.codecs if other is not codec)
                self._apply(msgspec.structs.replace(choice, codecs=(codec, *others)))
                self._host.count("codec_changes")
                return True
        return False

    def _is_behind_nat(self, address: str) -> bool:
        return self.behind_nat or self._hides(self._peer, address)

    def _reached_at(self, address: str) -> str:
        return self._peer if self._hides(self._peer, address) else address

    def detail(self) -> dict[str, str]:
        """What a technician wants to see of it."""
        if self.choice is None:
            return {}
        return {
            "codec": self.choice.codec.name,
            "media": f"{self.choice.address}:{self.choice.port}",
            "direction": self.choice.direction.value,
            "srtp": self._keying.agreed.suite.value if self._keying.agreed else "no",
        }
