"""Whether the kernel believes its own clock: the state that NTP keeps (adjtimex(2))."""

from __future__ import annotations

import ctypes
from typing import Final

_TIME_ERROR: Final = 5
# struct timex is 208 octets on 64-bit Linux; modes 0 in front only asks.
_TIMEX_BYTES: Final = 512


def is_synchronised() -> bool | None:
    """Whether something keeps the clock right; None where the kernel does not tell."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (AttributeError, OSError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)
