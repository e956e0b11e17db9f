"""Texts: short messages of a radio module, in PDU form (3GPP TS 27.005)."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Final, Protocol, Unpack

import msgspec

from gateway.protocols.modem import lines, pdu
from gateway.protocols.modem.at import Answer, How
from gateway.protocols.modem.calling import Heard, ignore
from gateway.protocols.modem.happenings import Happening, TextCame, TextFailed, TextSent
from gateway.protocols.modem.pdu import PduError, Received, Submitted

LOOK_S: Final = 60.0
"""How often the module is asked for what came: its word that something did may be lost."""
PARTS_S: Final = 3600.0
"""So long the rest of a long text may take; then it is told as it is."""
MAX_TEXTS: Final = 32
"""Texts of which parts came; of more the oldest is told as it is."""
_MOST_TOLD: Final = 512
_SEND_S: Final = 30.0
_LASTING: Final = frozenset(("1", "8", "10", "21", "28", "50", "69"))
"""Errors of TS 24.011 annex E-2 that another attempt does not change: the number does not exist,
is barred, or did not take it."""


class Desk(Protocol):
    """Where commands are given and happenings are told."""

    @property
    def counters(self) -> Counter[str]: ...
    def ask(
        self,
        command: str,
        now: float,
        heard: Heard,
        **how: Unpack[How],
    ) -> None: ...
    def tell(self, what: Happening) -> None: ...
    def texts_are_there(self) -> None: ...


class _Long(msgspec.Struct, kw_only=True):
    """A text of which not all parts have come."""

    began: float
    total: int
    parts: dict[int, str]
    places: dict[int, str]
    """Where the module keeps them, until the text is told, and as what."""


class Texts:
    """Driven by `begin`, `send`, by what the module says (`unasked`) and by `advance`.

    What came stays in the module until it is told: it survives a restart.
    """

    def __init__(self, desk: Desk) -> None:
        self.able = False
        """The module sends and stores texts."""
        self._desk = desk
        self._look = math.inf
        self._looking = self._again = False
        self._told: dict[int, str] = {}
        """By place: what is told, and not yet deleted."""
        self._doomed: deque[int] = deque()
        self._deleting = False
        self._longs: dict[tuple[str, int, int], _Long] = {}
        self._unsent: list[Submitted] = []
        self._n_taken = 0
        self._follows = False
        self._unreadable: dict[int, str] = {}
        """By place, as it was seen once: it may have been damaged on the way."""

    def begin(self, now: float) -> None:
        """Set the module up for texts; one that knows none stays without."""
        self._desk.ask("+CMGF=0", now, self._in_pdu_form, kept=True)

    def _in_pdu_form(self, answer: Answer, now: float) -> None:
        if not answer.ok:
            return
        self.able = True
        self._desk.texts_are_there()
        self._desk.ask('+CPMS="ME","ME","ME"', now, ignore, kept=True, timeout_s=10.0)
        self._desk.ask("+CNMI=2,1,0,0,0", now, ignore, kept=True)
        self._list(now, quiet=True)

    def stop(self) -> None:
        """The module is gone: nothing is due any more."""
        self.able = False
        self._look = math.inf

    def due(self) -> float:
        """When `advance` has something to do."""
        return self._look

    def advance(self, now: float) -> None:
        """What the passing of time means."""
        if now >= self._look:
            self._list(now, quiet=True)

    def unasked(self, line: str, now: float) -> bool:
        """A line that answers nothing; False when it is not about texts."""
        word = line.partition(":")[0]
        if self._follows:
            self._follows = False
            self._read(-1, line, now)
        elif word == "+CMTI":
            self._list(now)
        elif word == "+CMT":
            self._follows = True
        else:
            return word in ("+CDSI", "SMS READY", "SMS DONE")
        return True

    # What comes

    def _list(self, now: float, *, quiet: bool = False) -> None:
        if not self.able:
            return
        if self._looking:
            self._again = True
            return
        self._looking, self._look = True, math.inf
        self._desk.ask("+CMGL=4", now, self._listed, kept=True, quiet=quiet, timeout_s=20.0)

    def _listed(self, answer: Answer, now: float) -> None:
        self._looking = False
        self._look = now + LOOK_S
        found = dict(lines.stored_texts(answer.lines)) if answer.ok else {}
        self._unreadable = {n: line for n, line in self._unreadable.items() if n in found}
        for place, text in found.items():
            if self._told.get(place) == text:
                self._delete(place, text, now)
            elif not any(place in long.places for long in self._longs.values()):
                self._read(place, text, now)
        for key, long in list(self._longs.items()):
            if now - long.began >= PARTS_S:
                self._tell(key, now)
        if self._again:
            self._again = False
            self._list(now)

    def _read(self, place: int, line: str, now: float) -> None:
        try:
            came = pdu.received(line)
        except PduError:
            if place >= 0 and self._unreadable.get(place) != line:
                self._unreadable[place] = line
                return
            self._desk.counters["texts_unreadable"] += 1
            self._delete(place, line, now)
            return
        if came.part is None:
            self._desk.tell(TextCame(came.sender, came.text))
            self._delete(place, line, now)
        else:
            self._join(came, place, line, now)

    def _join(self, came: Received, place: int, line: str, now: float) -> None:
        assert came.part is not None
        key = (came.sender, came.part.reference, came.part.total)
        long = self._longs.get(key)
        if long is None:
            if len(self._longs) >= MAX_TEXTS:
                self._tell(next(iter(self._longs)), now)
            long = self._longs[key] = _Long(
                began=now, total=came.part.total, parts={}, places={}
            )  # fmt: skip
        long.parts[came.part.number] = came.text
        long.places[place] = line
        if len(long.parts) == long.total:
            self._tell(key, now)

    def _tell(self, key: tuple[str, int, int], now: float) -> None:
        long = self._longs.pop(key)
        if len(long.parts) < long.total:
            self._desk.counters["texts_incomplete"] += 1
        text = "".join(long.parts.get(n, "[...]") for n in range(1, long.total + 1))
        self._desk.tell(TextCame(key[0], text))
        for place, line in long.places.items():
            self._delete(place, line, now)

    def _delete(self, place: int, line: str, now: float) -> None:
        if place < 0:
            return
        while len(self._told) >= _MOST_TOLD:
            self._told.pop(next(iter(self._told)))
        self._told[place] = line
        if place not in self._doomed:
            self._doomed.append(place)
        if not self._deleting:
            self._delete_next(now)

    def _delete_next(self, now: float) -> None:
        self._deleting = bool(self._doomed)
        if self._deleting:
            self._desk.ask(f"+CMGD={self._doomed[0]}", now, self._deleted, kept=True)

    def _deleted(self, answer: Answer, now: float) -> None:
        place = self._doomed.popleft()
        if answer.ok:
            self._told.pop(place, None)
        self._delete_next(now)

    # What is sent

    @property
    def sending(self) -> bool:
        """A text is on its way."""
        return bool(self._unsent)

    def send(self, parts: list[Submitted], now: float) -> None:
        """Send a text; `TextSent` or `TextFailed` follows."""
        self._unsent, self._n_taken = list(parts), 0
        self._next(now)

    def _next(self, now: float) -> None:
        part = self._unsent[0]
        self._desk.ask(
            f"+CMGS={part.n_octets}", now, self._taken, body=part.hexadecimal, timeout_s=_SEND_S,
            kept=True,
        )  # fmt: skip

    def _taken(self, answer: Answer, now: float) -> None:
        if not self._unsent:
            return
        if not answer.ok:
            self._unsent.clear()
            # Without an answer it may be sent or not: a second time would be worse than none.
            passing = answer.final != "timeout" and answer.error not in _LASTING
            self._desk.tell(TextFailed(answer.final, passing, self._n_taken))
            return
        del self._unsent[0]
        self._n_taken += 1
        if self._unsent:
            self._next(now)
        else:
            self._desk.tell(TextSent())
