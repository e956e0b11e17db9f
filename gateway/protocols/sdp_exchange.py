"""The offer/answer exchange (RFC 3264): what both sides of a session agree on.

Directions are told from our own side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from gateway.errors import UsageError
from gateway.protocols.sdp_description import (
    Attribute,
    Codec,
    Direction,
    MediaDescription,
    SdpError,
    SessionDescription,
    direction,
    direction_of,
    get_attribute,
    is_short,
)

_RTCP = re.compile(r"(\d{1,5})(?: +IN +(IP4|IP6) +(\S+))?", re.I)


class Choice(msgspec.Struct, frozen=True):
    """What both sides agree on for one audio line."""

    index: int
    """Which media line."""
    codecs: tuple[Codec, ...]
    """Common encodings, best first, with the offer's payload types; never empty."""
    telephone_event: Codec | None
    """Payload type for digits (RFC 4733) at the first codec's clock, if agreed."""
    comfort_noise: Codec | None
    """Payload type for comfort noise (RFC 3389) at the first codec's clock, if agreed."""
    address: str
    """Where to send media."""
    port: int
    rtcp: tuple[str, int]
    """Where to send RTCP."""
    rtcp_mux: bool
    """Both sides can mix RTP and RTCP on one port (RFC 5761)."""
    direction: Direction
    """Ours."""
    ptime_ms: int | None
    maxptime_ms: int | None
    protocol: str
    crypto: tuple[str, ...]
    """The peer's crypto attributes (RFC 4568)."""
    xr_metrics: bool = False
    """The peer wants VoIP metrics of what it sends (RFC 3611 section 5.1)."""
    xr_round_trip: bool = False
    """It can measure round trips of receivers (``rcvr-rtt``)."""

    @property
    def codec(self) -> Codec:
        return self.codecs[0]

    @property
    def on_hold(self) -> bool:
        """The peer takes no media from us."""
        return not self.direction.sends


PROTOCOLS = ("RTP/AVP",)
RTCP_XR = "voip-metrics rcvr-rtt=all"
"""Value of our ``rtcp-xr`` attribute: the extended reports that we make and read."""


def choose(
    offer: SessionDescription,
    codecs: Sequence[Codec],
    *,
    wanted: Direction = Direction.SENDRECV,
    protocols: Sequence[str] = PROTOCOLS,
    prefer_ours: bool = False,
) -> Choice | None:
    """Find the first audio line of an offer that we can take; None if there is none.

    ``codecs`` are ours, best first; digits are agreed on if `TELEPHONE_EVENT` is among them,
    comfort noise if `CN` is.
    The offer's order decides unless ``prefer_ours`` (RFC 3264 section 6.1).
    """
    for index, media in enumerate(offer.media):
        if media.kind == "audio" and media.port and media.protocol.upper() in protocols:
            found = _agree(offer, index, codecs, wanted, prefer_ours)
            if found is not None:
                return found
    return None


def _common(
    theirs: tuple[Codec, ...], codecs: tuple[Codec, ...], prefer_ours: bool
) -> tuple[tuple[Codec, ...], tuple[Codec, ...]]:
    """What both sides can do, and what of it is speech, best first."""
    common = [c for c in theirs if any(ours.matches(c) for ours in codecs)]
    if prefer_ours:
        rank = {(c.name.lower(), c.clock, c.channels): n for n, c in reversed([*enumerate(codecs)])}
        common.sort(key=lambda c: rank[(c.name.lower(), c.clock, c.channels)])
    return tuple(common), tuple(
        c for c in common if c.name.lower() not in ("telephone-event", "cn")
    )


_common_cached = lru_cache(maxsize=512)(_common)


