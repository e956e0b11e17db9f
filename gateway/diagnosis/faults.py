"""Faults: what can be wrong, the layer it is in, and which of several explains the others."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Layer(StrEnum):
    """Where to look."""

    NONE = "none"
    GATEWAY = "gateway"
    SIGNALLING = "signalling"
    NETWORK = "network"
    MEDIA = "media"
    FAR_END = "far end"
    LINE = "line"
    RADIO = "radio"
    DIGITS = "digits"


class Code(StrEnum):
    """A verdict. In the order in which one explains those behind it."""

    CRASHED = "crashed"
    ADAPTER_LOST = "adapter-lost"
    NO_LINE_CURRENT = "no-line-current"
    TRUNK_DOWN = "trunk-down"
    REGISTRATION = "registration"
    DEVICE_DOWN = "device-down"
    NO_ROUTE = "no-route"
    REFUSED = "refused"
    FLOOR_HELD = "floor-held"
    NO_CARRIER = "no-carrier"
    HOLD = "hold"
    SDP_ADDRESS = "sdp-address"
    ELSEWHERE = "elsewhere"
    PAYLOAD_TYPE = "payload-type"
    SRTP = "srtp"
    NO_PACKETS = "no-packets"
    NOT_SENT = "not-sent"
    NO_STREAM = "no-stream"
    CUT_OFF = "cut-off"
    EARLY_END = "early-end"
    MUTED = "muted"
    SILENCE = "silence"
    DTMF_NOT_UNDERSTOOD = "dtmf-not-understood"
    DTMF_DOUBLED = "dtmf-doubled"
    DTMF_DROPPED = "dtmf-dropped"
    LOSS = "loss"
    STARVED = "starved"
    JITTER = "jitter"
    CLIPPED = "clipped"
    LOW_LEVEL = "low-level"
    ECHO = "echo"
    CLOCK_DRIFT = "clock-drift"


RANK: Final = {code: rank for rank, code in enumerate(Code)}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong with one leg, or with what it needed."""

    code: Code
    layer: Layer
    leg: str
    """Empty: it concerns the call as a whole."""
    what: str
    """In words that follow the leg's name."""
    remedy: str
    next: str = ""
    """The command that shows more."""
