"""Why a leg ended: our words, and what they are in Q.850 and SIP.

Q.850 is the hub: each cause has one Q.850 value; towards SIP and back the tables of RFC 3398
sections 7.2.4.1, 8.2.6.1 and 7.2.6 apply. The tests hold these tables against the RFC's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why a leg ended or could not begin."""

    UNALLOCATED = "unallocated"
    NO_ROUTE_NETWORK = "no-route-network"
    NO_ROUTE = "no-route"
    PREEMPTED = "preempted"
    NORMAL = "normal"
    BUSY = "busy"
    NO_RESPONSE = "no-response"
    NO_ANSWER = "no-answer"
    ABSENT = "absent"
    REJECTED = "rejected"
    NUMBER_CHANGED = "number-changed"
    REDIRECTED = "redirected"
    EXCHANGE_ROUTING_ERROR = "exchange-routing-error"
    ANSWERED_ELSEWHERE = "answered-elsewhere"
    OUT_OF_ORDER = "out-of-order"
    ADDRESS_INCOMPLETE = "address-incomplete"
    FACILITY_REJECTED = "facility-rejected"
    UNSPECIFIED = "unspecified"
    NO_CIRCUIT = "no-circuit"
    NETWORK_OUT_OF_ORDER = "network-out-of-order"
    TEMPORARY_FAILURE = "temporary-failure"
    CONGESTION = "congestion"
    RESOURCE_UNAVAILABLE = "resource-unavailable"
    BARRED = "barred"
    NOT_AUTHORIZED = "not-authorized"
    NOT_AVAILABLE = "not-available"
    SERVICE_UNAVAILABLE = "service-unavailable"
    NOT_ACCEPTABLE = "not-acceptable"
    RESTRICTED_DIGITAL = "restricted-digital"
    NOT_IMPLEMENTED = "not-implemented"
    NOT_MEMBER = "not-member"
    INCOMPATIBLE = "incompatible"
    TIMER_EXPIRED = "timer-expired"
    PROTOCOL_ERROR = "protocol-error"
    INTERWORKING = "interworking"
    CANCELLED = "cancelled"
    """The caller gave up before an answer; normal clearing towards the callee."""
    MEDIA_TIMEOUT = "media-timeout"
    """Audio stopped arriving for longer than the leg allows."""
    ADAPTER_LOST = "adapter-lost"
    """The device or process behind the leg went away."""
    SHUTDOWN = "shutdown"
    """The gateway was stopped."""
    CRASHED = "crashed"
    """Written into the record, after a restart, of a leg that the gateway's death cut off."""


Q850: Final[dict[Cause, int]] = {
    Cause.UNALLOCATED: 1,
    Cause.NO_ROUTE_NETWORK: 2,
    Cause.NO_ROUTE: 3,
    Cause.PREEMPTED: 8,
    Cause.NORMAL: 16,
    Cause.BUSY: 17,
    Cause.NO_RESPONSE: 18,
    Cause.NO_ANSWER: 19,
    Cause.ABSENT: 20,
    Cause.REJECTED: 21,
    Cause.NUMBER_CHANGED: 22,
    Cause.REDIRECTED: 23,
    Cause.EXCHANGE_ROUTING_ERROR: 25,
    Cause.ANSWERED_ELSEWHERE: 26,
    Cause.OUT_OF_ORDER: 27,
    Cause.ADDRESS_INCOMPLETE: 28,
    Cause.FACILITY_REJECTED: 29,
    Cause.UNSPECIFIED: 31,
    Cause.NO_CIRCUIT: 34,
    Cause.NETWORK_OUT_OF_ORDER: 38,
    Cause.TEMPORARY_FAILURE: 41,
    Cause.CONGESTION: 42,
    Cause.RESOURCE_UNAVAILABLE: 47,
    Cause.BARRED: 55,
    Cause.NOT_AUTHORIZED: 57,
    Cause.NOT_AVAILABLE: 58,
    Cause.SERVICE_UNAVAILABLE: 63,
    Cause.NOT_ACCEPTABLE: 65,
    Cause.RESTRICTED_DIGITAL: 70,
    Cause.NOT_IMPLEMENTED: 79,
    Cause.NOT_MEMBER: 87,
    Cause.INCOMPATIBLE: 88,
    Cause.TIMER_EXPIRED: 102,
    Cause.PROTOCOL_ERROR: 111,
    Cause.INTERWORKING: 127,
    Cause.CANCELLED: 16,
    Cause.MEDIA_TIMEOUT: 41,
    Cause.ADAPTER_LOST: 27,
    Cause.SHUTDOWN: 41,
    Cause.CRASHED: 41,
}
"""ITU-T Q.850 cause value of each cause."""

