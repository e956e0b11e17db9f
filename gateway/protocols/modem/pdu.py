"""Pdu: a text message as a module gives and takes it (3GPP TS 23.040, TS 23.038, TS 27.005)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gateway.errors import GatewayError, UsageError

MAX_PARTS: Final = 16
"""Short messages that a text may be cut into."""
_SEPTETS: Final = (160, 153)
"""Septets of a short message alone, and of one of several (with 7 for its header)."""
_UNITS: Final = (70, 67)
"""The same in UTF-16 units."""
_ESCAPE: Final = 0x1B
_BASIC: Final = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""TS 23.038 section 6.2.1."""
_MORE: Final = {
    0x0A: "\f", 0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]",
    0x40: "|", 0x65: "€",
}  # fmt: skip
"""After an escape (section 6.2.1.1)."""
_CODES: Final = {sign: bytes((code,)) for code, sign in enumerate(_BASIC) if code != _ESCAPE} | {
    sign: bytes((_ESCAPE, code)) for code, sign in _MORE.items()
}
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){10,256}")
_BCD: Final = "0123456789*#abc"
_VALID_A_DAY: Final = 0xA7
"""TS 23.040 section 9.2.3.12.1."""


class PduError(GatewayError):
    """Octets that are no text message."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """Which one it is of several that make one text (TS 23.040 section 9.2.3.24.1)."""

    reference: int
    total: int
    number: int
    """From 1."""


class Received(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A short message that came."""

    sender: str
    """A number, or the name that a service gives itself."""
    text: str
    part: Part | None = None
    """None: it is the whole text."""


class Submitted(msgspec.Struct, frozen=True, gc=False):
    """A short message to be sent."""

    n_octets: int
    """Without the service centre's address, as ``AT+CMGS`` takes it."""
    hexadecimal: str


def received(line: str) -> Received:
    """An SMS-DELIVER with the service centre's address before it, in hexadecimal digits.

    Raises `PduError`: it is none, or it holds no text.
    """
    if not _HEX.fullmatch(line):
        raise PduError("not 10 to 256 octets in hexadecimal digits")
    octets = bytes.fromhex(line)
    try:
        return _deliver(octets[1 + octets[0] :])
    except IndexError:
        raise PduError("it ends too early") from None


def submitted(number: str, text: str, reference: int) -> list[Submitted]:
    """SMS-SUBMITs of a text, several if one does not hold it; valid for a day. reference: tells
    the parts of this text from those of others, 0 to 255.

    Raises `UsageError`: no number, an empty text, or one of more than `MAX_PARTS`.
    """
    if not re.fullmatch(r"\+?[0-9*#]{1,20}", number):
        raise UsageError(f"{number!r} is no number to send a text to")
    text = text.encode("utf-16-le", "replace").decode("utf-16-le", "replace")
    if not text:
        raise UsageError("there is no text to be sent")
    plain = all(sign in _CODES for sign in text)
    pieces = _cut([_CODES[s] if plain else s.encode("utf-16-be") for s in text],
                  _SEPTETS if plain else tuple(2 * n for n in _UNITS))  # fmt: skip
    if len(pieces) > MAX_PARTS:
        raise UsageError(f"the text takes {len(pieces)} short messages, at most {MAX_PARTS}")
    digits = number.removeprefix("+")
    to = bytes((len(digits), 0x91 if number[0] == "+" else 0x81)) + _semi_octets(digits)
    found = []
    for n, piece in enumerate(pieces, 1):
        header = bytes((5, 0, 3, reference & 0xFF, len(pieces), n)) if len(pieces) > 1 else b""
        kind = 0x11 | (0x40 if header else 0)
        if plain:
            fill = -len(header) * 8 % 7
            length = (len(header) * 8 + fill) // 7 + len(piece)
            data = header + _packed(piece, fill)
        else:
            data = header + piece
            length = len(data)
        pdu = (
            bytes((kind, 0)) + to
            + bytes((0, 0x00 if plain else 0x08, _VALID_A_DAY, length)) + data
        )  # fmt: skip
        found.append(Submitted(len(pdu), "00" + pdu.hex().upper()))
    return found