def _agree(
    peer: SessionDescription,
    index: int,
    codecs: Sequence[Codec],
    wanted: Direction,
    prefer_ours: bool,
) -> Choice | None:
    """Match one line of the peer's with our codecs."""
    media = peer.media[index]
    address, port = peer.address_of(media), media.port
    if not address:
        return None
    words, around = tuple(media.attributes), tuple(peer.attributes)
    # Telephones of one make say the same in each of their calls; keys, though, are of one call.
    said = list(media.formats)
    for name, value in (*words, *around):
        said.append(name)
        if value:
            said.append(value)
    plain = "crypto" not in said and is_short(said)
    terms = (_terms_cached if plain else _terms)(
        tuple(media.formats), words, around, address == "0.0.0.0", tuple(codecs), wanted,
        prefer_ours,
    )  # fmt: skip
    if terms is None:
        return None
    own_address, own_port = terms.rtcp
    rtcp_port = own_port or (port if terms.rtcp_mux else min(port + 1, 65535))
    return msgspec.structs.replace(
        terms,
        index=index,
        address=address,
        port=port,
        rtcp=(own_address or address, rtcp_port),
        protocol=media.protocol,
    )


def _terms(
    formats: tuple[str, ...],
    attributes: tuple[Attribute, ...],
    around: tuple[Attribute, ...],
    silent: bool,
    codecs: tuple[Codec, ...],
    wanted: Direction,
    prefer_ours: bool,
) -> Choice | None:
    """What a line of the peer's and our codecs have in common, but for addresses; None: no speech.

    ``around`` are the attributes of the session, ``silent``: its address is 0.0.0.0.
    """
    media = MediaDescription("audio", 0, "", list(formats), None, list(attributes))
    theirs = tuple(media.codecs())
    kept = is_short(*((codec.name, codec.fmtp) for codec in theirs))
    common, speech = (_common_cached if kept else _common)(theirs, codecs, prefer_ours)
    if not speech:
        return None
    events = [c for c in common if c.name.lower() == "telephone-event"]
    event = next((c for c in events if c.clock == speech[0].clock), events[0] if events else None)
    noise = next((c for c in common if c.name.lower() == "cn" and c.clock == speech[0].clock), None)
    offered = direction_of(around, attributes, silent).reversed()
    mux = media.get("rtcp-mux") is not None
    reports = (media.get("rtcp-xr") or get_attribute(around, "rtcp-xr") or "").split()
    explicit = _RTCP.fullmatch(media.get("rtcp") or "")
    own = explicit is not None and not mux and 0 < int(explicit[1]) <= 65535
    return Choice(
        index=0,
        codecs=speech,
        telephone_event=event,
        comfort_noise=noise,
        address="",
        port=0,
        rtcp=(explicit[3] or "", int(explicit[1])) if own and explicit else ("", 0),
        rtcp_mux=mux,
        direction=direction(wanted.sends and offered.sends, wanted.receives and offered.receives),
        ptime_ms=media.ptime_ms,
        maxptime_ms=media.maxptime_ms,
        protocol="",
        crypto=tuple(media.all("crypto")),
        xr_metrics="voip-metrics" in reports,
        xr_round_trip=any(word.startswith("rcvr-rtt=") for word in reports),
    )


_terms_cached = lru_cache(maxsize=256)(_terms)


def _audio(
    port: int,
    codecs: Sequence[Codec],
    way: Direction,
    ptime_ms: int | None,
    rtcp_mux: bool,
    protocol: str,
    crypto: Sequence[str],
    rtcp_xr: str,
) -> MediaDescription:
    said = tuple(codecs)
    short = is_short([text for codec in said for text in (codec.name, codec.fmtp)])
    attributes = list(
        (_described_cached if short else _described)(said, ptime_ms, rtcp_mux, rtcp_xr)
    )
    attributes += [("crypto", line) for line in crypto]
    attributes.append((way.value, None))
    formats = [str(codec.payload) for codec in codecs]
    return MediaDescription("audio", port, protocol, formats, None, attributes)


