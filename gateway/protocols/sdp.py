"""Session descriptions (RFC 8866) and the offer/answer exchange (RFC 3264).

`parse` reads a description leniently (LF line ends, missing s= or t=, unknown lines) but within
bounds, and keeps every attribute, known or not, in its order; `SessionDescription.encode` writes
it strictly.  An exchange goes::

    offer = parse(body)                                   # theirs
    choice = choose(offer, [PCMA, PCMU])                  # None: answer 488
    body = answer(offer, choice, address, port).encode()

or, with ours first, `make_offer` and then `accept` on what comes back.

Directions are always told from our own side, except `MediaDescription.direction`, which is what
its text says.
"""

from gateway.protocols.sdp_description import (
    CN,
    CN_16,
    G722,
    G729,
    GSM,
    L16,
    L16_8,
    MAX_FORMATS,
    MAX_LINES,
    MAX_MEDIA,
    MAX_OCTETS,
    PCMA,
    PCMU,
    STATIC,
    TELEPHONE_EVENT,
    TELEPHONE_EVENT_16,
    Attribute,
    Codec,
    Direction,
    MediaDescription,
    SdpError,
    SessionDescription,
    direction,
    parse,
)
from gateway.protocols.sdp_exchange import (
    PROTOCOLS,
    RTCP_XR,
    Choice,
    accept,
    answer,
    choose,
    make_offer,
)

__all__ = [
    "CN",
    "CN_16",
    "G722",
    "G729",
    "GSM",
    "L16",
    "L16_8",
    "MAX_FORMATS",
    "MAX_LINES",
    "MAX_MEDIA",
    "MAX_OCTETS",
    "PCMA",
    "PCMU",
    "PROTOCOLS",
    "RTCP_XR",
    "STATIC",
    "TELEPHONE_EVENT",
    "TELEPHONE_EVENT_16",
    "Attribute",
    "Choice",
    "Codec",
    "Direction",
    "MediaDescription",
    "SdpError",
    "SessionDescription",
    "accept",
    "answer",
    "choose",
    "direction",
    "make_offer",
    "parse",
]
