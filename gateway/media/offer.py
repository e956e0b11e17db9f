"""Codec choice for an SDP offer: plain data in, plain data out (RFC 3264 section 6.1)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.media.streams import Codec

RATES: dict[Codec, tuple[int, ...]] = {
    Codec.PCMU: (8000,),
    Codec.PCMA: (8000,),
    Codec.G722: (16000,),
    Codec.L16: (16000, 8000),
}
"""Sampling rates in Hz that the engine takes for each codec, best first."""

STATIC: dict[int, tuple[str, int]] = {0: ("PCMU", 8000), 8: ("PCMA", 8000), 9: ("G722", 8000)}
"""Payload types that need no rtpmap: encoding name and RTP clock (RFC 3551 table 4)."""


class Format(msgspec.Struct, frozen=True):
    """One payload type of an offer's m= line, with its rtpmap if it had one."""

    payload_type: int
    encoding: str = ""
    """Encoding name, case-insensitive; empty when the offer had no rtpmap for it."""
    clock_rate: int = 0
    channels: int = 1


class Choice(msgspec.Struct, frozen=True):
    """What to send and expect."""

    codec: Codec
    payload_type: int
    rate: int
    """Sampling rate in Hz (16000 for G722, whose RTP clock is 8000)."""
    clock_rate: int
    telephone_event: int | None
    """Payload type of telephone-event at the codec's clock rate, None when not offered."""


def clock_rate(codec: Codec, rate: int) -> int:
    """RTP clock in Hz: 8000 for G722 by an old mistake that RFC 3551 4.5.2 keeps."""
    return 8000 if codec is Codec.G722 else rate


def choose(
    ours: Sequence[Codec], offered: Sequence[Format], *, prefer_theirs: bool = False
) -> Choice | None:
    """Best codec that both sides have, None when there is none.

    `ours` is in our order of preference, `offered` in theirs; ours decides unless
    `prefer_theirs`.
    """
    usable: list[tuple[Codec, int, Format]] = []
    for item in offered:
        name, clock = item.encoding.upper(), item.clock_rate
        if not name:
            name, clock = STATIC.get(item.payload_type, ("", 0))
        for codec in ours:
            for rate in RATES[codec]:
                if (name, clock, item.channels) == (codec.value, clock_rate(codec, rate), 1):
                    usable.append((codec, rate, item))
    if not usable:
        return None
    if not prefer_theirs:
        usable.sort(key=lambda entry: ours.index(entry[0]))
    codec, rate, item = usable[0]
    clock = clock_rate(codec, rate)
    events = [
        f.payload_type
        for f in offered
        if f.encoding.lower() == "telephone-event" and f.clock_rate == clock
    ]
    return Choice(codec, item.payload_type, rate, clock, events[0] if events else None)
