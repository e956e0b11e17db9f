"""Messages that cost as much as a message can: whole of what one datagram may hold, in one place.

What would be tried again at each character, parsed piece by piece, or looked up for each line.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.reliability.malformed import FIELDS, SDP, message

ROOM = 60_000


def row(piece: bytes, room: int = ROOM) -> bytes:
    return piece * (room // len(piece))


VIA = b"SIP/2.0/UDP %(host)s:%(port)d;branch=z9hG4bK%(n)x"
PERSON = b"<sip:bad@%(host)s>;tag=%(n)x"
HEADERS: dict[str, tuple[bytes, bytes]] = {
    "Vias": (b"Via", VIA + row(b",SIP/2.0/UDP a")),
    "Via of parameters": (b"Via", VIA + row(b";a=b")),
    "Via of quoted pairs": (b"Via", VIA + b';x="' + row(b'\\"') + b'"'),
    "Via of strings": (b"Via", VIA + row(b';x=","')),
    "Via of commas": (b"Via", VIA + b';x="1"' + row(b",")),
    "name of quoted pairs": (b"From", b'"' + row(b'\\"') + b'" ' + PERSON),
    "name without end": (b"From", b'"' + row(b'\\"') + b" " + PERSON),
    "name of blanks": (b"From", b"a" + row(b" ") + b"x"),
    "name of words": (b"From", row(b"a ") + b"x"),
    "blanks behind": (b"From", b"<sip:a@b>" + row(b" ") + b"x"),
    "parameters": (b"From", PERSON + row(b";a")),
    "parameters and blanks": (b"From", PERSON + row(b" ; a = b")),
    "tags": (b"From", b"<sip:a@b" + row(b">;tag=1")),
    "parameters of a URI": (b"From", b"<sip:a@b" + row(b";a=b") + b">;tag=1"),
    "escapes": (b"From", b"<sip:" + row(b"%41") + b"@b>;tag=1"),
    "equals": (b"To", b"a" + row(b"=") + b'"'),
    "Contacts": (b"Contact", row(b"<sip:a@b>,") + b"<sip:a@b>"),
    "Contacts with parameters": (b"Contact", row(b"<sip:a@b>;q=0.5,") + b"<sip:a@b>"),
    "Call-ID": (b"Call-ID", row(b"c")),
    "digits of CSeq": (b"CSeq", row(b"1") + b" INVITE"),
    "type of parameters": (b"Content-Type", b"application/sdp" + row(b";a=b")),
    "Supported": (b"Supported", row(b"a,") + b"b"),
    "Require": (b"Require", row(b"a,") + b"b"),
    "Allow": (b"Allow", row(b"INVITE,") + b"ACK"),
    "Accept": (b"Accept", row(b"a/b;q=0.5,") + b"c/d"),
    "Accept of commas": (b"Accept", row(b",") + b'"'),
    "Route": (b"Route", row(b"<sip:a;lr>,") + b"<sip:b;lr>"),
    "Record-Route": (b"Record-Route", row(b"<sip:a;lr>,") + b"<sip:b;lr>"),
    "History-Info": (b"History-Info", row(b"<sip:a@b>;index=1.1,") + b"<sip:a@b>"),
    "Diversion": (b"Diversion", row(b"<sip:a@b>;reason=no-answer,") + b"<sip:a@b>"),
    "asserted": (b"P-Asserted-Identity", row(b"<sip:a@b>,") + b"<sip:a@b>"),
    "Alert-Info": (b"Alert-Info", row(b"<http://a/b>;info=c,") + b"<http://a/b>"),
    "Replaces": (b"Replaces", b"1;to-tag=2;from-tag=3" + row(b";a")),
    "proof of parameters": (b"Authorization", b"Digest " + row(b'a="b",') + b'c="d"'),
    "proof of a name": (b"Authorization", b"Digest " + row(b"a")),
    "proof of quoted pairs": (b"Authorization", b'Digest username="' + row(b'\\"') + b'"'),
    "proof of blanks": (b"Authorization", b"Digest a=" + row(b" ") + b'"'),
    "precedence": (b"Resource-Priority", row(b"wps.0,") + b"dsn.flash"),
    "folds": (b"X", b"a" + row(b"\r\n a")),
    "blanks before no fold": (b"X", b"a" + row(b" ") + b"b\r\n c"),
    "blanks before a fold": (b"X", b"a" + row(b" ") + b"\r\n c"),
}
MEDIA = b"m=audio 9000 RTP/AVP 0\r\n"
HEAD = SDP[: SDP.index(b"m=")]
KEY = b"inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"
BODIES: dict[str, bytes] = {
    "media": HEAD + row(MEDIA),
    "refused media": HEAD + row(b"m=audio 0 RTP/AVP 0\r\n"),
    "100 media": HEAD + 100 * (MEDIA + b"a=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n"),
    "100 secured media": HEAD + 100 * (
        b"m=audio 9 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 " + KEY + b"\r\n"
    ),
    "payload types": HEAD + b"m=audio 9000 RTP/AVP" + row(b" 0") + b"\r\n",
    "names": HEAD + MEDIA + row(b"a=rtpmap:97 G722/8000\r\n"),
    "events": HEAD + MEDIA + b"a=fmtp:0 " + row(b"0-15,") + b"1\r\n",
    "secrets": HEAD + b"m=audio 9 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 "
    + row(KEY + b";") + KEY + b"\r\n",
    "attributes": HEAD + MEDIA + row(b"a=x\r\n"),
    "candidates": HEAD + MEDIA + row(b"a=candidate:1 1 UDP 1 10.0.0.1 9 typ host\r\n"),
    "a long line": HEAD + MEDIA + b"a=" + row(b"x") + b"\r\n",
}  # fmt: skip
PART = b"--b\r\nContent-Type: application/sdp\r\n\r\n" + HEAD + MEDIA
PARTS: dict[str, bytes] = {
    "parts": row(PART) + b"--b--\r\n",
    "empty parts": row(b"--b\r\n") + b"--b--\r\n",
    "no ends of parts": row(b"--b"),
    "headers of a part": b"--b\r\n" + row(b"X: y\r\n") + b"\r\nx\r\n--b--\r\n",
    "parts in parts": row(b"--b\r\nContent-Type: multipart/mixed;boundary=b\r\n\r\n"),
}


def bombs(host: str, port: int) -> Iterator[tuple[str, bytes]]:
    """All of them, each with a name; each of another call."""
    number = 500_000

    def one(spoilt: dict[bytes, bytes], body: bytes = SDP, **more: bytes) -> bytes:
        nonlocal number
        number += 1
        made = {}
        for name, value in spoilt.items():
            for sign, text in ((b"%(host)s", host.encode()), (b"%(port)d", b"%d" % port),
                               (b"%(n)x", b"%x" % number)):  # fmt: skip
                value = value.replace(sign, text)
            made[name] = value
        # What is no field of the message is a line of its own.
        extra = b"".join(
            b"%s: %s\r\n" % pair for pair in made.items() if pair[0] not in FIELDS
        )  # fmt: skip
        return message(number, host, port, made, body, extra=extra, **more)

    for name, (field, value) in HEADERS.items():
        yield name, one({field: value})
    for name, body in BODIES.items():
        yield f"SDP: {name}", one({}, body)
    for name, body in PARTS.items():
        yield name, one({b"Content-Type": b"multipart/mixed;boundary=b"}, body)
    for name, first in {
        "Request-URI of parameters": b"INVITE sip:1000@10.77.0.2" + row(b";a=b") + b" SIP/2.0",
        "Request-URI of escapes": b"INVITE sip:" + row(b"%31") + b"@10.77.0.2 SIP/2.0",
        "Request-URI of dots": b"INVITE sip:1000@" + row(b"a.") + b"b SIP/2.0",
        "blanks in the first line": b"INVITE " + row(b" ") + b"SIP/2.0",
        "words of the first line": row(b"a ") + b"SIP/2.0",
    }.items():
        yield name, one({}, first=first)
    yield "480 Vias", one({b"Via": b"\r\nVia: ".join([VIA] * 480)})
    refer = b"REFER sip:1000@10.77.0.2 SIP/2.0"
    for name, value in (("escapes", row(b"%41")), ("fields", row(b"a=b&") + b"c=d")):
        yield (
            f"Refer-To of {name}",
            one(
                {b"Refer-To": b"<sip:a@b?" + value + b">", b"CSeq": b"1 REFER"},
                b"", first=refer,
            ),
        )  # fmt: skip
    register = b"REGISTER sip:10.77.0.2 SIP/2.0"
    yield (
        "Contacts of a registration",
        one({b"Contact": HEADERS["Contacts"][1], b"CSeq": b"1 REGISTER"}, b"", first=register),
    )
