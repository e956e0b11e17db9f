"""Calling: the one call of a radio module (3GPP TS 27.007 sections 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol, Unpack

from gateway.errors import UsageError
from gateway.protocols.modem import lines
from gateway.protocols.modem.at import Answer, How
from gateway.protocols.modem.happenings import (
    Alerting,
    Connected,
    Happening,
    Offered,
    Release,
    Released,
)
from gateway.protocols.modem.lines import CallStatus, ListedCall
from gateway.protocols.modem.makers import Maker

WATCH_CALL_S: Final = 5.0
"""How often the module is asked whether its call still exists: a lost result code must not keep
the line busy."""
WATCH_SETUP_S: Final = 1.0
"""The same while it is being set up."""
RING_LOST_S: Final = 12.0
"""No ring for so long, and no call listed: the caller gave up."""
_SETTLE_S: Final = 3.0
"""So long after dialling a module may not list the call yet."""
_MANY_WAIT: Final = 40
"""Commands; with so many the module is asked for its calls later."""
MAX_DIGITS: Final = 32
"""Digits that wait to be sent; the newest are dropped."""
_AUDIO_TRIES: Final = 5
_AUDIO_PAUSE_S: Final = 1.0
_HANGUP_TRIES: Final = 3

Heard = Callable[[Answer, float], None]
"""Called with the answer to a command, and the time."""


class Desk(Protocol):
    """Where commands are given and happenings are told."""

    @property
    def maker(self) -> Maker: ...
    @property
    def n_waiting(self) -> int: ...
    def ask(
        self,
        command: str,
        now: float,
        heard: Heard,
        **how: Unpack[How],
    ) -> None: ...
    def tell(self, what: Happening) -> None: ...
    def drop_waiting(self) -> None: ...
    def reset(self, now: float) -> None: ...


class _Phase(Enum):
    IDLE = auto()
    DIALLING = auto()
    INCOMING = auto()
    """It rings; who calls may not be known yet."""
    ANSWERING = auto()
    SWITCHING = auto()
    """Connected; the audio is being switched on."""
    TALKING = auto()
    ENDING = auto()


class Calling:
    """Driven by `dial`, `answer`, `hangup`, `digits`, by what the module says (`unasked`) and by
    `advance`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._phase = _Phase.IDLE
        self._told = self._seen = self._doubted = False
        """The far end was told of; the module has listed the call; its last list could not be
        read."""
        self._tries = 0
        self._since = self._rang = 0.0
        """Our dialling was taken; the last ring."""
        self._retry = self._watch = math.inf
        self._why = (Release.NORMAL, "")

    @property
    def idle(self) -> bool:
        """There is no call."""
        return self._phase is _Phase.IDLE

    @property
    def talking(self) -> bool:
        """The call is connected, and its audio is on."""
        return self._phase is _Phase.TALKING

    def advance(self, now: float) -> None:
        """What the passing of time means."""
        if now >= self._watch:
            self._list(now)
        if now >= self._retry:
            self._retry = math.inf
            self._switch_audio(now)

    def due(self) -> float:
        """When `advance` has something to do."""
        return min(self._watch, self._retry)

    def stop(self) -> None:
        """The module is gone: nothing is due any more."""
        self._watch = self._retry = math.inf

    def dial(self, number: str, now: float, *, hidden: bool = False) -> None:
        """Begin a call. hidden: the number is not to be shown there (TS 27.007 section 6.2).
        Raises `UsageError`: no number."""
        try:
            number = lines.dialled(number)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._begin(_Phase.DIALLING)
        self._before(now)
        self._desk.ask(f"D{number}{'I' if hidden else ''};", now, self._dialled, timeout_s=20.0)

    def answer(self, now: float) -> None:
        """Answer the call that was offered; nothing happens when there is none."""
        if self._phase is _Phase.INCOMING and self._told:
            self._begin(_Phase.ANSWERING)
            self._before(now)
            self._desk.ask("A", now, self._answered, timeout_s=20.0)

    def hangup(self, now: float) -> None:
        """End the call in any state; `Released` follows. Nothing happens when there is none."""
        if self._phase not in (_Phase.IDLE, _Phase.ENDING):
            self._end(Release.NORMAL, "", now, hang_up=True)

    def digits(self, digits: str, now: float) -> int:
        """Send DTMF in a call, which the network makes audible; how many were taken."""
        if self._phase is not _Phase.TALKING:
            return 0
        n = 0
        for digit in digits.upper():
            if digit in "0123456789*#ABCD" and self._desk.n_waiting < MAX_DIGITS:
                self._desk.ask(f"+VTS={digit}", now, ignore, shown="+VTS=?")
                n += 1
        return n

    def unasked(self, line: str, now: float) -> bool:
        """A line that answers nothing; False when it is not about a call."""
        word, _, rest = line.partition(":")
        match word:
            case "RING" | "+CRING":
                self._ring(now)
            case "+CLIP":
                self._ring(now)
                found = lines.caller(line)
                if found is not None:
                    self._offer(*found)
            case "NO CARRIER" | "MISSED_CALL":
                self._gone(Release.NORMAL, line, now)
            case "BUSY":
                self._gone(Release.BUSY, line, now)
            case "NO ANSWER":
                self._gone(Release.NO_ANSWER, line, now)
            case "NO DIALTONE" | "NO DIAL TONE":
                self._gone(Release.FAILED, line, now)
            case "VOICE CALL" if rest.strip().startswith("END"):
                self._gone(Release.NORMAL, line, now)
            case "VOICE CALL" if rest.strip() == "BEGIN":
                self._active(now)
            case "^DSCI":
                # What it says is asked for: its states differ from one firmware to another.
                self._watch = min(self._watch, now)
            case _:
                return False
        return True

    # A call from outside

    def _ring(self, now: float) -> None:
        self._rang = now
        if self._phase is _Phase.IDLE:
            self._begin(_Phase.INCOMING)
            self._list(now)

    def _offer(self, number: str, hidden: bool) -> None:
        if self._phase is _Phase.INCOMING and not self._told:
            self._told = True
            self._desk.tell(Offered(number, hidden))

    def _answered(self, answer: Answer, now: float) -> None:
        if self._phase is not _Phase.ANSWERING:
            return
        if answer.ok:
            self._active(now)
        elif answer.final != "timeout":
            self._gone(Release.NORMAL, answer.final, now)
        else:
            self._end(Release.FAILED, "no answer to ATA", now, hang_up=True)

    # A call of ours

    def _before(self, now: float) -> None:
        for each in self._desk.maker.before:
            self._desk.ask(each, now, ignore)

    def _dialled(self, answer: Answer, now: float) -> None:
        if self._phase is not _Phase.DIALLING:
            return
        if answer.ok:
            self._since = now
            self._watch = now + WATCH_SETUP_S
            return
        why = {"BUSY": Release.BUSY, "NO ANSWER": Release.NO_ANSWER}.get(answer.final)
        self._end(why or Release.FAILED, answer.final, now, hang_up=answer.final == "timeout")

    # Either way

    def _list(self, now: float) -> None:
        if self._desk.n_waiting >= _MANY_WAIT:
            self._watch = now + WATCH_SETUP_S
            return
        self._watch = math.inf
        self._desk.ask("+CLCC", now, self._listed, prefix="+CLCC:", quiet=True)

    def _listed(self, answer: Answer, now: float) -> None:
        if self._phase is _Phase.IDLE:
            return
        pause = WATCH_CALL_S if self._phase is _Phase.TALKING else WATCH_SETUP_S
        self._watch = now + pause
        if answer.final == "timeout":
            return
        if not answer.ok:
            self._offer("", hidden=True)
            if self._phase is not _Phase.ENDING:
                return
        found = [call for line in answer.lines if (call := lines.listed_call(line)) is not None]
        if self._phase is _Phase.ENDING:
            self._still_there(found, now)
            return
        ours = self._ours(found)
        if ours is None:
            if answer.lines and not found and not self._doubted:
                # Damaged on the way, perhaps: that alone ends nobody's call.
                self._doubted, self._watch = True, now + WATCH_SETUP_S
                return
            self._not_listed(now)
            return
        self._seen, self._doubted = True, False
        match ours.status:
            case CallStatus.ACTIVE:
                self._active(now)
            case CallStatus.ALERTING if self._phase is _Phase.DIALLING and not self._told:
                self._told = True
                self._desk.tell(Alerting())
            case CallStatus.INCOMING:
                self._offer(ours.number, hidden=not ours.number)

    def _ours(self, found: list[ListedCall]) -> ListedCall | None:
        calls = [each for each in found if each.voice and each.status is not CallStatus.WAITING]
        # Of several the one that goes on: somebody else may ring beside it.
        return min(calls, key=lambda each: each.status, default=None)

    def _not_listed(self, now: float) -> None:
        if self._phase is _Phase.INCOMING:
            quiet = now - self._rang >= RING_LOST_S
            if self._seen or quiet:
                self._gone(Release.NORMAL, "no longer listed", now)
        elif self._phase is _Phase.DIALLING:
            if self._seen or (self._since and now - self._since >= _SETTLE_S):
                self._gone(Release.NORMAL, "no longer listed", now)
        elif self._phase in (_Phase.SWITCHING, _Phase.TALKING):
            self._gone(Release.NORMAL, "no longer listed", now)

    def _active(self, now: float) -> None:
        if self._phase not in (_Phase.DIALLING, _Phase.ANSWERING):
            return
        self._phase = _Phase.SWITCHING
        self._seen = True
        self._tries = 0
        self._switch_audio(now)

    def _switch_audio(self, now: float) -> None:
        if self._phase is not _Phase.SWITCHING:
            return
        if self._desk.maker.after:
            self._desk.ask(self._desk.maker.after, now, self._switched)
        else:
            self._talk_now(now)

    def _switched(self, answer: Answer, now: float) -> None:
        if self._phase is not _Phase.SWITCHING:
            return
        self._tries += 1
        if answer.ok:
            self._talk_now(now)
        elif self._tries < _AUDIO_TRIES:
            self._retry = now + _AUDIO_PAUSE_S
        else:
            self._end(Release.NO_AUDIO, f"AT{answer.command}: {answer.final}", now, hang_up=True)

    def _talk_now(self, now: float) -> None:
        self._phase = _Phase.TALKING
        self._watch = now + WATCH_CALL_S
        self._desk.tell(Connected())

    def _gone(self, why: Release, detail: str, now: float) -> None:
        """The network ended the call."""
        if self._phase in (_Phase.IDLE, _Phase.ENDING):
            return
        if why is Release.NORMAL:
            if self._phase is _Phase.INCOMING:
                why = Release.CANCELLED
            elif self._phase is _Phase.DIALLING and not self._seen:
                why = Release.FAILED
        self._end(why, detail, now, hang_up=False)

    def _end(self, why: Release, detail: str, now: float, *, hang_up: bool) -> None:
        known = self._phase is not _Phase.INCOMING or self._told
        self._begin(_Phase.ENDING)
        self._told = known
        self._why = why, detail
        if hang_up:
            # Digits and questions that wait would hold it up.
            self._desk.drop_waiting()
            self._desk.ask("+CHUP", now, ignore, first=True)
        self._desk.ask(self._desk.maker.off, now, ignore)
        self._list(now)

    def _still_there(self, found: list[ListedCall], now: float) -> None:
        if self._ours(found) is not None:
            self._tries += 1
            if self._tries > _HANGUP_TRIES:
                self._desk.reset(now)
                return
            self._desk.ask("+CHUP" if self._tries < _HANGUP_TRIES else "H", now, ignore)
            return
        told = self._told
        self._begin(_Phase.IDLE)
        if told:
            self._desk.tell(Released(*self._why))

    # Inside

    def _begin(self, phase: _Phase) -> None:
        self._phase = phase
        self._told = self._seen = self._doubted = False
        self._tries = 0
        self._since = 0.0
        self._retry = self._watch = math.inf


def ignore(answer: Answer, now: float) -> None:
    """For commands whose answer changes nothing."""
