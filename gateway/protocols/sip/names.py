"""Names of the SIP registry: methods, reason phrases, compact forms, header spelling."""

from __future__ import annotations

ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS = (
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "NOTIFY",
    "OPTIONS",
)
PRACK, PUBLISH, REFER, REGISTER, SUBSCRIBE, UPDATE = (
    "PRACK",
    "PUBLISH",
    "REFER",
    "REGISTER",
    "SUBSCRIBE",
    "UPDATE",
)

METHODS = frozenset(
    (
        ACK,
        BYE,
        CANCEL,
        INFO,
        INVITE,
        MESSAGE,
        NOTIFY,
        OPTIONS,
        PRACK,
        PUBLISH,
        REFER,
        REGISTER,
        SUBSCRIBE,
        UPDATE,
    )
)
"""Methods that are known; any other is answered 501, a known but unsupported one 405."""

SAME = {method: method for method in METHODS}
"""Gives one text for each method: that of a message would stay in memory with the call."""

REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity-Info",
    437: "Unsupported Certificate",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}

COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

_SPELLED = (
    "Accept", "Accept-Encoding", "Accept-Language", "Allow", "Allow-Events",
    "Authentication-Info", "Authorization", "Call-ID", "Contact", "Content-Disposition",
    "Content-Encoding", "Content-Length", "Content-Type", "CSeq", "Date", "Diversion", "Event",
    "Expires", "From", "Max-Forwards", "Min-Expires", "Min-SE", "P-Asserted-Identity",
    "P-Preferred-Identity", "Path", "Privacy", "Proxy-Authenticate", "Proxy-Authorization",
    "Proxy-Require", "RAck", "Reason", "Record-Route", "Refer-Sub", "Refer-To", "Referred-By",
    "Replaces", "Require", "Resource-Priority", "Retry-After", "Route", "RSeq", "Server",
    "Service-Route", "Session-Expires", "Session-ID", "SIP-ETag", "SIP-If-Match", "Subject",
    "Subscription-State", "Supported", "To", "Unsupported", "User-Agent", "Via", "Warning",
    "WWW-Authenticate",
)  # fmt: skip

KEYS: dict[str, str] = {name: name.lower() for name in _SPELLED}
"""How a header is usually spelled, to the key it is filed under: saves lower() per header."""
KEYS.update({name.lower(): name.lower() for name in _SPELLED})
KEYS.update(COMPACT)
KEYS.update({short.upper(): long for short, long in COMPACT.items()})


def reason_phrase(status: int) -> str:
    """The registry's phrase, or that of the class for an unregistered code."""
    phrase = REASONS.get(status) or REASONS.get(status // 100 * 100)
    return phrase or "Unknown"
