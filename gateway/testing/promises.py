"""What every adapter promises, by number, and how a check of it comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PROMISES: Final[dict[str, str]] = {
    "A01": "the constructor opens nothing",
    "A02": "endpoints can be called before run and names what is configured",
    "A03": "run opens, reports ready, and serves until it is cancelled",
    "A04": "cancelling run ends every leg and leaves nothing behind",
    "A05": "a leg ends exactly once, and nothing comes after it",
    "A06": "a dialled leg ends, rings or is answered",
    "A07": "hangup ends a leg in any state, and does nothing to one that is not there",
    "A08": "actions return at once",
    "A09": "safe_state may be called at any time",
    "A10": "an action that the adapter does not do raises Unsupported and changes nothing",
    "A11": "events name only what the adapter owns",
    "A12": "an offered leg carries a trace and the time of the first demand",
    "A13": "run can be started again after it ended",
    "A14": "garbage from outside ends in a count",
    "A15": "an endpoint that is lent is busy, and says for whom",
    "A16": "a leg that borrowed gives back, and ends when it is recalled",
}


class BrokenPromise(AssertionError):
    """One promise that the adapter does not keep."""

    def __init__(self, number: str, why: str) -> None:
        self.number = number
        self.why = why
        super().__init__(f"{number}: {PROMISES[number]}: {why}")


class BrokenPromises(AssertionError):
    """All promises that the adapter does not keep, one a line; `broken` holds them."""

    def __init__(self, broken: list[BrokenPromise]) -> None:
        self.broken = broken
        super().__init__("\n" + "\n".join(str(each) for each in broken))


class Unchecked(Exception):
    """The scenario does not say what this check needs to know."""


@dataclass
class Report:
    """Outcome of `check_adapter`, by promise number."""

    kept: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    """Promises that this scenario could not put to the test, and why."""

    def __str__(self) -> str:
        lines = [f"{number}: kept: {PROMISES[number]}" for number in self.kept]
        lines += [f"{number}: not checked: {why}" for number, why in self.unchecked.items()]
        return "\n".join(sorted(lines))