_FROM_Q850: Final[dict[int, Cause]] = {}
for _cause, _value in Q850.items():
    _FROM_Q850.setdefault(_value, _cause)

# RFC 3398 section 7.2.4.1; a value that is not listed there is answered 500.
_Q850_TO_SIP: Final[dict[int, int]] = {
    1: 404, 2: 404, 3: 404, 17: 486, 18: 408, 19: 480, 20: 480, 21: 403, 22: 410, 23: 410,
    26: 404, 27: 502, 28: 484, 29: 501, 31: 480, 34: 503, 38: 503, 41: 503, 42: 503, 47: 503,
    55: 403, 57: 403, 58: 503, 65: 488, 70: 488, 79: 501, 87: 403, 88: 503, 102: 504, 111: 500,
    127: 500,
}  # fmt: skip

# RFC 3398 section 8.2.6.1; a status that is not listed there becomes 31. The three that the RFC
# leaves open (487, 488, 606) get the cause that says the same.
_SIP_TO_Q850: Final[dict[int, int]] = {
    400: 41, 401: 21, 402: 21, 403: 21, 404: 1, 405: 63, 406: 79, 407: 21, 408: 102, 410: 22,
    413: 127, 414: 127, 415: 79, 416: 127, 420: 127, 421: 127, 423: 127, 480: 18, 481: 41,
    482: 25, 483: 25, 484: 28, 485: 1, 486: 17, 487: 16, 488: 65, 500: 41, 501: 79, 502: 38,
    503: 41, 504: 102, 505: 127, 513: 127, 600: 17, 603: 21, 604: 1, 606: 65,
}  # fmt: skip

# Where no ISUP is involved the words below have a SIP status of their own that says more than
# the detour over Q.850 would (RFC 3398 knows neither pre-emption nor a lack of authorisation).
_SIP_OWN: Final[dict[Cause, int]] = {
    Cause.PREEMPTED: 503,
    Cause.NORMAL: 480,
    Cause.CANCELLED: 487,
    Cause.EXCHANGE_ROUTING_ERROR: 483,
    Cause.SERVICE_UNAVAILABLE: 503,
}


def from_q850(value: int) -> Cause:
    """Our word for a Q.850 value; an unknown value is `Cause.UNSPECIFIED` (Q.850 section 2.2)."""
    return _FROM_Q850.get(value, Cause.UNSPECIFIED)


def from_sip(status: int) -> Cause:
    """Our word for a SIP final status of 300 and above (RFC 3398 section 8.2.6.1)."""
    if status in (301, 302, 305, 380):
        return Cause.REDIRECTED
    return from_q850(_SIP_TO_Q850.get(status, 31))


def to_q850(cause: Cause) -> int:
    """The Q.850 value of a cause."""
    return Q850[cause]


def to_sip(cause: Cause) -> int:
    """The SIP status that refuses a call for this cause (RFC 3398 section 7.2.4.1)."""
    own = _SIP_OWN.get(cause)
    return own if own is not None else _Q850_TO_SIP.get(Q850[cause], 500)
