"""Digits: guesses what a journal hides, from what followed it.

A journal has ``?`` for every digit that people press, unless it was told otherwise. Most digits do
nothing by themselves; those that do something are few and are known from the routes: the digit that
acknowledges, talk keys, feature codes, PINs. So a run is first played with digits that mean
nothing; where it then differs just behind a hidden digit, what the routes wait for is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from gateway.core.routes import RouteTable, Trigger
from gateway.replay.player import HIDDEN, Outcome, Player

TRIES: Final = 500
"""Playings of one run: each guess is one."""


def play(make: Callable[[dict[str, str]], Player]) -> tuple[Outcome, dict[str, str]]:
    """Play a run with the best guesses; how it went, and what each hidden text was taken for.

    make: a player from the run's beginning that knows these texts, by envelope id.
    """
    known: dict[str, str] = {}
    player = make(known)
    outcome = player.play()
    tries = 1
    while outcome.difference is not None and player.hidden and tries < TRIES:
        for guess in _guesses(player, known):
            candidate = make(known | guess)
            found = candidate.play()
            tries += 1
            if found.difference is None or _beyond(found, outcome):
                known |= guess
                player, outcome = candidate, found
                break
            if tries >= TRIES:
                break
        else:
            break
    outcome.guessed = len(known)
    return outcome, known


def _beyond(one: Outcome, other: Outcome) -> bool:
    return (one.events, one.actions) > (other.events, other.actions)


def _guesses(player: Player, known: dict[str, str]) -> Iterator[dict[str, str]]:
    """What the last hidden text, and those before it on its leg, may have been."""
    last, leg, text = player.hidden[-1]
    table = player.board.table
    if text != HIDDEN:
        for pin in _pins(table):
            if len(pin) == text.count(HIDDEN):
                yield {last: text.replace(HIDDEN * len(pin), pin, 1)}
        return
    before = [identity for identity, of, hid in player.hidden if of == leg and hid == HIDDEN]
    for candidate in _candidates(table):
        ids = before[-len(candidate) :]
        if len(ids) == len(candidate):
            guess = dict(zip(ids, candidate, strict=True))
            if any(known.get(identity) != digit for identity, digit in guess.items()):
                yield guess


def _candidates(table: RouteTable) -> list[str]:
    found: dict[str, None] = {}
    for compiled in table.routes:
        route = compiled.route
        found |= dict.fromkeys(
            (*(sign for sign in (route.acknowledge,) if len(sign) == 1), *route.push_to_talk)
        )
        if route.on is Trigger.DIGITS:
            found |= dict.fromkeys(_examples(route.digits, list(route.pins.values())))
        else:
            found |= dict.fromkeys(f"{pin}#" for pin in route.pins.values())
    found |= dict.fromkeys("#*!")
    return sorted(found, key=len)


def _pins(table: RouteTable) -> Iterable[str]:
    return dict.fromkeys(pin for each in table.routes for pin in each.route.pins.values())


def _examples(pattern: str, pins: list[str]) -> Iterator[str]:
    """Digits that a pattern matches; what it captures is a PIN where there are PINs."""
    before, capture, after = re.fullmatch(r"([^(]*)(\([^)]*\))?(.*)", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    for middle in pins if capture and pins else [_example(capture or "")]:
        yield _example(before) + middle + _example(after)


def _example(pattern: str) -> str:
    """One text that a number pattern matches."""
    plain = re.sub(r"\[(.)[^]]*\]", r"\1", pattern)
    return plain.translate(str.maketrans("XZN.", "0120", "()"))
