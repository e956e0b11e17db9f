"""OpenWebNet's log-ins, client side: by allow-list, OPEN password, and HMAC (SHA-1, SHA-256).

Source: "OpenWebNet protocol" and "HMAC authentication" of the maker's public documentation.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from gateway.errors import PeerError

ACK, NACK = "*#*1##", "*#*0##"
EVENTS, COMMANDS = "*99*1##", "*99*0##"
"""What opens a session of either kind."""

_NONCE = re.compile(r"\*#(\d{1,128})##")
_PROOF = re.compile(r"\*#(\d{1,128})\*(\d{1,128})##")
_SERVER, _CLIENT = "736F70653E", "636F70653E"


def open_password(password: int, nonce: str) -> int:
    """The answer to an OPEN challenge: 32 bits turned about by each digit of the nonce."""
    value, begun = 0, False
    for digit in nonce:
        if digit != "0" and not begun:
            value, begun = password & 0xFFFFFFFF, True
        match digit:
            case "1":
                value = value >> 7 | value << 25
            case "2":
                value = value >> 4 | value << 28
            case "3":
                value = value >> 3 | value << 29
            case "4":
                value = value << 1 | value >> 31
            case "5":
                value = value << 5 | value >> 27
            case "6":
                value = value << 12 | value >> 20
            case "7":
                value = (
                    value & 0xFF00 | value << 24 | (value >> 16 & 0xFF) | (value >> 24 & 0xFF) << 16
                )
            case "8":
                value = value << 16 | (value >> 16 & 0xFF) << 8 | value >> 24
            case "9":
                value = ~value
        value &= 0xFFFFFFFF
    return value


def to_digits(text: str) -> str:
    """Hexadecimal as the bus can carry it: two decimal digits for each."""
    return "".join(f"{int(sign, 16):02}" for sign in text)


def from_digits(text: str) -> str:
    """The hexadecimal behind `to_digits`. Raises `PeerError` when there is none."""
    pairs = [int(text[at : at + 2]) for at in range(0, len(text), 2)]
    if len(text) % 2 or any(pair > 15 for pair in pairs):
        raise PeerError("digits that are no hexadecimal number")
    return "".join(f"{pair:x}" for pair in pairs)


def proofs(algorithm: str, password: str, ra: str, rb: str) -> tuple[str, str]:
    """What proves the password: of the client, and of the server. `ra`, `rb`: hexadecimal."""

    def digest(text: str) -> str:
        return hashlib.new(algorithm, text.encode()).hexdigest()

    secret = digest(password)
    return digest(ra + rb + _SERVER + _CLIENT + secret), digest(ra + rb + secret)


class Login:
    """One session being opened; driven by `begin` and by `receive` with each frame.

    `random_hex` gives so many random hexadecimal digits.
    """

    def __init__(self, session: str, password: str, random_hex: Callable[[int], str]) -> None:
        self._session, self._password, self._random_hex = session, password, random_hex
        self._step: Callable[[str], list[str]] = self._greeted
        self._algorithm = ""
        self._server_proof = ""
        self.done = False

    def begin(self) -> list[str]:
        """What we say first: nothing, the server greets."""
        self._step = self._greeted
        self.done = False
        return []

    def receive(self, frame: str) -> list[str]:
        """What to answer. Raises `PeerError` when the log-in has failed, and why."""
        if frame == NACK:
            raise PeerError("the gateway of the bus refuses the session: password or allow-list")
        return self._step(frame)

    def _greeted(self, frame: str) -> list[str]:
        if frame != ACK:
            raise PeerError(f"greeted with {frame[:40]!r}, not {ACK}")
        self._step = self._challenged
        return [self._session]

    def _challenged(self, frame: str) -> list[str]:
        if frame == ACK:
            self.done = True
            return []
        if frame in ("*98*1##", "*98*2##"):
            self._need_password()
            self._algorithm = "sha1" if frame == "*98*1##" else "sha256"
            self._step = self._nonce
            return [ACK]
        found = _NONCE.fullmatch(frame)
        if found is None:
            raise PeerError(f"no challenge that is known: {frame[:40]!r}")
        self._need_password()
        if not self._password.isdigit():
            raise PeerError("this gateway wants a numeric password")
        self._step = self._accepted
        return [f"*#{open_password(int(self._password), found[1])}##"]

    def _nonce(self, frame: str) -> list[str]:
        found = _NONCE.fullmatch(frame)
        if found is None:
            raise PeerError(f"no nonce: {frame[:40]!r}")
        ra = from_digits(found[1])
        rb = self._random_hex(hashlib.new(self._algorithm).digest_size * 2)
        ours, self._server_proof = proofs(self._algorithm, self._password, ra, rb)
        self._step = self._proved
        return [f"*#{to_digits(rb)}*{to_digits(ours)}##"]

    def _proved(self, frame: str) -> list[str]:
        found = _NONCE.fullmatch(frame)
        proof = to_digits(self._server_proof)
        if found is None or not hmac.compare_digest(found[1], proof):
            raise PeerError("the gateway of the bus does not know the password itself")
        self.done = True
        return [ACK]

    def _accepted(self, frame: str) -> list[str]:
        if frame != ACK:
            raise PeerError(f"after the password: {frame[:40]!r}")
        self.done = True
        return []

    def _need_password(self) -> None:
        if not self._password:
            raise PeerError("the gateway of the bus wants a password: set `password`")


def read_proof(frame: str) -> tuple[str, str] | None:
    """Rb and the client's proof of an HMAC log-in, both hexadecimal; None for another frame.

    Raises `PeerError` for digits that are no hexadecimal number.
    """
    found = _PROOF.fullmatch(frame)
    return (from_digits(found[1]), from_digits(found[2])) if found else None
