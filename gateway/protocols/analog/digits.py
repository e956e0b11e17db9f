"""Digit collection against a dial plan (after RFC 3435 section 2.1.5, digit maps)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from gateway.errors import ConfigError

DIGITS: Final = "0123456789*#ABCD"
_CLASSES: Final = {
    "x": frozenset("0123456789"),
    "z": frozenset("123456789"),
    "n": frozenset("23456789"),
}


class Match(Enum):
    """How a dialled string stands against a plan."""

    NONE = auto()
    """No number begins like this."""
    PARTIAL = auto()
    """Digits are missing."""
    FULL = auto()
    """A number, which may become a longer one."""
    FINAL = auto()
    """A number, and no longer one begins like this."""


def compile_pattern(pattern: str) -> tuple[tuple[frozenset[str], bool], ...]:
    """A pattern as positions ``(digits allowed, may repeat)``.

    Digits stand for themselves; ``x`` is 0-9, ``z`` 1-9, ``n`` 2-9, ``[2-57]`` a set; a closing
    ``.`` lets the last position repeat.

    Raises ConfigError.
    """
    positions: list[tuple[frozenset[str], bool]] = []
    at = 0
    while at < len(pattern):
        c = pattern[at]
        if c == "." and positions and at == len(pattern) - 1:
            positions.append((positions[-1][0], True))
        elif c == "[":
            end = pattern.find("]", at)
            allowed = _set(pattern[at + 1 : end]) if end > at + 1 else None
            if not allowed:
                raise ConfigError(f"dial plan: {pattern!r} has a bad [set]")
            positions.append((allowed, False))
            at = end
        elif c.lower() in _CLASSES:
            positions.append((_CLASSES[c.lower()], False))
        elif c in DIGITS:
            positions.append((frozenset(c), False))
        else:
            raise ConfigError(
                f"dial plan: {pattern!r} has {c!r}",
                remedy="use digits * # A-D, x z n, [2-5], and . at the end",
            )
        at += 1
    if not positions:
        raise ConfigError("dial plan: an empty pattern")
    return tuple(positions)


def _set(text: str) -> frozenset[str] | None:
    found: set[str] = set()
    at = 0
    while at < len(text):
        if at + 2 < len(text) and text[at + 1] == "-":
            low, high = text[at], text[at + 2]
            if not (low.isdigit() and high.isdigit() and low <= high):
                return None
            found.update(str(d) for d in range(int(low), int(high) + 1))
            at += 3
        elif text[at] in DIGITS:
            found.add(text[at])
            at += 1
        else:
            return None
    return frozenset(found)


_compiled = lru_cache(maxsize=1024)(compile_pattern)


def _match_one(positions: tuple[tuple[frozenset[str], bool], ...], dialled: str) -> Match:
    for i, digit in enumerate(dialled):
        allowed, repeats = positions[min(i, len(positions) - 1)]
        if (i >= len(positions) and not repeats) or digit not in allowed:
            return Match.NONE
    needed = len(positions) - positions[-1][1]
    if len(dialled) < needed:
        return Match.PARTIAL
    return Match.FULL if positions[-1][1] else Match.FINAL


@dataclass(frozen=True, slots=True)
class DialPlan:
    """Which numbers can be dialled; no pattern at all: any number."""

    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            _compiled(pattern)

    def match(self, dialled: str) -> Match:
        """How ``dialled`` stands against all patterns together."""
        if not self.patterns:
            return Match.FULL if dialled else Match.PARTIAL
        results = [_match_one(_compiled(pattern), dialled) for pattern in self.patterns]
        longer = Match.PARTIAL in results or Match.FULL in results
        if Match.FINAL in results or Match.FULL in results:
            return Match.FULL if longer else Match.FINAL
        return Match.PARTIAL if longer else Match.NONE


@dataclass(slots=True)
class DigitCollector:
    """Digits as they are dialled. Driven by ``digit`` and, by its owner's clock, ``timed_out``."""

    plan: DialPlan
    first_digit: float = 15.0
    """Seconds from dial tone to the first digit."""
    inter_digit: float = 4.0
    """Seconds between digits."""
    full_match: float = 2.0
    """Seconds to wait for more when the number could be complete."""
    terminator: str = "#"
    """Ends dialling; empty: nothing does."""
    longest: int = 32
    dialled: str = field(default="", init=False)
    done: bool = field(default=False, init=False)
    complete: bool = field(default=False, init=False)
    """Meaningful when done: the number fits the plan."""

    def digit(self, digit: str) -> float | None:
        """Take a digit; returns seconds to wait for the next, or None when done.

        What is not a digit is ignored.
        """
        if self.done or digit not in DIGITS or len(digit) != 1:
            return None if self.done else self.wait()
        if digit == self.terminator and self.dialled and not self._plan_has(digit):
            return self._finish(self._is_number())
        self.dialled += digit
        match self.plan.match(self.dialled):
            case Match.NONE:
                return self._finish(False)
            case Match.FINAL:
                return self._finish(True)
            case Match.FULL if len(self.dialled) >= self.longest:
                return self._finish(True)
            case Match.PARTIAL if len(self.dialled) >= self.longest:
                return self._finish(False)
            case _:
                return self.wait()

    def wait(self) -> float:
        """Seconds to wait for the next digit now."""
        if not self.dialled:
            return self.first_digit
        full = self.plan.match(self.dialled) is Match.FULL and bool(self.plan.patterns)
        return self.full_match if full else self.inter_digit

    def timed_out(self) -> None:
        """No digit came in time: the number is what was dialled."""
        if not self.done:
            self._finish(self._is_number())

    def _plan_has(self, digit: str) -> bool:
        """Whether some number of the plan has this digit here."""
        known = self.plan.match(self.dialled + digit) is not Match.NONE
        return known and bool(self.plan.patterns)

    def _is_number(self) -> bool:
        return bool(self.dialled) and self.plan.match(self.dialled) in (Match.FULL, Match.FINAL)

    def _finish(self, complete: bool) -> float | None:
        self.done, self.complete = True, complete
        return None
