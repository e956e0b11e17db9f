"""Caller ID messages: SDMF and MDMF (Telcordia GR-30-CORE, ETSI EN 300 659-3) and DTMF.

Octets only; the FSK modem that carries them is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.errors import PeerError, UsageError

SDMF: Final = 0x04
MDMF: Final = 0x80
SDMF_MESSAGE_WAITING: Final = 0x06
MDMF_MESSAGE_WAITING: Final = 0x82

# EN 300 659-3 section 5.4: parameter types
_DATE, _NUMBER, _NO_NUMBER, _NAME, _NO_NAME, _VISUAL = 0x01, 0x02, 0x04, 0x07, 0x08, 0x0B

PRIVATE: Final = "P"
OUT_OF_AREA: Final = "O"


@dataclass(frozen=True, slots=True)
class CallerId:
    """Who calls."""

    number: str = ""
    name: str = ""
    stamp: str = ""
    """``MMDDHHMM`` in the exchange's local time; empty: none."""
    reason: str = ""
    """Why there is no number: ``P`` withheld, ``O`` not available; else empty."""
    messages: bool | None = None
    """Not a call but a message-waiting notice: lamp on or off."""


def checksum(octets: bytes) -> int:
    """What makes the sum of a message zero modulo 256."""
    return -sum(octets) & 0xFF


def _ascii(what: str, text: str, longest: int) -> bytes:
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("ascii", "replace")
    if len(raw) > longest:
        raise UsageError(f"caller ID: {what} {text!r} is longer than {longest} octets")
    return raw


def _check_stamp(stamp: str) -> None:
    if stamp and (len(stamp) != 8 or not (stamp.isascii() and stamp.isdigit())):
        raise UsageError(f"caller ID: stamp {stamp!r} is not MMDDHHMM")


def build_mdmf(caller: CallerId) -> bytes:
    """A multiple data message with its checksum.

    Raises UsageError: a field is too long, or the stamp is not eight digits.
    """
    _check_stamp(caller.stamp)
    fields: list[tuple[int, bytes]] = []
    if caller.stamp:
        fields.append((_DATE, caller.stamp.encode("ascii")))
    if caller.number:
        fields.append((_NUMBER, _ascii("number", caller.number, 20)))
    else:
        fields.append((_NO_NUMBER, (caller.reason or OUT_OF_AREA).encode("ascii", "replace")[:1]))
    if caller.name:
        fields.append((_NAME, _ascii("name", caller.name, 50)))
    body = b"".join(bytes((kind, len(value))) + value for kind, value in fields)
    message = bytes((MDMF, len(body))) + body
    return message + bytes((checksum(message),))


def build_sdmf(caller: CallerId) -> bytes:
    """A single data message: stamp and number, or the reason for none.

    Raises UsageError: no stamp, or a field is too long.
    """
    if not caller.stamp:
        raise UsageError("caller ID: SDMF needs a stamp")
    _check_stamp(caller.stamp)
    number = _ascii("number", caller.number or caller.reason or OUT_OF_AREA, 20)
    body = caller.stamp.encode("ascii") + number
    message = bytes((SDMF, len(body))) + body
    return message + bytes((checksum(message),))


def build_message_waiting(on: bool) -> bytes:
    """A message-waiting notice (MDMF, visual indicator 0xFF or 0)."""
    message = bytes((MDMF_MESSAGE_WAITING, 3, _VISUAL, 1, 0xFF if on else 0))
    return message + bytes((checksum(message),))


def parse(message: bytes) -> CallerId:
    """Read a message: type, length, body, checksum; octets after the checksum are ignored.

    Raises PeerError: too short, wrong checksum, unknown type.
    """
    if len(message) < 3 or len(message) < message[1] + 3:
        raise PeerError(f"caller ID: message of {len(message)} octets is cut short")
    kind, length = message[0], message[1]
    body = message[2 : 2 + length]
    if (sum(message[: 3 + length])) & 0xFF:
        raise PeerError(f"caller ID: checksum is {message[2 + length]:#04x}, not its message's")
    if kind == SDMF:
        return _single(body)
    if kind in (MDMF, MDMF_MESSAGE_WAITING):
        return _multiple(body)
    if kind == SDMF_MESSAGE_WAITING:
        # three octets of 0x42 light the lamp, of 0x6F put it out (GR-1401-CORE)
        return CallerId(messages=body[:1] == b"\x42")
    raise PeerError(f"caller ID: message type {kind:#04x} is not a call or message waiting")


def _text(raw: bytes) -> str:
    return "".join(c for c in raw.decode("latin-1") if c.isprintable()).strip()


def _stamp(raw: bytes) -> str:
    text = _text(raw)
    return text if len(text) == 8 and text.isascii() and text.isdigit() else ""


def _single(body: bytes) -> CallerId:
    number = _text(body[8:])
    if number in (PRIVATE, OUT_OF_AREA):
        return CallerId(stamp=_stamp(body[:8]), reason=number)
    return CallerId(number=number, stamp=_stamp(body[:8]))


def _multiple(body: bytes) -> CallerId:
    found: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(body):
        kind, length = body[at], body[at + 1]
        if at + 2 + length > len(body):
            raise PeerError(f"caller ID: parameter {kind:#04x} reaches beyond its message")
        found.setdefault(kind, body[at + 2 : at + 2 + length])
        at += 2 + length
    lamp = found.get(_VISUAL)
    return CallerId(
        number=_text(found.get(_NUMBER, b"")),
        name=_text(found.get(_NAME, b"")),
        stamp=_stamp(found.get(_DATE, b"")),
        reason=_text(found.get(_NO_NUMBER, b""))[:1],
        messages=None if lamp is None else lamp[:1] not in (b"", b"\0"),
    )


# -- DTMF caller ID (ETSI EN 300 659-1 annex B; several national plans) ----------------------------

# code after B for a number that is not shown
_REASONS: Final = {"00": OUT_OF_AREA, "10": PRIVATE}


def build_dtmf(caller: CallerId, *, start: str = "A", end: str = "C") -> str:
    """The digits to send, such as ``A5551234C``; a withheld number is ``B10``.

    Raises UsageError: the number has characters that DTMF has not.
    """
    if not caller.number:
        code = next((c for c, reason in _REASONS.items() if reason == caller.reason), "00")
        return f"B{code}{end}"
    if not caller.number.isascii() or not caller.number.isdigit():
        raise UsageError(f"caller ID: {caller.number!r} cannot be sent as DTMF digits")
    return f"{start}{caller.number}{end}"


def parse_dtmf(digits: str, *, starts: str = "AD", ends: str = "C#") -> CallerId:
    """Read a DTMF caller ID; an end code may be missing.

    Raises PeerError: it does not begin with a start code, or holds something else than digits.
    """
    body = digits.rstrip(ends)
    if body[:1] == "B":
        return CallerId(reason=_REASONS.get(body[1:3], OUT_OF_AREA))
    if not body or body[0] not in starts:
        raise PeerError(f"caller ID: DTMF {digits[:20]!r} does not begin with one of {starts}B")
    number = body[1:]
    if not number.isascii() or not number.isdigit() or len(number) > 20:
        raise PeerError(f"caller ID: DTMF {digits[:20]!r} is not a start code and 1 to 20 digits")
    return CallerId(number=number)
