"""Intercom: the adapter."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.adapters.base import Adapter, Host
from gateway.adapters.intercom.config import BUS, Station, Zone, profile
from gateway.adapters.intercom.config import Config as IntercomConfig
from gateway.adapters.intercom.legs import Leg, State
from gateway.adapters.intercom.line import Line
from gateway.adapters.intercom.outputs import Outputs
from gateway.adapters.intercom.speech import BusSpeech, open_elsewhere
from gateway.adapters.intercom.troubles import INPUTS, Troubles
from gateway.core.actions import (
    Answer,
    Dial,
    Hangup,
    Key,
    Progress,
    Ring,
    SendDigits,
    SetOutput,
    Unkey,
)
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    MessageReceived,
    Quality,
)
from gateway.errors import DeviceError, PeerError, Unsupported, UsageError
from gateway.media.streams import StreamOptions
from gateway.protocols.intercom.fields import Value
from gateway.protocols.intercom.link import (
    Done,
    Failed,
    Happening,
    Heard,
    Link,
    Opened,
    Presence,
    Trouble,
)
from gateway.protocols.intercom.openwebnet import COMMANDS, EVENTS, Login
from gateway.protocols.intercom.profile import Means

_KEYS: Final = frozenset("0123456789*#ABCD")
_WATCH_S: Final = 1.0
_BLOCK_S: Final = 0.02
_ROUND_S: Final = 0.5


class Intercom(Adapter):
    """Stations on a serial bus."""

    kind = "intercom"
    Config = IntercomConfig

    def __init__(self, name: str, config: IntercomConfig, host: Host) -> None:
        super().__init__(name, config, host)
        self._profile = bus = profile(config.profile)
        self._line_settings = config.line(bus)
        self._places: dict[str, Station | Zone] = {**config.stations, **config.zones}
        self._names = {place.at: name for name, place in self._places.items()}
        self._troubles = Troubles(host, f"{name}/{BUS}")
        self._lines: list[Line] = []
        self._legs: dict[str, Leg] = {}
        self._asked: dict[int, tuple[str, str]] = {}
        """Number of a command: the leg that waits for it and what for."""
        self._inputs: dict[tuple[str, str], float] = {}
        self._outputs = Outputs(bus.outputs, self._send_output, self._write_output)
        self._conditions: dict[str, tuple[Condition, str]] = {}
        self._opened = self._n_lines = 0
        self._heard_of: set[str] = set()
        """Stations whose presence is known since the line was opened."""
        self._round = asyncio.Event()
        self._refused = False

    # Places

    def endpoints(self) -> Iterable[Endpoint]:
        bus = self._profile
        yield Endpoint(
            id=f"{self.name}/{BUS}", label=bus.title, duplex=Duplex.NONE, can_ring=False,
            inputs=tuple(dict.fromkeys(INPUTS.values())), detail={"port": self.config.port},
        )  # fmt: skip
        inputs = tuple(
            dict.fromkeys(
                rule.input
                for rule in bus.rules
                if rule.means is Means.INPUT and "{" not in rule.input
            )
        )
        alarm = any(rule.means is Means.ALARM for rule in bus.rules)
        for name, place in self._places.items():
            if isinstance(place, Zone):
                yield Endpoint(
                    id=f"{self.name}/{name}", label=place.label, location=place.location,
                    number=place.number, duplex=Duplex.LISTEN, detail={"address": place.at},
                )  # fmt: skip
                continue
            speech = self.config.speech_of(place)
            yield Endpoint(
                id=f"{self.name}/{name}",
                label=place.label,
                location=place.location,
                number=place.number,
                duplex=self._duplex(name),
                can_ring=bool(bus.call) and speech != "none",
                borrows=place.borrowed,
                inputs=(*inputs, *self._more_inputs(speech)),
                outputs=tuple(bus.outputs),
                alarm=alarm,
                detail={"address": place.at, "speech": speech},
            )

    def borrows(self) -> Iterable[tuple[str, str]]:
        for name, station in self.config.stations.items():
            if station.borrowed:
                yield f"stations.{name}.audio", station.borrowed

    def _more_inputs(self, speech: str) -> tuple[str, ...]:
        means = {rule.means for rule in self._profile.rules}
        ptt = ("ptt",) if Means.FLOOR in means else ()
        return (*ptt, "call") if speech == "none" and Means.CALL in means else ptt

    def _set(self, name: str, condition: Condition, reason: str = "") -> None:
        self._conditions[name] = (condition, reason)
        for endpoint in self.endpoints():
            if endpoint.id == f"{self.name}/{name}":
                self.host.set_endpoint(
                    msgspec.structs.replace(endpoint, condition=condition, reason=reason)
                )

    # Running

    async def run(self) -> None:
        self._conditions.clear()
        self._inputs.clear()
        lost = ""
        self.host.create_task(self._watch(), name="watch")
        try:
            while True:
                try:
                    await self._open()
                except DeviceError:
                    # One that refuses us is not asked every other second: the gateway waits.
                    if not lost or self._refused:
                        raise
                    await asyncio.sleep(self.config.reopen_s)
                    continue
                if lost:
                    self.host.count("reopened")
                    self.host.log.info("the bus is back", port=self.config.port, was=lost)
                await self._first_round()
                self.host.ready()
                self._greet()
                lost = await self._until_lost()
                self._line_lost(lost)
                await asyncio.sleep(min(self.config.reopen_s, random.uniform(0.05, 0.5)))
        finally:
            for leg in list(self._legs.values()):
                self._end(leg, Cause.SHUTDOWN)
            self.safe_state()
            self._close()

    async def _open(self) -> None:
        """Open every line and get through setup and log-in. Raises `DeviceError`."""
        self._opened, self._refused = 0, False
        self._heard_of.clear()
        self._round.clear()
        if not self.config.stations:
            self._round.set()
        settings = self.config.settings(self._line_settings)
        bus = msgspec.structs.replace(self._profile, line=self._line_settings)
        addresses = [place.at for place in self.config.stations.values()]
        rate = 0.0 if "://" in self.config.port else float(self._line_settings.baud)
        logins: list[Login | None] = [None]
        if bus.login and "://" in self.config.port:
            # That bus answers commands on one connection and reports events on another.
            logins = [
                Login(session, self.config.password.reveal(), lambda n: secrets.token_hex(n // 2))
                for session in (EVENTS, COMMANDS)
            ]
        self._n_lines = len(logins)
        try:
            for login in logins:
                polls = login is None or login is logins[-1]
                link = Link(bus, addresses, rate=rate, login=login, polls=polls)
                line = Line(link, self.host.now, self._happened, self._show)
                self._lines.append(line)
                await line.open(self.config.port, settings)
            async with asyncio.timeout(15.0):
                while self._opened < self._n_lines:
                    done, _ = await asyncio.wait(
                        [line.lost for line in self._lines], timeout=0.01,
                        return_when=asyncio.FIRST_COMPLETED,
                    )  # fmt: skip
                    if done:
                        raise DeviceError(f"{self.config.port}: {done.pop().result()}")
        except BaseException:
            self._close()
            raise

    def _show(self, data: bytes, outward: bool) -> None:
        if self._opened < self._n_lines and self.config.password:
            # The answer to a log-in can be tried against every password, at leisure.
            self.host.wire(f"{self.name}/{BUS}", "(logging in)", kind="serial", outward=outward)
        else:
            self.host.wire(f"{self.name}/{BUS}", data, kind="serial", outward=outward)

    async def _first_round(self) -> None:
        """Let the stations be heard once, so that the first call knows who is there."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._round.wait(), _ROUND_S)

    def _greet(self) -> None:
        self._set(BUS, Condition.UP)
        for name in self.config.zones:
            self._set(name, Condition.UP)

    async def _until_lost(self) -> str:
        done, _ = await asyncio.wait(
            [line.lost for line in self._lines], return_when=asyncio.FIRST_COMPLETED
        )
        return str(done.pop().result())

    def _line_lost(self, why: str) -> None:
        self.host.count("line_lost")
        self.host.log.error("the bus is gone", port=self.config.port, reason=why)
        self._close()
        reason = f"{self.config.port}: {why}"
        self._set(BUS, Condition.DOWN, reason)
        for name in self._places:
            self._gone(name, reason)

    def _gone(self, name: str, reason: str) -> None:
        """A station cannot be reached: its call is over, its inputs are as last heard."""
        for leg in [leg for leg in self._legs.values() if leg.name == name]:
            self._end(leg, Cause.ADAPTER_LOST, reason)
        self._set(name, Condition.DOWN, reason)
        for (place, input_), value in list(self._inputs.items()):
            if place == name:
                del self._inputs[place, input_]
                self.host.emit(
                    InputChanged(
                        endpoint=f"{self.name}/{name}", input=input_, value=value,
                        quality=Quality.STALE,
                    )
                )  # fmt: skip

    def _close(self) -> None:
        for line in self._lines:
            line.close()
        self._lines.clear()
        self._asked.clear()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            self._troubles.watch()

    def safe_state(self) -> None:
        self._outputs.rest()
        for leg in self._legs.values():
            leg.keyed = False

    # From the bus

    def _happened(self, line: Line, what: Happening) -> None:
        match what:
            case Opened():
                self._opened += 1
                if self._opened == self._n_lines:
                    # What was on when the line went away: let go of by the station, or now.
                    self._outputs.settle()
            case Failed(why=why):
                self._refused = True
                line.end(why)
            case Trouble(kind=kind, what=text, station=station):
                self._troubles.report(kind, text, self._names.get(station, station))
            case Done():
                self._done(what)
            case Presence(station=station, there=there, why=why):
                # Of two connections the one with the events knows.
                if line is self._lines[0]:
                    self._present(self._names[station], there, why)
            case Heard():
                self._heard(what, self._names[what.station])

    def _present(self, name: str, there: bool, why: str) -> None:
        self._heard_of.add(name)
        if self._heard_of >= self.config.stations.keys():
            self._round.set()
        if there:
            self._set(name, Condition.UP)
            return
        self.host.count("stations_lost")
        self.host.log.warning("station is gone", station=name, reason=why)
        self._gone(name, why)
        self._outputs.forget(name)

    def _heard(self, heard: Heard, name: str) -> None:
        endpoint = f"{self.name}/{name}"
        rule = heard.rule
        leg = next((leg for leg in self._legs.values() if leg.name == name), None)
        match heard.means:
            case Means.AUDIO:
                samples = heard.values.get(rule.audio)
                if leg is not None and leg.bus is not None and isinstance(samples, bytes):
                    if not leg.bus.heard(samples):
                        self.host.count("audio_dropped")
                elif leg is None:
                    self.host.count("audio_unwanted")
            case Means.CALL:
                self._called(heard, name, leg)
            case Means.RINGING if leg is not None and leg.state is State.DIALLED:
                self._ringing(leg)
            case Means.ANSWER if leg is not None:
                self._answered(leg)
            case Means.END:
                if leg is not None and leg.state is not State.DIALLED:
                    causes = {State.OFFERED: Cause.CANCELLED, State.RINGING: Cause.REJECTED}
                    self._end(leg, causes.get(leg.state, Cause.NORMAL), tell=False)
                self._input(name, "call", 0.0, known_only=True)
            case Means.FLOOR:
                self._floor(name, leg, bool(_number(heard.text(rule.value))))
            case Means.DIGIT:
                digits = [each for each in heard.text(rule.digit).upper() if each in _KEYS]
                for digit in digits if leg is not None else ():
                    assert leg is not None
                    self.host.emit(DigitPressed(leg=leg.id, digit=digit, via="keypad"))
                if leg is None:
                    self.host.count("digits_unwanted", len(digits))
            case Means.INPUT:
                self._input(name, heard.text(rule.input), _number(heard.text(rule.value)))
            case Means.ALARM:
                self.host.emit(
                    AlarmRaised(
                        endpoint=endpoint, alarm=heard.text(rule.alarm) or "alarm",
                        kind="fault" if rule.alarm == "down" else rule.alarm,
                        text=heard.text(rule.text), trace=self.host.new_trace(),
                        raised_at=self.host.now(),
                    )
                )  # fmt: skip
            case Means.ALARM_CLEARED:
                self.host.emit(
                    AlarmCleared(endpoint=endpoint, alarm=heard.text(rule.alarm) or "alarm")
                )
            case Means.MESSAGE:
                self.host.emit(
                    MessageReceived(
                        endpoint=endpoint, sender=heard.station, text=heard.text(rule.text),
                        trace=self.host.new_trace(),
                    )
                )  # fmt: skip

    def _called(self, heard: Heard, name: str, leg: Leg | None) -> None:
        station = self.config.stations[name]
        called = heard.text(heard.rule.called)
        if called and self.config.numbers and called not in self.config.numbers:
            self.host.count("calls_of_others")
            return
        if self.config.speech_of(station) == "none":
            self._input(name, "call", 1.0)
            return
        if leg is not None:
            self.host.count("calls_repeated")
            return
        leg = Leg(
            self.host.new_leg(f"{self.name}/{name}"), name, station.at, State.OFFERED, heard.values
        )
        self._legs[leg.id] = leg
        self.host.emit(
            LegOffered(
                leg=leg.id,
                endpoint=f"{self.name}/{name}",
                called=called or station.calls,
                calling=station.number,
                display=station.label,
                trace=self.host.new_trace(),
                demanded_at=self.host.now(),
                priority=station.level,
            )
        )

    def _answered(self, leg: Leg) -> None:
        """The station, or somebody inside the exchange, picked up."""
        match leg.state:
            case State.DIALLED | State.RINGING:
                leg.state = State.ANSWERING
                self._ask(leg, self._profile.talk, "talk")
            case State.OFFERED:
                self._end(leg, Cause.ANSWERED_ELSEWHERE, tell=False)

    def _ringing(self, leg: Leg) -> None:
        leg.state = State.RINGING
        self.host.emit(LegRinging(leg=leg.id))

    def _floor(self, name: str, leg: Leg | None, pressed: bool) -> None:
        if not self._input(name, "ptt", float(pressed)) or leg is None:
            return
        if leg.state is State.TALKING and self._duplex(name) is Duplex.HALF:
            event = FloorRequested if pressed else FloorReleased
            self.host.emit(event(leg=leg.id))

    def _input(self, name: str, input_: str, value: float, *, known_only: bool = False) -> bool:
        """Report a changed input; whether it has changed."""
        key = (name, input_)
        known = self._inputs.get(key)
        if not input_ or known == value or (known_only and known is None):
            return False
        if known is None and len(self._inputs) >= 64 * (len(self._places) + 1):
            self.host.count("inputs_refused")
            return False
        self._inputs[key] = value
        self.host.emit(
            InputChanged(
                endpoint=f"{self.name}/{name}", input=input_, value=value,
                trace=self.host.new_trace(),
            )
        )  # fmt: skip
        return True

    def _done(self, done: Done) -> None:
        leg_id, what = self._asked.pop(done.request, ("", ""))
        leg = self._legs.get(leg_id)
        if not done.ok:
            self.host.count("commands_failed")
        if leg is None:
            if not done.ok and what:
                self.host.log.warning("a command failed", command=what, reason=done.why)
            return
        if not done.ok:
            refused = "refuses" in done.why
            self._end(leg, Cause.REJECTED if refused else Cause.NO_RESPONSE, done.why)
        elif what == "call" and leg.state is State.DIALLED:
            self._ringing(leg)
        elif what == "talk" and leg.state is State.ANSWERING:
            self._talk(leg)

    # From the gateway

    def dial(self, action: Dial) -> None:
        name = action.endpoint.partition("/")[2]
        place = self._places.get(name)
        if place is None:
            raise DeviceError(f"there is no station or zone {action.endpoint}")
        if isinstance(place, Station) and not (
            self._profile.call and self._duplex(name) is not Duplex.NONE
        ):
            raise Unsupported(f"{action.endpoint} cannot be called over this bus")
        leg = Leg(action.leg, name, place.at, State.DIALLED, {})
        if isinstance(place, Station) and place.via:
            leg.values["number"] = place.via
        if any(other.name == name for other in self._legs.values()):
            self._refuse(action, Cause.BUSY, "a call is up")
        elif not self._lines or self._conditions.get(name, ("",))[0] is Condition.DOWN:
            self._refuse(action, Cause.OUT_OF_ORDER, self._conditions.get(name, ("", ""))[1])
        elif self._on_bus(name) and self._n_speaking() >= self.room:
            self._refuse(action, Cause.NO_CIRCUIT, self._full)
        elif lent := self._lent(name):
            self._refuse(action, Cause.NO_CIRCUIT, lent)
        else:
            self._legs[leg.id] = leg
            if isinstance(place, Zone):
                self._talk(leg)
            elif action.auto_answer and self._profile.talk:
                leg.state = State.ANSWERING
                self._ask(leg, self._profile.talk, "talk")
            else:
                self._ask(leg, self._profile.call, "call")

    def _refuse(self, action: Dial, cause: Cause, detail: str) -> None:
        self.host.emit(LegEnded(leg=action.leg, cause=cause, detail=detail))

    @property
    def room(self) -> int:
        """Calls whose speech the line can carry at a time."""
        line = self._line_settings
        bits = 1 + line.data_bits + (line.parity != "N") + line.stop_bits
        both = 2 if any(s.duplex == "full" for s in self.config.stations.values()) else 1
        return max(1, int(_BLOCK_S * line.baud / bits / (170 * both)))

    @property
    def _full(self) -> str:
        return f"the line carries the speech of {self.room} call(s) at a time"

    def _lent(self, name: str) -> str:
        """Why the port that carries the station's speech is not free: another station has it."""
        place = self._places[name]
        port = place.borrowed if isinstance(place, Station) else ""
        for leg in self._legs.values() if port else ():
            other = self._places[leg.name]
            if (
                leg.state is not State.OFFERED
                and isinstance(other, Station)
                and other.borrowed == port
            ):
                return f"{port} carries the speech of {leg.id}"
        return ""

    def ring(self, action: Ring) -> None: ...

    def progress(self, action: Progress) -> None: ...

    def answer(self, action: Answer) -> None:
        leg = self._legs.get(action.leg)
        if leg is None or leg.state is not State.OFFERED:
            return
        if self._on_bus(leg.name) and self._n_speaking() >= self.room:
            self._end(leg, Cause.NO_CIRCUIT, self._full)
            return
        if lent := self._lent(leg.name):
            self._end(leg, Cause.NO_CIRCUIT, lent)
            return
        leg.state = State.ANSWERING
        self._ask(leg, self._profile.talk, "talk")

    def hangup(self, action: Hangup) -> None:
        leg = self._legs.get(action.leg)
        if leg is not None:
            self._end(leg, action.cause, action.detail)

    def key(self, action: Key) -> None:
        self._key(action.leg, True)

    def unkey(self, action: Unkey) -> None:
        self._key(action.leg, False)

    def _key(self, leg_id: str, keyed: bool) -> None:
        leg = self._legs.get(leg_id)
        if leg is not None:
            leg.keyed = keyed

    def send_digits(self, action: SendDigits) -> None:
        if not self._profile.digits:
            raise Unsupported(f"the bus {self.config.profile} takes no digits")
        leg = self._legs.get(action.leg)
        if leg is not None:
            self._command(self._profile.digits, leg.at, {"digits": action.digits})

    def set_output(self, action: SetOutput) -> None:
        name = action.endpoint.partition("/")[2]
        if action.output not in self._profile.outputs or name not in self.config.stations:
            raise Unsupported(f"{action.endpoint} has no output {action.output}")
        if not self._lines or self._conditions.get(name, ("",))[0] is Condition.DOWN:
            raise DeviceError(f"{action.endpoint} is down: {action.output} cannot be switched")
        self._outputs.switch(name, action.output, action.value, action.pulse_ms)

    def _send_output(self, name: str, command: str, values: dict[str, Value]) -> bool:
        if not self._lines:
            return False
        self._command(command, self._places[name].at, values)
        return True

    def _write_output(self, name: str, command: str, values: dict[str, Value]) -> bool:
        if not self._lines:
            return False
        link = self._lines[-1].link
        self._lines[-1].write_now(link.urgent(command, self._places[name].at, **values))
        return True

    def _command(self, command: str, at: str, values: dict[str, Value], leg: str = "") -> None:
        """Send a command; its failure is logged and counted. Raises `DeviceError`."""
        try:
            number = self._lines[-1].request(command, at, values)
        except (UsageError, IndexError) as error:
            raise DeviceError(f"{command}: {error}") from error
        if self._profile.commands[command].done:
            self._asked[number] = (leg, command)

    # Legs

    def _ask(self, leg: Leg, command: str, what: str) -> None:
        """Send a command for a leg; without a reply of the bus it took effect at once."""
        if command:
            try:
                number = self._lines[-1].request(command, leg.at, leg.extra)
            except (UsageError, IndexError, PeerError) as error:
                self._end(leg, Cause.OUT_OF_ORDER, str(error), tell=False)
                return
            if self._profile.commands[command].done:
                self._asked[number] = (leg.id, what)
                return
        if what == "call":
            self._ringing(leg)
        else:
            self._talk(leg)

    def _talk(self, leg: Leg) -> None:
        place = self._places[leg.name]
        speech = "bus" if isinstance(place, Zone) else self.config.speech_of(place)
        try:
            if speech == "bus":
                assert self._profile.audio is not None
                codec = self._profile.audio.codec
                shaping = place.shaping if isinstance(place, Station) else {}
                leg.bus = BusSpeech(
                    self.host, leg.id, codec, lambda block: self._say(leg, block),
                    StreamOptions(**shaping),
                )  # fmt: skip
            elif isinstance(place, Station):
                open_elsewhere(self.host, leg.id, place)
        except DeviceError as error:
            self.host.log.error("no audio", leg=leg.id, error=str(error))
            self._end(leg, Cause.RESOURCE_UNAVAILABLE, str(error))
            return
        leg.state = State.TALKING
        self.host.emit(LegAnswered(leg=leg.id))
        if self._duplex(leg.name) is Duplex.HALF and self._inputs.get((leg.name, "ptt")):
            self.host.emit(FloorRequested(leg=leg.id))

    def _say(self, leg: Leg, block: bytes) -> None:
        """20 ms of the gateway's speech, or of its silence."""
        if not self._lines:
            return
        audio = self._profile.audio
        place = self._places[leg.name]
        match place.duplex if isinstance(place, Station) else "full":
            case "half":
                speaks = leg.keyed
            case "switched":
                speaks = not self._inputs.get((leg.name, "ptt"))
            case _:
                speaks = True
        if not speaks and not (audio and audio.listen):
            return
        if not self._lines[-1].speak(leg.at, block if speaks else None):
            self.host.count("audio_late")

    def _end(self, leg: Leg, cause: Cause, detail: str = "", *, tell: bool = True) -> None:
        if self._legs.pop(leg.id, None) is None:
            return
        if leg.bus is not None:
            leg.bus.close()
        station = leg.name in self.config.stations
        if tell and station and self._profile.end and self._lines:
            if cause is Cause.SHUTDOWN:
                # The queue will not be served any more.
                with contextlib.suppress(UsageError):
                    link = self._lines[-1].link
                    self._lines[-1].write_now(link.urgent(self._profile.end, leg.at, **leg.extra))
            else:
                with contextlib.suppress(DeviceError):
                    self._command(self._profile.end, leg.at, leg.extra)
        self.host.emit(LegEnded(leg=leg.id, cause=cause, detail=detail))

    def _duplex(self, name: str) -> Duplex:
        place = self._places[name]
        if isinstance(place, Zone):
            return Duplex.LISTEN
        if self.config.speech_of(place) == "none":
            return Duplex.NONE
        return Duplex.HALF if place.duplex == "half" else Duplex.FULL

    def _on_bus(self, name: str) -> bool:
        place = self._places[name]
        return isinstance(place, Zone) or self.config.speech_of(place) == "bus"

    def _n_speaking(self) -> int:
        return sum(
            leg.state is not State.OFFERED and self._on_bus(leg.name) for leg in self._legs.values()
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
