"""Module: a radio module (GSM to LTE) that is brought up, watched, and makes one call at a time.

Commands of 3GPP TS 27.007; what switches the audio to a serial port is each maker's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import msgspec

from gateway.errors import UsageError
from gateway.protocols.modem import lines
from gateway.protocols.modem.at import Answer, Dialogue, Said, Unasked
from gateway.protocols.modem.lines import CallStatus, ListedCall, Registration

WATCH_CALL_S: Final = 5.0
"""How often the module is asked whether its call still exists: a lost result code must not keep
the line busy."""
WATCH_SETUP_S: Final = 1.0
"""The same while it is being set up."""
WATCH_SIGNAL_S: Final = 30.0
RING_LOST_S: Final = 12.0
"""No ring for so long, and no call listed: the caller gave up."""
_SETTLE_S: Final = 3.0
"""So long after dialling a module may not list the call yet."""
MAX_DIGITS: Final = 32
"""Digits that wait to be sent; the newest are dropped."""
_AUDIO_TRIES: Final = 5
_AUDIO_PAUSE_S: Final = 1.0
_HANGUP_TRIES: Final = 3
_WAKE_TRIES: Final = 5
_DEAD: Final = 3
"""Commands in a row without an answer: the module hangs."""


class Release(Enum):
    """Why a call is over."""

    NORMAL = auto()
    BUSY = auto()
    NO_ANSWER = auto()
    CANCELLED = auto()
    """The caller gave up before an answer."""
    FAILED = auto()
    """The module or the network refused to dial."""
    NO_AUDIO = auto()
    """The module would not switch its audio on."""


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How the module is; told when something of it changed."""

    registration: Registration = Registration.NONE
    technology: str = ""
    network: str = ""
    signal_dbm: int | None = None
    maker: str = ""
    model: str = ""
    firmware: str = ""

    @property
    def registered(self) -> bool:
        """Whether calls can be made."""
        return self.registration in (Registration.HOME, Registration.ROAMING)


class Up(msgspec.Struct, frozen=True, gc=False):
    """It is brought up. It need not be registered yet."""


class Down(msgspec.Struct, frozen=True, gc=False):
    """It cannot be used; to be opened anew. `why` is for a technician."""

    why: str


class Offered(msgspec.Struct, frozen=True, gc=False):
    """Somebody calls. `number` is empty when it is hidden or not known."""

    number: str


class Alerting(msgspec.Struct, frozen=True, gc=False):
    """The called telephone rings."""


class Connected(msgspec.Struct, frozen=True, gc=False):
    """The call is answered, by either side, and the module's audio is on."""


class Released(msgspec.Struct, frozen=True, gc=False):
    """The call is over, and the module is free for another one."""

    why: Release
    detail: str = ""


Happening = Status | Up | Down | Offered | Alerting | Connected | Released


class _Maker(msgspec.Struct, frozen=True, kw_only=True):
    probe: str
    before: tuple[str, ...]
    """Before dialling or answering."""
    after: str
    """Once connected; may have to be repeated."""
    off: str
    setup: tuple[str, ...]
    reset: str


_MAKERS: Final = {
    "quectel": _Maker(
        probe="+QPCMV?", before=("+QPCMV=0", "+QPCMV=1,0"), after="", off="+QPCMV=0",
        setup=('+QGPSCFG="outport","none"', "^DSCI=1"), reset="+CFUN=1,1",
    ),
    "simcom": _Maker(
        probe="+CPCMREG?", before=("+CPCMREG=0",), after="+CPCMREG=1", off="+CPCMREG=0",
        setup=(), reset="+CRESET",
    ),
}  # fmt: skip


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


_Heard = Callable[[Answer, float], None]


