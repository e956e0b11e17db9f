"""Module: a radio module (GSM to LTE) that is brought up, watched, and makes one call at a time.

Commands of 3GPP TS 27.007.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final, Unpack

import msgspec

from gateway.errors import UsageError
from gateway.protocols.modem import lines, pdu
from gateway.protocols.modem.at import Answer, Dialogue, How, Said, Unasked
from gateway.protocols.modem.calling import Calling, Heard, ignore
from gateway.protocols.modem.happenings import Down, Happening, Pressed, Status, Up
from gateway.protocols.modem.lines import Registration
from gateway.protocols.modem.makers import MAKERS, Maker
from gateway.protocols.modem.texts import Texts

WATCH_SIGNAL_S: Final = 30.0
_WAKE_TRIES: Final = 5
_DEAD: Final = 3
"""Commands in a row without an answer: the module hangs."""


class Module:
    """Driven by `start`, calls' methods, `receive` and `advance`; `take` has what is to be sent.

    Never raises for what comes from the module.
    """

    def __init__(self, *, keys: bool = False) -> None:
        """keys: have the module find the keys that the far end presses."""
        self.keys = False
        """It does."""
        self.talk = Dialogue()
        self._keys_wanted = keys
        self.status = Status()
        self._maker: Maker | None = None
        self._heard: list[tuple[Heard, bool]] = []
        """For each command asked, in their order: who waits for its answer, and whether it is
        kept."""
        self._found: list[Happening] = []
        self._up = self._dead = False
        self._unanswered = self._woken = 0
        self._registrations: dict[str, tuple[Registration, str]] = {}
        self._watch_signal = math.inf
        self._calling = Calling(self)
        self._texts = Texts(self)

    # Driven by

    def start(self, now: float) -> None:
        """Bring it up."""
        self.ask("", now, self._awake, timeout_s=1.0)

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
        self._calling.advance(now)
        self._texts.advance(now)
        return [*found, *self._tell()]

    def due(self) -> float:
        """When `advance` has something to do."""
        return min(self.talk.due(), self._watch_signal, self._calling.due(), self._texts.due())

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
        return self._up and self._calling.idle and self.status.registered

    def dial(self, number: str, now: float, *, hidden: bool = False) -> None:
        """Begin a call. hidden: our number is not to be shown there. Raises `UsageError`: not
        `free`, or no number."""
        if not self.free:
            raise UsageError("the module is not free")
        self._calling.dial(number, now, hidden=hidden)

    def answer(self, now: float) -> None:
        """Answer the call that was offered; nothing happens when there is none."""
        self._calling.answer(now)

    def hangup(self, now: float) -> None:
        """End the call in any state; `Released` follows. Nothing happens when there is none."""
        self._calling.hangup(now)

    def digits(self, digits: str, now: float) -> int:
        """Send DTMF in a call, which the network makes audible; how many were taken."""
        return self._calling.digits(digits, now)

    # Texts

    @property
    def sends_texts(self) -> bool:
        """Whether it knows texts at all."""
        return self._texts.able

    @property
    def can_send(self) -> bool:
        """Whether a text can be sent now."""
        return self._texts.able and self.status.registered and not self._texts.sending

    def send(self, number: str, text: str, reference: int, now: float) -> None:
        """Send a text; `TextSent` or `TextFailed` follows. reference: see `pdu.submitted`. Raises
        `UsageError`: not `can_send`, or what `pdu.submitted` raises it for."""
        if not self.can_send:
            raise UsageError("the module cannot send a text now")
        self._texts.send(pdu.submitted(number, text, reference), now)

    # All of it

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
                self.ask("", now, self._awake, timeout_s=1.0)
            return
        self.ask("E0", now, ignore)
        self.ask("+CMEE=1", now, ignore)
        self.ask("+CGMI", now, lambda answer, _: self._know(maker=_first(answer)))
        self.ask("+CGMM", now, lambda answer, _: self._know(model=_first(answer)))
        self.ask("+CGMR", now, lambda answer, _: self._know(firmware=_first(answer)))
        self.ask("+CPIN?", now, self._sim, prefix="+CPIN:", timeout_s=10.0)

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
        self.ask("+CHUP", now, ignore)
        for each in ("+COPS=3,0", "+CREG=2", "+CEREG=2", "+CLIP=1"):
            self.ask(each, now, ignore, timeout_s=10.0)
        self.ask("+CREG?", now, self._registration, prefix="+CREG:")
        self.ask("+CEREG?", now, self._registration, prefix="+CEREG:")
        self._ask_signal(now)
        self._probe(list(MAKERS.values()), now)

    def _probe(self, makers: list[Maker], now: float) -> None:
        if not makers:
            self._fail("it knows neither AT+QPCMV nor AT+CPCMREG: its audio is on no serial port")
            return

        def answered(answer: Answer, now: float) -> None:
            if not answer.ok:
                self._probe(makers[1:], now)
                return
            self._maker = makers[0]
            for each in (*makers[0].setup, makers[0].off):
                self.ask(each, now, ignore)
            if self._keys_wanted:
                self.ask(makers[0].keys, now, self._keys_found)
            self._texts.begin(now)
            self.ask("+CLCC", now, self._brought_up, prefix="+CLCC:")

        self.ask(makers[0].probe, now, answered, prefix=makers[0].probe.rstrip("?"))

    def _keys_found(self, answer: Answer, now: float) -> None:
        self.keys = answer.ok

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
        self.ask("+CSQ", now, self._signal, prefix="+CSQ:", quiet=True)
        self.ask("+COPS?", now, self._network, prefix="+COPS:", quiet=True, timeout_s=10.0)

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
            waits, _ = self._heard.pop(0)
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
        if self._texts.unasked(line, now):
            return
        word = line.partition(":")[0]
        match word:
            case "+QTONEDET" | "+RXDTMF":
                key = lines.key(line)
                if key is not None and self._calling.talking:
                    self._found.append(Pressed(key))
            case "+CREG" | "+CEREG":
                self._registered(line)
            case "RDY" | "POWERED DOWN" | "NORMAL POWER DOWN":
                self._fail(f"it starts anew by itself ({line})")
            case _ if not self._calling.unasked(line, now):
                self.talk.counters["meaningless"] += 1

    # What calls are made with

    @property
    def maker(self) -> Maker:
        """Whose module it is; known once it is up."""
        assert self._maker is not None
        return self._maker

    @property
    def counters(self) -> Counter[str]:
        """What was counted."""
        return self.talk.counters

    @property
    def n_waiting(self) -> int:
        """Commands that wait for their turn."""
        return self.talk.n_waiting

    def ask(
        self,
        command: str,
        now: float,
        heard: Heard,
        **how: Unpack[How],
    ) -> None:
        """Give a command; `heard` gets its answer. The rest as in `Dialogue.request`."""
        place = int(self.talk.waiting_for_answer) if how.get("first") else len(self._heard)
        self.talk.request(command, now, **how)
        self._heard.insert(place, (heard, how.get("kept", False)))

    def tell(self, what: Happening) -> None:
        """Something happened."""
        self._found.append(what)

    def texts_are_there(self) -> None:
        """The module can send and store texts."""
        self._know(texts=True)

    def drop_waiting(self) -> None:
        """Forget what waits for its turn, but for what is to be kept."""
        self.talk.forget()
        n = int(self.talk.waiting_for_answer)
        self._heard[n:] = [each for each in self._heard[n:] if each[1]]

    # Inside

    def _fail(self, why: str) -> None:
        if not self._dead:
            self._dead = True
            self._up = False
            self._watch_signal = math.inf
            self._calling.stop()
            self._texts.stop()
            self._found.append(Down(why))


def _first(answer: Answer) -> str:
    line = answer.lines[0] if answer.ok and answer.lines else ""
    return "".join(each for each in line[:80] if each.isprintable())
