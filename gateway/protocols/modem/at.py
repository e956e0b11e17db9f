"""Dialogue: one AT command at a time, its answer, and what a modem says unasked (ITU-T V.250)."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from typing import Final, TypedDict, Unpack

import msgspec

from gateway.errors import UsageError

MAX_LINE: Final = 1024
"""Octets; a longer line is no answer of a modem."""
MAX_LINES: Final = 512
"""Lines of one answer; further ones are dropped and counted."""
MAX_WAITING: Final = 64
"""Commands that wait for their turn."""
LATE_S: Final = 3.0
"""After a command that got no answer: so long one may still come, and belongs to nobody."""

_CALL_OVER: Final = frozenset({"NO CARRIER", "BUSY", "NO ANSWER", "NO DIALTONE", "NO DIAL TONE"})
_ERROR: Final = re.compile(r"\+CM([ES]) ERROR: ?(.{1,80})")
_UNASKED: Final = re.compile(
    r"RING$|\+CRING: |\+CLIP: |\+CCWA: |\+CMTI: |\+CMT: |\+CDSI: |\+CUSD: |\+QTONEDET: |\+RXDTMF: "
    r"|\+C(?:E|G)?REG: |\^|VOICE CALL: |MISSED_CALL: |\+QIND: |\+QUSIM: |\+SIMCARD: "
    r"|SMS (READY|DONE)$|PB DONE$|RDY$|POWERED DOWN$|NORMAL POWER DOWN$"
)


_KEY: Final = re.compile(r"(\+(?:QTONEDET|RXDTMF): ?).*")
_PDU: Final = re.compile(r"[0-9A-F]{20,}", re.IGNORECASE)
_PROMPT: Final = b">"
_SUBSTITUTE: Final = b"\x1a"
_ESCAPE: Final = b"\x1b"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A command is over."""

    command: str
    """Without ``AT``."""
    final: str
    """The final result code as it came, or ``timeout``."""
    lines: tuple[str, ...] = ()
    """Information lines between command and final result."""

    @property
    def ok(self) -> bool:
        """Whether the modem did it."""
        return self.final == "OK" or self.final.startswith("CONNECT")

    @property
    def error(self) -> str:
        """What follows ``+CME ERROR:`` or ``+CMS ERROR:`` (TS 27.007 9.2, TS 27.005 3.2.5)."""
        found = _ERROR.match(self.final)
        return found[2] if found else ""


class Unasked(msgspec.Struct, frozen=True, gc=False):
    """A line that answers nothing (an unsolicited result code)."""

    line: str


class Said(msgspec.Struct, frozen=True, gc=False):
    """What went over the line, fit to be shown: neither digits nor texts are in it."""

    text: str
    outward: bool


class How(TypedDict, total=False):
    """How a command is given; what is left out is as at `_Command`."""

    prefix: str
    """How lines of the answer begin; a line that begins otherwise and is known to come unasked is
    not taken for one."""
    timeout_s: float
    shown: str
    """What is shown instead of it (digits)."""
    quiet: bool
    """Not shown unless it fails: what is asked all day."""
    first: bool
    """Before all that wait."""
    kept: bool
    """`Dialogue.forget` does not drop it."""
    body: str
    """What follows when the modem asks for it (TS 27.005 section 3.5.1)."""


class _Command(msgspec.Struct, kw_only=True):
    text: str
    shown: str
    prefix: str = ""
    timeout_s: float = 5.0
    quiet: bool = False
    first: bool = False
    kept: bool = False
    body: str = ""
    """What the modem gets when it asks for it."""
    lines: list[str]