def _described(
    codecs: tuple[Codec, ...], ptime_ms: int | None, rtcp_mux: bool, rtcp_xr: str
) -> tuple[Attribute, ...]:
    """What is the same in all descriptions of the same codecs."""
    attributes: list[Attribute] = []
    for codec in codecs:
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        attributes.append(("rtpmap", f"{codec.payload} {codec.name}/{codec.clock}{channels}"))
        if codec.fmtp:
            attributes.append(("fmtp", f"{codec.payload} {codec.fmtp}"))
    if ptime_ms:
        attributes.append(("ptime", str(ptime_ms)))
    if rtcp_mux:
        attributes.append(("rtcp-mux", None))
    if rtcp_xr:
        attributes.append(("rtcp-xr", rtcp_xr))
    return tuple(attributes)


_described_cached = lru_cache(maxsize=256)(_described)


def make_offer(
    codecs: Sequence[Codec],
    address: str,
    port: int,
    *,
    session_id: str = "1",
    version: int = 1,
    way: Direction = Direction.SENDRECV,
    ptime_ms: int | None = 20,
    rtcp_mux: bool = False,
    protocol: str = "RTP/AVP",
    crypto: Sequence[str] = (),
    rtcp_xr: str = "",
) -> SessionDescription:
    """Offer one audio line.  ``session_id`` is digits, and fixed for a session's life."""
    if not codecs:
        raise UsageError("an offer needs at least one codec")
    payloads = [codec.payload for codec in codecs]
    if len(set(payloads)) != len(payloads):
        raise UsageError(f"payload types {payloads} are not distinct")
    media = _audio(port, codecs, way, ptime_ms, rtcp_mux, protocol, crypto, rtcp_xr)
    return SessionDescription(session_id, version, address, address, [media])


def answer(
    offer: SessionDescription,
    choice: Choice,
    address: str,
    port: int,
    *,
    session_id: str = "1",
    version: int = 1,
    rtcp_mux: bool = False,
    ptime_ms: int | None = None,
    crypto: Sequence[str] = (),
    single_codec: bool = False,
    rtcp_xr: str = "",
) -> SessionDescription:
    """Answer an offer: the chosen line at ``address`` and ``port``, all others refused.

    Payload types are the offer's; each of its lines is answered in its place, refused ones with
    port 0 and their formats (RFC 3264 section 6).  ``single_codec`` leaves only the best, so that
    the peer cannot change the codec without asking.  ``rtcp_xr`` is answered where it was offered.
    """
    lines: list[MediaDescription] = []
    for index, media in enumerate(offer.media):
        if index != choice.index:
            refused = media.formats[:1] if media.rtp else media.formats
            lines.append(MediaDescription(media.kind, 0, media.protocol, refused or ["0"]))
            continue
        codecs = list(choice.codecs[:1] if single_codec else choice.codecs)
        codecs += [c for c in (choice.telephone_event, choice.comfort_noise) if c is not None]
        lines.append(
            _audio(
                port,
                codecs,
                choice.direction,
                ptime_ms or choice.ptime_ms,
                rtcp_mux and choice.rtcp_mux,
                media.protocol,
                crypto,
                rtcp_xr if choice.xr_metrics or choice.xr_round_trip else "",
            )
        )
    return SessionDescription(session_id, version, address, address, lines)


def accept(
    offer: SessionDescription, reply: SessionDescription, codecs: Sequence[Codec]
) -> Choice | None:
    """What an answer to our own offer settled; None if the peer refused the audio.

    Raises `SdpError` if the answer does not fit the offer.
    """
    if len(reply.media) != len(offer.media):
        raise SdpError(f"{len(reply.media)} media lines answer {len(offer.media)}")
    for index, (ours, theirs) in enumerate(zip(offer.media, reply.media, strict=True)):
        if ours.kind != theirs.kind:
            raise SdpError(f"{theirs.kind} answers {ours.kind}")
        if ours.kind == "audio" and ours.port and theirs.port:
            return _agree(reply, index, codecs, offer.direction_of(ours), False)
    return None
