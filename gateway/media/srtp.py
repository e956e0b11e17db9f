"""SRTP keys on their way to the engine (RFC 3711, RFC 7714), and what libsrtp2 here can do."""

from __future__ import annotations

from typing import Any

from gateway.errors import DeviceError, UsageError
from gateway.media import _engine
from gateway.media.streams import Srtp, SrtpSuite

NUMBERS = {suite: number for number, suite in enumerate(SrtpSuite)}
"""Numbers of the suites in `engine_impl.h`."""

BEST_FIRST = (
    SrtpSuite.AES_128_GCM,
    SrtpSuite.AES_256_GCM,
    SrtpSuite.AES_128_SHA1_80,
    SrtpSuite.AES_128_SHA1_32,
)

REMEDY = "install Debian's package libsrtp2-1"


def suites() -> tuple[SrtpSuite, ...]:
    """What works here, best first; empty without libsrtp2."""
    found, _ = _engine.srtp_suites()
    return tuple(suite for suite in BEST_FIRST if NUMBERS[suite] in found)


def missing() -> str:
    """Why there is no SRTP here and what to do about it; empty when there is."""
    found, why = _engine.srtp_suites()
    return "" if found else f"no SRTP: {why}; {REMEDY}"


def check(srtp: Srtp) -> None:
    """Raises `UsageError` for keys that do not fit their suite, `DeviceError` without libsrtp2."""
    for key in (srtp.receive, srtp.send):
        if len(key) != srtp.suite.key_octets:
            raise UsageError(
                f"{srtp.suite}: a key of {len(key)} octets; "
                f"master key and salt are {srtp.suite.key_octets}"
            )
    if srtp.suite not in suites():
        raise DeviceError(missing() or f"libsrtp2 here was built without {srtp.suite}")


def change(before: Srtp | None, after: Srtp | None) -> dict[str, Any]:
    """What the worker has to be told, with new handles of the keys that changed.

    A key that stays keeps its packet count: beginning it anew would break the encryption.
    """
    told: dict[str, Any] = {}
    if after is not None:
        check(after)
    for name, sends in (("srtp_in", False), ("srtp_out", True)):
        old, new = _key(before, sends), _key(after, sends)
        if old != new:
            told[name] = None if new is None else _engine.Srtp(NUMBERS[new[0]], new[1], sends)
    return told


def handles(told: dict[str, Any]) -> list[_engine.Srtp]:
    """Those of a `change`: to be kept until the worker has let go of them."""
    return [told[name] for name in ("srtp_in", "srtp_out") if told.get(name) is not None]


def _key(srtp: Srtp | None, sends: bool) -> tuple[SrtpSuite, bytes] | None:
    if srtp is None:
        return None
    return srtp.suite, srtp.send if sends else srtp.receive