def _cut(signs: list[bytes], most: tuple[int, ...]) -> list[bytes]:
    """Pieces of whole signs: neither an escape nor a surrogate is parted from what follows it."""
    whole = b"".join(signs)
    if len(whole) <= most[0]:
        return [whole]
    pieces = [bytearray()]
    for sign in signs:
        if len(pieces[-1]) + len(sign) > most[1]:
            pieces.append(bytearray())
        pieces[-1] += sign
    return [bytes(piece) for piece in pieces]


def _deliver(pdu: bytes) -> Received:
    if pdu[0] & 0b11:
        raise PduError("it is no SMS-DELIVER")
    n_digits, kind = pdu[1], pdu[2]
    at = 3 + (n_digits + 1) // 2
    sender = _address(pdu[3:at], n_digits, kind)
    coding, n = pdu[at + 1], pdu[at + 9]
    data = pdu[at + 10 :]
    alphabet = _alphabet(coding)
    if len(data) < (n if alphabet else (7 * n + 7) // 8):
        raise PduError("its text ends too early")
    header = 1 + data[0] if pdu[0] & 0x40 else 0
    part = _part(data[1:header]) if header else None
    if header > len(data):
        raise PduError("its header ends too early")
    if not alphabet:
        skipped = (8 * header + 6) // 7
        text = _from_septets(_unpacked(data, n)[skipped:])
    elif alphabet == 2:
        text = data[header:n].decode("utf-16-be", "replace")
    else:
        raise PduError("it holds data, no text")
    return Received(sender=sender, text=text, part=part)


def _alphabet(coding: int) -> int:
    """0: seven bits, 1: data, 2: UCS-2 (TS 23.038 section 4)."""
    group = coding >> 4
    if group < 0x8:
        if coding & 0x20:
            raise PduError("it is compressed")
        return min(coding >> 2 & 0b11, 2) if coding & 0b1100 != 0b1100 else 0
    if group == 0xE:
        return 2
    if group == 0xF:
        return coding >> 2 & 1
    return 0


def _part(header: bytes) -> Part | None:
    at = 0
    while at + 1 < len(header):
        element, n = header[at], header[at + 1]
        value = header[at + 2 : at + 2 + n]
        if element == 0 and len(value) == 3:
            found = Part(value[0], value[1], value[2])
        elif element == 8 and len(value) == 4:
            found = Part(value[0] << 8 | value[1], value[2], value[3])
        else:
            at += 2 + n
            continue
        return found if 0 < found.number <= found.total and found.total > 1 else None
    return None


def _address(octets: bytes, n: int, kind: int) -> str:
    if kind >> 4 & 0b111 == 0b101:
        return _from_septets(_unpacked(octets, n * 4 // 7)).strip()
    digits = [nibble for octet in octets for nibble in (octet & 0xF, octet >> 4)][:n]
    text = "".join(_BCD[digit] if digit < len(_BCD) else "" for digit in digits)
    return f"+{text}" if kind >> 4 & 0b111 == 0b001 and text else text


def _semi_octets(digits: str) -> bytes:
    codes = [_BCD.index(digit) for digit in digits] + [0xF] * (len(digits) % 2)
    return bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))


def _packed(septets: bytes, fill: int) -> bytes:
    bits = sum(septet << 7 * n for n, septet in enumerate(septets)) << fill
    return bits.to_bytes((7 * len(septets) + fill + 7) // 8, "little")


def _unpacked(octets: bytes, n: int) -> bytes:
    bits = int.from_bytes(octets, "little")
    return bytes(bits >> 7 * k & 0x7F for k in range(n))


def _from_septets(septets: bytes) -> str:
    text, escaped = [], False
    for septet in septets:
        if escaped:
            # Who does not know it shows the basic sign (section 6.2.1.1).
            text.append(_MORE.get(septet, _BASIC[septet]))
            escaped = False
        elif septet == _ESCAPE:
            escaped = True
        else:
            text.append(_BASIC[septet])
    return "".join(text).replace("\x1b", " ")
