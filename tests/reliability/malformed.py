"""Malformed messages made from a good one: one anomaly in one place at a time.

In the manner of the PROTOS c07-sip suite (University of Oulu, 2003), which cannot be had freely any
more: each field of an INVITE takes each anomaly, and then whole messages and descriptions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

ANOMALIES: dict[str, bytes] = {
    "empty": b"",
    "space": b" " * 64,
    "long": b"a" * 5000,
    "longer": b"a" * 60000,
    "format": b"%s%n%x%d" * 20,
    "nul": b"\x00" * 20,
    "eight": bytes(range(128, 256)),
    "utf8": b"\xc0\xaf\xed\xa0\x80\xf8\x88\x80\x80\x80",
    "minus": b"-1",
    "huge": b"9" * 400,
    "int32": b"2147483648",
    "int64": b"18446744073709551616",
    "quotes": b'"' * 301,
    "angles": b"<" * 500 + b">" * 499,
    "semicolons": b";" * 3000,
    "commas": b"," * 3000,
    "colons": b"sip:" * 700,
    "brackets": b"[::" * 300,
    "at": b"@" * 2000,
    "percent": b"%" * 1000 + b"%00%zz%",
    "slashes": b"../" * 500,
    "fold": b"a\r\n b\r\n\tc" * 100,
    "cr": b"a\rb\nc",
    "comment": b"(" * 2000,
    "parameters": b";a=b" * 2000,
    "equals": b"=" * 2000,
    "escape": b'"\\' * 800,
}
FIELDS = {
    b"Via": b"SIP/2.0/UDP %(host)s:%(port)d;branch=z9hG4bK%(n)x",
    b"From": b"<sip:bad@%(host)s>;tag=%(n)x",
    b"To": b"<sip:1000@10.77.0.2>",
    b"Call-ID": b"bad%(n)d@%(host)s",
    b"CSeq": b"1 INVITE",
    b"Max-Forwards": b"70",
    b"Contact": b"<sip:bad@%(host)s:%(port)d>",
    b"Content-Type": b"application/sdp",
    b"Expires": b"60",
    b"Session-Expires": b"90;refresher=uac",
    b"Supported": b"timer",
    b"Route": b"<sip:10.77.0.2;lr>",
    b"Authorization": b'Digest username="u", realm="r", nonce="n", uri="sip:x", response="0"',
    b"Replaces": b"1;to-tag=2;from-tag=3",
    b"Privacy": b"id",
    b"P-Asserted-Identity": b"<sip:1@x>",
    b"Date": b"Sat, 13 Nov 2010 23:29:00 GMT",
}
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 %(host)s\r\ns=-\r\nc=IN IP4 %(host)s\r\nt=0 0\r\n"
    b"m=audio 9000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
)


def _fill(text: bytes, number: int, host: str, port: int) -> bytes:
    # No formatting: what is put in may hold percent signs of its own.
    for name, value in ((b"%(host)s", host), (b"%(port)d", port), (b"%(n)d", number)):
        text = text.replace(name, str(value).encode())
    return text.replace(b"%(n)x", b"%x" % number)


def message(
    number: int, host: str, port: int, spoilt: dict[bytes, bytes], body: bytes = SDP,
    first: bytes = b"INVITE sip:1000@10.77.0.2 SIP/2.0", extra: bytes = b"",
    length: bytes = b"",
) -> bytes:  # fmt: skip
    """An INVITE whose fields are as `spoilt` says."""

    def fill(text: bytes) -> bytes:
        return _fill(text, number, host, port)

    lines = [first]
    for name, value in FIELDS.items():
        if name in (b"Replaces", b"Authorization") and name not in spoilt:
            continue
        lines.append(name + b": " + spoilt.get(name, fill(value)))
    body = fill(body)
    lines.append(b"Content-Length: " + (length or b"%d" % len(body)))
    return (b"\r\n".join(lines) + b"\r\n" + extra + b"\r\n" + body)[:65000]


def messages(host: str, port: int, seed: int = 22) -> Iterator[tuple[str, bytes]]:
    """All of them, each with a name."""
    number = 0
    for field in FIELDS:
        for name, anomaly in ANOMALIES.items():
            number += 1
            whole = {field: anomaly}
            yield f"{field.decode()}={name}", message(number, host, port, whole)
        for name in ("long", "format", "quotes", "parameters", "eight"):
            # Behind what is good: a parser gets further.
            number += 1
            text = _fill(FIELDS[field], number, host, port)
            yield (
                f"{field.decode()}+{name}",
                message(number, host, port, {field: text + b";x=" + ANOMALIES[name]}),
            )
    for name, anomaly in ANOMALIES.items():
        number += 1
        for what, first in (
            ("method", anomaly[:3000] + b" sip:1000@10.77.0.2 SIP/2.0"),
            ("uri", b"INVITE " + anomaly[:9000] + b" SIP/2.0"),
            ("user", b"INVITE sip:" + anomaly[:9000] + b"@10.77.0.2 SIP/2.0"),
            ("version", b"INVITE sip:1000@10.77.0.2 " + anomaly[:3000]),
            ("status", b"SIP/2.0 " + anomaly[:3000] + b" OK"),
        ):
            yield f"first/{what}={name}", message(number, host, port, {}, first=first)
        for line in (b"o=", b"c=IN IP4 ", b"m=audio ", b"m=", b"a=rtpmap:", b"a=crypto:", b"t="):
            yield (
                f"sdp/{line.decode().strip()}{name}",
                message(number, host, port, {}, SDP + line + anomaly[:9000] + b"\r\n"),
            )
        yield f"length={name}", message(number, host, port, {}, length=anomaly[:3000] or b" ")
    for name, body in {
        "lines": b"v=0\r\n" + b"a=x:" * 15000,
        "media": SDP + b"m=audio 9 RTP/AVP 0\r\n" * 2500,
        "formats": SDP.replace(b"RTP/AVP 0 101", b"RTP/AVP" + b" 0" * 20000),
        "attributes": SDP + b"a=fmtp:101 0-15\r\n" * 3000,
        "rtpmaps": SDP + b"".join(b"a=rtpmap:%d X/8000\r\n" % (n % 128) for n in range(2500)),
        "crypto": SDP + b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA\r\n" * 1000,
        "nothing": b"", "garbage": random.Random(seed).randbytes(40000),
    }.items():  # fmt: skip
        number += 1
        yield f"sdp bomb {name}", message(number, host, port, {}, body)
    for name, extra in {
        "headers": b"X: y\r\n" * 9000,
        "vias": b"Via: SIP/2.0/UDP 10.77.0.1;branch=z9hG4bKa\r\n" * 1200,
        "routes": b"Route: <sip:a;lr>,<sip:b;lr>\r\n" * 1800,
        "contacts": b"Contact: <sip:a@b>\r\n" * 2500,
        "froms": b"From: <sip:a@b>;tag=1\r\n" * 2000,
        "lengths": b"Content-Length: 0\r\n" * 2500,
        "requires": b"Require: " + b"a," * 20000 + b"\r\n",
        "accepts": b"Accept: " + b"a/b;q=0.5," * 5000 + b"\r\n",
    }.items():
        number += 1
        yield f"bomb {name}", message(number, host, port, {}, extra=extra)
    chance = random.Random(seed)
    for n in range(300):
        number += 1
        data = bytearray(message(number, host, port, {}))
        for _ in range(chance.randrange(1, 12)):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.randrange(30)]
                case 2:
                    data[at:at] = chance.randbytes(chance.randrange(20))
                case _:
                    data[at:at] = data[at : at + chance.randrange(200)]
        yield f"mutation {n}", bytes(data)[:65000]
