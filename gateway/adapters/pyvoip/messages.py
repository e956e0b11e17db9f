"""What the gateway and the library's process say to each other, one message in a packet.

The two ends of a SOCK_SEQPACKET pair carry JSON. `Place` and `Accept` come with a descriptor: one
end of another pair that carries the call's audio, in blocks of 160 octets of mu-law each way.
"""

from __future__ import annotations

from typing import Final

import msgspec

BLOCK: Final = 160
"""Octets of a block: 20 ms of G.711."""
LARGEST: Final = 65536


class _Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    pass


# Towards the library


class Begin(_Message, frozen=True, kw_only=True):
    """Register this account; the first message."""

    server: str
    port: int
    user: str
    password: str
    local_ip: str
    local_port: int
    rtp_ports: tuple[int, int]
    expires_s: int
    no_response_s: float
    calls: int


class Place(_Message, frozen=True, kw_only=True):
    """Call a number."""

    call: str
    number: str


class Accept(_Message, frozen=True, kw_only=True):
    """Answer an offered call."""

    call: str


class Drop(_Message, frozen=True, kw_only=True):
    """End a call in any state; `status` refuses one that is still ringing here."""

    call: str
    status: int = 486


class Press(_Message, frozen=True, kw_only=True):
    """Send digits as telephone-events (RFC 4733)."""

    call: str
    digits: str


class End(_Message, frozen=True, kw_only=True):
    """End all calls, take the registration back, and go."""


ToLibrary = Begin | Place | Accept | Drop | Press | End


# From the library


class Hello(_Message, frozen=True, kw_only=True):
    """The library is loaded."""

    version: str


class Registered(_Message, frozen=True, kw_only=True):
    """The PBX took the registration."""

    local: str


class Unregistered(_Message, frozen=True, kw_only=True):
    """It did not; when `final` the process ends now."""

    reason: str
    final: bool = False


class Offered(_Message, frozen=True, kw_only=True):
    """Somebody calls us."""

    call: str
    called: str = ""
    calling: str = ""
    display: str = ""


class Alerting(_Message, frozen=True, kw_only=True):
    """The called side rings."""

    call: str


class Connected(_Message, frozen=True, kw_only=True):
    """Answered, by either side. `events`: digits travel as telephone-events."""

    call: str
    events: bool


class Over(_Message, frozen=True, kw_only=True):
    """The call is over; `status` is the SIP status that ended it, 200 for a BYE."""

    call: str
    status: int
    reason: str


class Digit(_Message, frozen=True, kw_only=True):
    """The far end pressed a key."""

    call: str
    digit: str


class Counted(_Message, frozen=True, kw_only=True):
    """Something for a counter."""

    name: str
    n: int = 1


class Alive(_Message, frozen=True, kw_only=True):
    """Said every second."""

    memory_mb: float


FromLibrary = (
    Hello | Registered | Unregistered | Offered | Alerting | Connected | Over | Digit | Counted
    | Alive
)  # fmt: skip

encode = msgspec.json.Encoder().encode
decode_to_library = msgspec.json.Decoder(ToLibrary).decode
decode_from_library = msgspec.json.Decoder(FromLibrary).decode
