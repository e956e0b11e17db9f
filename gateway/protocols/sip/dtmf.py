"""Digits in INFO requests: application/dtmf-relay and application/dtmf, as phones send them."""

from __future__ import annotations

import re

_SIGNAL = re.compile(r"^\s*signal\s*=\s*([0-9A-Da-d*#!]|1[0-6])\s*$", re.I | re.M)
_DURATION = re.compile(r"^\s*duration\s*=\s*(\d{1,5})\s*$", re.I | re.M)


def read_digit(kind: str, body: bytes) -> tuple[str, int]:
    """Digit and duration in milliseconds; an empty digit if there is none."""
    text = body[:256].decode("ascii", "replace")
    if kind == "application/dtmf":
        word = text.strip()[:2].upper()
        return (_digit(word) if word else ""), 160
    signal, duration = _SIGNAL.search(text), _DURATION.search(text)
    return (_digit(signal[1].upper()) if signal else ""), int(duration[1]) if duration else 160


def _digit(word: str) -> str:
    """Some senders write the event number of RFC 4733 instead of the key."""
    if len(word) == 1:
        return word if word in "0123456789ABCD*#!" else ""
    return {"10": "*", "11": "#", "12": "A", "13": "B", "14": "C", "15": "D", "16": "!"}.get(
        word, ""
    )
