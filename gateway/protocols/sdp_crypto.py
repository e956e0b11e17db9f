"""Keys of SRTP in session descriptions: the crypto attribute (RFC 4568, suites of RFC 7714 too).

`parse` reads one attribute, `choose` takes the first of an offer that can be used, and `line`
writes ours. No text made here shows a key except `line`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Container, Iterable
from typing import Final

import msgspec

from gateway.errors import PeerError, UsageError

KEY_OCTETS: Final = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""Suites and the octets of their master key and salt together."""

_MOST_OCTETS: Final = 1024
_LINE: Final = re.compile(r"(\d{1,9}) +([A-Za-z0-9_]{1,64}) +(\S+)((?: +\S+)*) *")
_LIFETIME: Final = re.compile(r"2\^(\d{1,2})|(\d{1,15})")
_MKI: Final = re.compile(r"(\d{1,10}):(\d{1,3})")
_WINDOW: Final = re.compile(r"WSH=\d{1,5}", re.I)


class Crypto(msgspec.Struct, frozen=True, kw_only=True):
    """One crypto attribute that we understand. Printing it does not show the key."""

    tag: int
    suite: str
    """One of `KEY_OCTETS`."""
    key: bytes
    """Master key and salt."""
    lifetime: int | None = None
    """Packets its owner means to send with it at most; None: as many as the suite allows."""
    mki: tuple[int, int] | None = None
    """Master key identifier and its octets in every packet."""
    params: tuple[str, ...] = ()
    """Session parameters, as written."""

    def __repr__(self) -> str:
        return f"Crypto({self.tag} {self.suite})"

    @property
    def refusal(self) -> str:
        """What about it we cannot do; empty: it can be used."""
        if self.mki is not None:
            return "a master key identifier (MKI) is not supported"
        # A window hint may be ignored; every other parameter changes the packets (section 6.3).
        other = [param for param in self.params if not _WINDOW.fullmatch(param)]
        return f"session parameter {other[0][:40]} is not supported" if other else ""


def parse(value: str) -> Crypto:
    """Read what follows ``a=crypto:``.  Raises `PeerError`, which never quotes the key."""
    found = _LINE.fullmatch(value) if len(value) <= _MOST_OCTETS else None
    if found is None:
        raise PeerError("a=crypto is malformed: it is a tag, a suite and inline:key")
    tag, suite, keys = int(found[1]), found[2].upper(), found[3]
    wanted = KEY_OCTETS.get(suite)
    if wanted is None:
        raise PeerError(f"a=crypto: suite {found[2]} is not supported")
    if ";" in keys:
        raise PeerError("a=crypto: more than one key (which needs an MKI) is not supported")
    method, _, rest = keys.partition(":")
    if method.lower() != "inline":
        raise PeerError("a=crypto: the key method is not inline")
    text, *more = rest.split("|")
    try:
        # Some leave the padding out.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PeerError("a=crypto: the key is not base64") from None
    if len(key) != wanted:
        raise PeerError(f"a=crypto: {len(key)} octets of key, {suite} has {wanted}")
    lifetime, mki = _lifetime_and_mki(more)
    return Crypto(
        tag=tag, suite=suite, key=key, lifetime=lifetime, mki=mki, params=tuple(found[4].split())
    )


def _lifetime_and_mki(parts: list[str]) -> tuple[int | None, tuple[int, int] | None]:
    lifetime: int | None = None
    mki: tuple[int, int] | None = None
    for n, part in enumerate(parts):
        if n == 0 and (found := _LIFETIME.fullmatch(part)):
            lifetime = 1 << int(found[1]) if found[1] else int(found[2])
            if not 0 < lifetime <= 1 << 48:
                raise PeerError("a=crypto: the lifetime is out of range")
        elif mki is None and n == len(parts) - 1 and (found := _MKI.fullmatch(part)):
            mki = int(found[1]), int(found[2])
            if not 1 <= mki[1] <= 128:
                raise PeerError("a=crypto: the length of the MKI is out of range")
        else:
            raise PeerError("a=crypto: malformed lifetime or MKI")
    return lifetime, mki


def choose(values: Iterable[str], suites: Container[str]) -> tuple[Crypto | None, str]:
    """The first attribute of an offer that can be used, and why the others cannot.

    The order is the offerer's preference (section 5.1.2).
    """
    why: list[str] = []
    for value in values:
        try:
            found = parse(value)
        except PeerError as error:
            why.append(str(error))
            continue
        if found.refusal:
            why.append(f"a=crypto {found.tag}: {found.refusal}")
        elif found.suite not in suites:
            why.append(f"a=crypto: suite {found.suite} is not available here")
        else:
            return found, ""
    return None, "; ".join(why[:4]) or "no a=crypto"


def line(tag: int, suite: str, key: bytes) -> str:
    """What is written after ``a=crypto:``.  Raises `UsageError` for a key of the wrong length."""
    if len(key) != KEY_OCTETS.get(suite):
        raise UsageError(f"{suite} does not have keys of {len(key)} octets")
    return f"{tag} {suite} inline:{base64.b64encode(key).decode('ascii')}"