class Module:
    """Driven by `start`, calls' methods, `receive` and `advance`; `take` has what is to be sent.

    Never raises for what comes from the module.
    """

    def __init__(self) -> None:
        self.talk = Dialogue()
        self.status = Status()
        self._maker: _Maker | None = None
        self._heard: list[_Heard] = []
        """For each command asked, in their order: who waits for its answer."""
        self._found: list[Happening] = []
        self._up = self._dead = False
        self._unanswered = self._woken = 0
        self._registrations: dict[str, tuple[Registration, str]] = {}
        self._phase = _Phase.IDLE
        self._told = self._seen = False
        """The far end was told of; the module has listed the call."""
        self._tries = 0
        self._since = self._rang = 0.0
        """Our dialling was taken; the last ring."""
        self._retry = self._watch_call = self._watch_signal = math.inf
        self._why = (Release.NORMAL, "")

    # Driven by

    def start(self, now: float) -> None:
        """Bring it up."""
        self._ask("", now, self._awake, timeout_s=1.0)

    def receive(self, data: bytes, now: float) -> list[Happening]:
        """What octets from the module mean."""
        return self._deal(self.talk.receive(data, now), now)

    def advance(self, now: float) -> list[Happening]:
        """What the passing of time means."""
        found = self._deal(self.talk.advance(now), now)
        if self._dead:
            return [*found, *self._tell()]
        if now >= self._watch_signal:
            self._watch_signal = now + WATCH_SIGNAL_S
            self._ask_signal(now)
        if now >= self._watch_call:
            self._list(now)
        if now >= self._retry:
            self._retry = math.inf
            self._switch_audio(now)
        return [*found, *self._tell()]

    def due(self) -> float:
        """When `advance` has something to do."""
        return min(self.talk.due(), self._watch_call, self._watch_signal, self._retry)

    def take(self) -> bytes:
        """Octets to be sent now."""
        return self.talk.take()

    def said(self) -> list[Said]:
        """What is to be shown of the wire."""
        return self.talk.said()

    # Calls

    @property
    def free(self) -> bool:
        """Whether it can dial."""
        return self._up and self._phase is _Phase.IDLE and self.status.registered

    def dial(self, number: str, now: float) -> None:
        """Begin a call. Raises `UsageError`: not `free`, or no number."""
        if not self.free:
            raise UsageError("the module is not free")
        try:
            number = lines.dialled(number)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._begin(_Phase.DIALLING)
        self._before(now)
        self._ask(f"D{number};", now, self._dialled, timeout_s=20.0)

    def answer(self, now: float) -> None:
        """Answer the call that was offered; nothing happens when there is none."""
        if self._phase is _Phase.INCOMING and self._told:
            self._begin(_Phase.ANSWERING)
            self._before(now)
            self._ask("A", now, self._answered, timeout_s=20.0)

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
            if digit in "0123456789*#ABCD" and self.talk.n_waiting < MAX_DIGITS:
                self._ask(f"+VTS={digit}", now, _ignore, shown="+VTS=?")
                n += 1
        return n

    def reset(self, now: float) -> None:
        """Start the module anew: its audio is dead. `Down` comes of the next `advance`."""
        self.talk.urge(self._maker.reset if self._maker else "+CFUN=1,1")
        self._fail("it was reset")

    def on_hook(self) -> None:
        """Hang up past all queues, for when there is no time left."""
        self.talk.urge("+CHUP")

    # Bringing up

    def _awake(self, answer: Answer, now: float) -> None:
        if not answer.ok:
            self._woken += 1
            if self._woken >= _WAKE_TRIES:
                self._fail("no answer to AT (is it the port for commands, at this speed?)")
            else:
                self._ask("", now, self._awake, timeout_s=1.0)
            return
        self._ask("E0", now, _ignore)
        self._ask("+CMEE=1", now, _ignore)
        self._ask("+CGMI", now, lambda answer, _: self._know(maker=_first(answer)))
        self._ask("+CGMM", now, lambda answer, _: self._know(model=_first(answer)))
        self._ask("+CGMR", now, lambda answer, _: self._know(firmware=_first(answer)))
        self._ask("+CPIN?", now, self._sim, prefix="+CPIN:", timeout_s=10.0)

    def _sim(self, answer: Answer, now: float) -> None:
        state = answer.lines[0].partition(":")[2].strip() if answer.lines else ""
        if state != "READY":
            # A PIN that is sent again at each start would lock the card for good.
            self._fail(
                f"the SIM asks for {state}: switch that off in a telephone" if state
                else f"no SIM can be read ({answer.final})"
            )  # fmt: skip
            return
        # A call that is left from before is nobody's.
        self._ask("+CHUP", now, _ignore)
        for each in ("+COPS=3,0", "+CREG=2", "+CEREG=2", "+CLIP=1"):
            self._ask(each, now, _ignore, timeout_s=10.0)
        self._ask("+CREG?", now, self._registration, prefix="+CREG:")
        self._ask("+CEREG?", now, self._registration, prefix="+CEREG:")
        self._ask_signal(now)
        self._probe(list(_MAKERS.values()), now)

    def _probe(self, makers: list[_Maker], now: float) -> None:
        if not makers:
            self._fail("it knows neither AT+QPCMV nor AT+CPCMREG: its audio is on no serial port")
            return

        def answered(answer: Answer, now: float) -> None:
            if not answer.ok:
                self._probe(makers[1:], now)
                return
            self._maker = makers[0]
            for each in (*makers[0].setup, makers[0].off):
                self._ask(each, now, _ignore)
            self._ask("+CLCC", now, self._brought_up, prefix="+CLCC:")

        self._ask(makers[0].probe, now, answered, prefix=makers[0].probe.rstrip("?"))

    def _brought_up(self, answer: Answer, now: float) -> None:
        self._up = True
        self._watch_signal = now + WATCH_SIGNAL_S
        self._found.append(Up())
        self._found.append(self.status)

    # Watching

    def _registration(self, answer: Answer, now: float) -> None:
        for line in answer.lines:
            self._registered(line)

    def _registered(self, line: str) -> None:
        found = lines.registration(line)
        if found is None:
            return
        self._registrations[line.partition(":")[0]] = found
        # Either network will do for a call, so that one which has not got us says nothing.
        none = (Registration.NONE, "")
        best = max(
            (self._registrations.get(each, none) for each in ("+CEREG", "+CREG")),
            key=lambda each: each[0] in (Registration.HOME, Registration.ROAMING),
        )
        if best[0] not in (Registration.HOME, Registration.ROAMING):
            best = self._registrations.get("+CREG", best)
        self._know(registration=best[0], technology=best[1])

    def _ask_signal(self, now: float) -> None:
        self._ask("+CSQ", now, self._signal, prefix="+CSQ:", quiet=True)
        self._ask("+COPS?", now, self._network, prefix="+COPS:", quiet=True, timeout_s=10.0)

    def _signal(self, answer: Answer, now: float) -> None:
        for line in answer.lines:
            self._know(signal_dbm=lines.signal_dbm(line))

    def _network(self, answer: Answer, now: float) -> None:
        for line in answer.lines:
            self._know(network=lines.network(line) or "")

    def _know(self, **what: object) -> None:
        known = msgspec.structs.replace(self.status, **what)
        if known != self.status:
            self.status = known
            if self._up:
                self._found.append(known)

    # What comes

    def _deal(self, came: list[Answer | Unasked], now: float) -> list[Happening]:
        for each in came:
            if isinstance(each, Unasked):
                if self._up:
                    self._unasked(each.line, now)
                elif not self._dead:
                    self._registered(each.line)
                continue
            waits = self._heard.pop(0)
            self._unanswered = self._unanswered + 1 if each.final == "timeout" else 0
            if self._dead:
                continue
            if self._up and self._unanswered >= _DEAD:
                self._fail("it answers no command")
                continue
            waits(each, now)
        return self._tell()

    def _tell(self) -> list[Happening]:
        found, self._found = self._found, []
        return found

    def _unasked(self, line: str, now: float) -> None:
        if self._dead:
            return
        word, _, rest = line.partition(":")
        match word:
            case "RING" | "+CRING":
                self._ring(now)
            case "+CLIP":
                self._ring(now)
                number = lines.caller(line)
                if number is not None:
                    self._offer(number)
            case "+CREG" | "+CEREG":
                self._registered(line)
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
                self._watch_call = min(self._watch_call, now)
            case "RDY" | "POWERED DOWN" | "NORMAL POWER DOWN":
                self._fail(f"it starts anew by itself ({line})")
            case _:
                self.talk.counters["meaningless"] += 1

    # A call from outside

    def _ring(self, now: float) -> None:
        self._rang = now
        if self._phase is _Phase.IDLE:
            self._begin(_Phase.INCOMING)
            self._list(now)

    def _offer(self, number: str) -> None:
        if self._phase is _Phase.INCOMING and not self._told:
            self._told = True
            self._found.append(Offered(number))

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
        assert self._maker is not None
        for each in self._maker.before:
            self._ask(each, now, _ignore)

    def _dialled(self, answer: Answer, now: float) -> None:
        if self._phase is not _Phase.DIALLING:
            return
        if answer.ok:
            self._since = now
            self._watch_call = now + WATCH_SETUP_S
            return
        why = {"BUSY": Release.BUSY, "NO ANSWER": Release.NO_ANSWER}.get(answer.final)
        self._end(why or Release.FAILED, answer.final, now, hang_up=answer.final == "timeout")

    # Either way

    def _list(self, now: float) -> None:
        self._watch_call = math.inf
        self._ask("+CLCC", now, self._listed, prefix="+CLCC:", quiet=True)

    def _listed(self, answer: Answer, now: float) -> None:
        if self._phase is _Phase.IDLE:
            return
        pause = WATCH_CALL_S if self._phase is _Phase.TALKING else WATCH_SETUP_S
        self._watch_call = now + pause
        if answer.final == "timeout":
            return
        if not answer.ok:
            self._offer("")
            if self._phase is not _Phase.ENDING:
                return
        found = [call for line in answer.lines if (call := lines.listed_call(line)) is not None]
        if self._phase is _Phase.ENDING:
            self._still_there(found, now)
            return
        ours = self._ours(found)
        if ours is None:
            self._not_listed(now)
            return
        self._seen = True
        match ours.status:
            case CallStatus.ACTIVE:
                self._active(now)
            case CallStatus.ALERTING if self._phase is _Phase.DIALLING and not self._told:
                self._told = True
                self._found.append(Alerting())
            case CallStatus.INCOMING:
                self._offer(ours.number)

    def _ours(self, found: list[ListedCall]) -> ListedCall | None:
        for call in found:
            if call.voice and call.status is not CallStatus.WAITING:
                return call
        return None

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
        assert self._maker is not None
        if self._phase is not _Phase.SWITCHING:
            return
        if self._maker.after:
            self._ask(self._maker.after, now, self._switched)
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
        self._watch_call = now + WATCH_CALL_S
        self._found.append(Connected())

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
        assert self._maker is not None
        known = self._phase is not _Phase.INCOMING or self._told
        self._begin(_Phase.ENDING)
        self._told = known
        self._why = why, detail
        if hang_up:
            # Digits and questions that wait would hold it up.
            self.talk.forget()
            del self._heard[0 if self.talk.idle else 1 :]
            self._ask("+CHUP", now, _ignore)
        self._ask(self._maker.off, now, _ignore)
        self._list(now)

    def _still_there(self, found: list[ListedCall], now: float) -> None:
        if self._ours(found) is not None:
            self._tries += 1
            if self._tries > _HANGUP_TRIES:
                self.reset(now)
                return
            self._ask("+CHUP" if self._tries < _HANGUP_TRIES else "H", now, _ignore)
            return
        told = self._told
        self._begin(_Phase.IDLE)
        if told:
            self._found.append(Released(*self._why))

    # Inside

    def _begin(self, phase: _Phase) -> None:
        self._phase = phase
        self._told = self._seen = False
        self._tries = 0
        self._since = 0.0
        self._retry = self._watch_call = math.inf

    def _ask(
        self,
        command: str,
        now: float,
        heard: _Heard,
        *,
        prefix: str = "",
        timeout_s: float = 5.0,
        shown: str = "",
        quiet: bool = False,
    ) -> None:
        self.talk.request(
            command, now, prefix=prefix, timeout_s=timeout_s, shown=shown, quiet=quiet
        )
        self._heard.append(heard)

    def _fail(self, why: str) -> None:
        if not self._dead:
            self._dead = True
            self._up = False
            self._watch_call = self._watch_signal = self._retry = math.inf
            self._found.append(Down(why))


def _first(answer: Answer) -> str:
    line = answer.lines[0] if answer.ok and answer.lines else ""
    return "".join(each for each in line[:80] if each.isprintable())


def _ignore(answer: Answer, now: float) -> None:
    pass
