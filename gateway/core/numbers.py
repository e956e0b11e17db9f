"""Number patterns: what a route's ``called`` and ``digits`` match, and when a number is complete.

A pattern is literal digits and letters with these signs:

``X`` any digit, ``Z`` 1 to 9, ``N`` 2 to 9, ``[13-5]`` one of those, ``.`` one or more of
anything, ``( )`` capture what is between. ``*``, ``#`` and ``+`` are themselves. The empty pattern
matches every number. Captures are put into targets as ``{1}``, ``{2}``; ``{called}`` and
``{calling}`` are always there.
"""

from __future__ import annotations

from enum import StrEnum

from gateway.errors import UsageError

_CLASSES = {"X": frozenset("0123456789"), "Z": frozenset("123456789"), "N": frozenset("23456789")}
_MAXIMUM = 64


class Completeness(StrEnum):
    """What digits collected so far are, seen against a pattern or a whole dial plan."""

    NO = "no"
    """No further digit can make it match."""
    PARTIAL = "partial"
    """More digits are needed."""
    COMPLETE = "complete"
    """It matches and more digits would spoil it: send it on at once."""
    EXTENSIBLE = "extensible"
    """It matches, and might with more digits too: wait for the short time-out."""


class NumberPattern:
    """A compiled pattern."""

    def __init__(self, text: str) -> None:
        """Raises `UsageError` naming the position of what is wrong in `text`."""
        self.text = text
        self._atoms: list[frozenset[str] | None] = []
        self._groups: list[tuple[int, int]] = []
        open_at: int | None = None
        position = 0
        if len(text) > _MAXIMUM:
            raise UsageError(f"number pattern is longer than {_MAXIMUM} characters")
        while position < len(text):
            sign = text[position]
            if sign == "(":
                if open_at is not None:
                    raise self._wrong(position, "captures do not nest")
                open_at = len(self._atoms)
            elif sign == ")":
                if open_at is None:
                    raise self._wrong(position, "')' without '('")
                self._groups.append((open_at, len(self._atoms)))
                open_at = None
            elif sign == "[":
                end = text.find("]", position)
                if end < 0:
                    raise self._wrong(position, "'[' without ']'")
                self._atoms.append(self._choice(text[position + 1 : end], position))
                position = end
            elif sign == ".":
                if None in self._atoms:
                    raise self._wrong(position, "only one '.' in a pattern")
                self._atoms.append(None)
            elif sign == "]" or sign.isspace() or not sign.isprintable():
                raise self._wrong(position, f"{sign!r} has no meaning here")
            else:
                self._atoms.append(_CLASSES.get(sign) or frozenset(sign))
            position += 1
        if open_at is not None:
            raise self._wrong(len(text), "'(' without ')'")

    def _wrong(self, position: int, what: str) -> UsageError:
        return UsageError(f"number pattern {self.text!r}, character {position + 1}: {what}")

    def _choice(self, inner: str, position: int) -> frozenset[str]:
        signs: set[str] = set()
        index = 0
        while index < len(inner):
            if inner[index + 1 : index + 2] == "-" and index + 2 < len(inner):
                low, high = inner[index], inner[index + 2]
                if low > high:
                    raise self._wrong(position, f"range {low}-{high} runs backwards")
                signs.update(chr(code) for code in range(ord(low), ord(high) + 1))
                index += 3
            else:
                signs.add(inner[index])
                index += 1
        if not signs:
            raise self._wrong(position, "'[]' matches nothing")
        return frozenset(signs)

    def match(self, number: str) -> tuple[str, ...] | None:
        """The captures (possibly none) when the whole number matches, else None."""
        if not self._atoms:
            return ()
        spans = self._spans(number)
        if spans is None:
            return None
        return tuple(number[spans[start] : spans[end]] for start, end in self._groups)

    def _spans(self, number: str) -> list[int] | None:
        """Where each atom begins in the number, and the end; the only '.' takes what is left."""
        spare = len(number) - len(self._atoms)
        if spare < 0 or (spare and None not in self._atoms):
            return None
        spans, at = [], 0
        for atom in self._atoms:
            spans.append(at)
            if atom is None:
                at += 1 + spare
            elif number[at] in atom:
                at += 1
            else:
                return None
        spans.append(at)
        return spans

    def completeness(self, number: str) -> Completeness:
        """What `number`, collected digit by digit, is against this pattern."""
        if not self._atoms:
            return Completeness.EXTENSIBLE
        if self._spans(number) is not None:
            return Completeness.EXTENSIBLE if None in self._atoms else Completeness.COMPLETE
        for index, sign in enumerate(number):
            if index >= len(self._atoms):
                return Completeness.NO
            atom = self._atoms[index]
            if atom is None:
                return Completeness.PARTIAL
            if sign not in atom:
                return Completeness.NO
        return Completeness.PARTIAL

    def awaits_capture(self, number: str) -> bool:
        """Whether the next sign after `number` may fall into the first capture."""
        if not self._groups or self.completeness(number) not in (
            Completeness.PARTIAL,
            Completeness.EXTENSIBLE,
        ):
            return False
        start = self._groups[0][0]
        # Behind a '.' nobody knows where the capture begins.
        return len(number) >= start or None in self._atoms[:start]

    def masked(self, number: str) -> str:
        """A matching number with what is captured hidden; others as they are."""
        spans = self._spans(number)
        if spans is None:
            return number
        signs = list(number)
        for start, end in self._groups:
            signs[spans[start] : spans[end]] = "?" * (spans[end] - spans[start])
        return "".join(signs)


def combine(parts: list[Completeness]) -> Completeness:
    """The completeness of a number against several patterns together."""
    full = any(p in (Completeness.COMPLETE, Completeness.EXTENSIBLE) for p in parts)
    more = any(p in (Completeness.PARTIAL, Completeness.EXTENSIBLE) for p in parts)
    if full:
        return Completeness.EXTENSIBLE if more else Completeness.COMPLETE
    return Completeness.PARTIAL if more else Completeness.NO