class Dialogue:
    """Driven by `request`, `receive` and `advance`; `take` has what is to be sent.

    Garbage is counted in `counters` (``too_long``, ``late``, ``meaningless``), never raised.
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._waiting: deque[_Command] = deque()
        self._pending: _Command | None = None
        self._due = math.inf
        self._late_until = -math.inf
        self._rest = b""
        self._skipping = False
        self._follows = False
        """The next line belongs to the last one."""
        self._out = bytearray()
        self._said: list[Said] = []

    @property
    def n_waiting(self) -> int:
        """Commands that wait for their turn."""
        return len(self._waiting)

    @property
    def waiting_for_answer(self) -> bool:
        """A command is pending."""
        return self._pending is not None

    @property
    def idle(self) -> bool:
        """Nothing is asked and nothing waits."""
        return self._pending is None and not self._waiting

    def request(self, command: str, now: float, **how: Unpack[How]) -> None:
        """Queue a command, without ``AT``; its `Answer` comes from `receive` or `advance`.

        Raises `UsageError`: control characters in it, or `MAX_WAITING` wait already.
        """
        body = how.get("body", "")
        if not (command + body).isprintable() or not (command + body).isascii():
            raise UsageError(f"AT{command!r}: only printable ASCII goes into a command")
        if len(self._waiting) >= MAX_WAITING:
            raise UsageError(f"{MAX_WAITING} commands wait already: the modem does not answer")
        how.setdefault("shown", command)
        made = _Command(text=command, lines=[], **how)
        self._waiting.insert(0 if made.first else len(self._waiting), made)
        self._next(now)

    def forget(self) -> None:
        """Drop the commands that wait, but for those to be kept; the pending one goes on."""
        self._waiting = deque(command for command in self._waiting if command.kept)

    def urge(self, command: str) -> None:
        """Send a command past all queues; nobody hears its answer."""
        if self._pending is not None and self._pending.body:
            # Else it would be taken for the text that the modem asks for.
            self._out += _ESCAPE
        self._out += b"AT" + command.encode("ascii") + b"\r"
        self._said.append(Said("AT" + command, True))

    def receive(self, data: bytes, now: float) -> list[Answer | Unasked]:
        """What octets from the modem mean."""
        found: list[Answer | Unasked] = []
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for raw in lines:
            if self._skipping:
                self._skipping = False
            elif len(raw) > MAX_LINE:
                self.counters["too_long"] += 1
            elif (line := raw.decode("ascii", "replace").strip("\0\x1b \t")) and not (
                line == ">" and self._prompted()
            ):
                self._line(line, found)
        if len(self._rest) > MAX_LINE:
            if not self._skipping:
                self.counters["too_long"] += 1
            self._rest, self._skipping = b"", True
        if self._rest.strip() == _PROMPT and self._prompted():
            self._rest = b""
        self._next(now)
        return found

    def advance(self, now: float) -> list[Answer | Unasked]:
        """What the passing of time means: a command may have got no answer."""
        found: list[Answer | Unasked] = []
        if self._pending is not None and now >= self._due:
            self._late_until = now + LATE_S
            self.counters["timeouts"] += 1
            # It may wait for a text, of ours or of who used it before, and take commands for one.
            self._out += _ESCAPE
            self._over("timeout", found)
        self._next(now)
        return found

    def due(self) -> float:
        """When `advance` has something to do; infinite: not before something comes."""
        if self._pending is not None:
            return self._due
        return self._late_until if self._waiting else math.inf

    def take(self) -> bytes:
        """Octets to be sent now."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def said(self) -> list[Said]:
        """What is to be shown of the wire since the last time."""
        said, self._said = self._said, []
        return said

    def _prompted(self) -> bool:
        """The modem asks for the text, and gets it."""
        if self._pending is None or not self._pending.body:
            return False
        self._out += self._pending.body.encode("ascii") + _SUBSTITUTE
        self._said.append(Said(_shown(self._pending.body), True))
        self._pending.body = ""
        return True

    def _next(self, now: float) -> None:
        if self._pending is not None or not self._waiting or now < self._late_until:
            return
        self._pending = command = self._waiting.popleft()
        self._due = now + command.timeout_s
        self._out += b"AT" + command.text.encode("ascii") + b"\r"
        if not command.quiet:
            self._said.append(Said("AT" + command.shown, True))

    def _line(self, line: str, found: list[Answer | Unasked]) -> None:
        command = self._pending
        if self._follows:
            self._follows = False
            self._unasked(line, found)
            return
        if command is not None and line.upper() == "AT" + command.text.upper():
            return  # the modem's echo
        final = (
            line in ("OK", "ERROR")
            or line.startswith("CONNECT")
            or _ERROR.fullmatch(line) is not None
        )
        if line in _CALL_OVER:
            # During any other command they tell of a call's end.
            final = command is not None and command.text[:1] in "DA"
        if command is None:
            if not final:
                self._unasked(line, found)
            else:
                # Of the command that was given up: what waits need not wait for it any more.
                self.counters["late"] += 1
                self._late_until = -math.inf
        elif final:
            self._over(line, found)
        elif line in _CALL_OVER or not self._answers(command, line):
            self._unasked(line, found)
        elif len(command.lines) < MAX_LINES:
            command.lines.append(line)
        else:
            self.counters["too_long"] += 1

    def _unasked(self, line: str, found: list[Answer | Unasked]) -> None:
        self._follows = line.startswith("+CMT:")
        self._said.append(Said(_shown(line), False))
        found.append(Unasked(line))

    def _answers(self, command: _Command, line: str) -> bool:
        if command.prefix:
            return line.startswith(command.prefix)
        return not _UNASKED.match(line)

    def _over(self, final: str, found: list[Answer | Unasked]) -> None:
        command, self._pending = self._pending, None
        self._due = math.inf
        assert command is not None
        if command.body and final == "OK":
            # Not its own: it never asked for the text, and may do so yet.
            self._out += _ESCAPE
            final = "ERROR"
        answer = Answer(command=command.text, final=final, lines=tuple(command.lines))
        if not command.quiet:
            self._said += [Said(_shown(line), False) for line in (*command.lines, final)]
        elif not answer.ok:
            self._said += [Said("AT" + command.shown, True), Said(final, False)]
        found.append(answer)


def _shown(line: str) -> str:
    """A line without what nobody may read."""
    if _PDU.fullmatch(line):
        return f"(a text message, {len(line) // 2} octets)"
    return _KEY.sub(r"\1?", line)
