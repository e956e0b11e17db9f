"""The tour: one call on each network and one alarm through all of them, measured on the way.

Every line that says "ok" was measured: on the WAV file of who heard it, on what the radio or a
relay did, or on what the panel received. Each side speaks a frequency of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import click

from gateway.errors import DeviceError
from gateway.lab.heard import Heard, loudest
from gateway.lab.linecard import Telephone
from gateway.lab.pbx import DORA_HZ
from gateway.lab.softphone import Softphone
from gateway.lab.stand import (
    BELL_HZ,
    LINE_HZ,
    MOBILE_HZ,
    SOFTPHONE_HZ,
    STATION_HZ,
    TELEPHONE_HZ,
    Stand,
)
from gateway.lab.transceiver import VOICE_HZ
from gateway.media.speech import DEADLINE_S
from gateway.testing.audio import read_wav

_HEARD_DBM0: Final = -30.0
_SPEECH_DBM0: Final = -40.0
_WITHIN_S: Final = 15.0
_LISTEN_S: Final = 1.5


class Failed(Exception):
    """A step of the tour did not do what it should."""


class Tour:
    """Plays the tour on a stand and tells it on the terminal."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    async def play(self) -> None:
        """All steps. Raises `Failed` naming the first that went wrong."""
        for title, step in (
            ("SIP: a softphone calls an analog telephone", self._sip),
            ("Analog: a telephone dials", self._analog),
            ("Outside line: somebody calls in", self._outside),
            ("Mobile network: somebody calls", self._mobile),
            ("Intercom: the button at the gate", self._intercom),
            ("Radio: somebody calls on the air", self._radio),
            ("Paging: one voice in the hall", self._page),
            ("Contacts, relays, bells", self._contacts),
            ("Another PBX: a call through our account there", self._account),
            ("One alarm through all of them", self._alarm),
        ):
            async with self._step(title):
                await step()
                await self._until("no call is left", self._no_call)

    @contextlib.asynccontextmanager
    async def _step(self, title: str) -> AsyncIterator[None]:
        click.secho(f"\n{title}", bold=True)
        try:
            yield
        except (TimeoutError, DeviceError) as error:
            raise Failed(f"{title}: {error or 'it took too long'}") from error

    def _say(self, text: str) -> None:
        click.echo(f"  {text}")

    def _check(self, text: str, ok: bool, measured: str) -> None:
        mark = click.style("ok" if ok else "FAILED", fg="green" if ok else "red")
        self._say(f"{mark}  {text} ({measured})")
        if not ok:
            raise Failed(f"{text}: {measured}")

    def _heard(self, text: str, heard: Heard, hz: float) -> None:
        found = heard.tone_dbm0(hz)
        measured = f"{hz:.0f} Hz at {found:.1f} dBm0 in {heard.path.name}"
        self._check(text, found > _HEARD_DBM0, measured)

    async def _until(self, what: str, seen: Callable[[], Awaitable[bool] | bool]) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while True:
            found = seen()
            if found if isinstance(found, bool) else await found:
                return
            if time.monotonic() > deadline:
                raise Failed(f"it never came about that {what}")
            await asyncio.sleep(0.05)

    # The steps

    async def _sip(self) -> None:
        stand, phone, anna = self.stand, self.stand.phone(1), self.stand.softphone
        self._say("anna (baresip, a foreign softphone) dials 11: sip/anna -> fxs/1")
        seen = len(anna.events)
        async with self._lifted_when_it_rings(1):
            await anna.dial(f"sip:11@127.0.0.1:{stand.sip_port}")
        await anna.wait("CALL_ESTABLISHED", skip=seen)
        await phone.tone(f"{TELEPHONE_HZ:.0f}", -10.0)
        heard = await stand.listen("1", _LISTEN_S, "telephone-hears-anna")
        await phone.stop()
        await self._show_call()
        self._heard("the telephone heard the softphone", heard, SOFTPHONE_HZ)
        await self._put_down(phone)
        await anna.wait("CALL_CLOSED", skip=seen)
        self._softphone_heard("the softphone heard the telephone", anna, TELEPHONE_HZ)

    async def _analog(self) -> None:
        stand, phone, anna = self.stand, self.stand.phone(2), self.stand.softphone
        seen = len(anna.events)
        await phone.lift()
        heard = await stand.listen("2", 1.0, "telephone-hears-dial-tone")
        level = min(heard.tone_dbm0(350.0), heard.tone_dbm0(440.0))
        self._check(
            "telephone 2 is lifted and hears the dial tone",
            level > _HEARD_DBM0,
            f"350 and 440 Hz at {level:.1f} dBm0 or more",
        )
        self._say("it dials 21 by DTMF: fxs/2 -> sip/anna")
        await phone.dial_dtmf("21")
        await anna.wait("CALL_INCOMING", skip=seen)
        await anna.accept()
        await anna.wait("CALL_ESTABLISHED", skip=seen)
        heard = await stand.listen("2", _LISTEN_S, "telephone-calls-anna")
        self._heard("they are connected", heard, SOFTPHONE_HZ)
        await anna.hang_up()
        await anna.wait("CALL_CLOSED", skip=seen)
        await self._put_down(phone)

    async def _outside(self) -> None:
        stand, phone, line = self.stand, self.stand.phone(1), self.stand.line
        self._say("the exchange rings, with caller ID: fxo/3 -> fxs/1")
        since = len(stand.card.facts)
        async with self._lifted_when_it_rings(1):
            await stand.call_in("5550199")
        await line.wait_for("seized", since=since, within=8.0)
        there, back = await self._both_ways("1", "line", "outside")
        self._heard("the telephone heard the caller", there, LINE_HZ)
        self._heard("the caller heard the telephone", back, TELEPHONE_HZ)
        await line.drop()
        await line.wait_for("released", since=since, within=8.0)
        await self._put_down(phone)

    async def _mobile(self) -> None:
        stand, phone = self.stand, self.stand.phone(1)
        self._say("a mobile telephone calls: lte/a -> fxs/1")
        async with self._lifted_when_it_rings(1):
            stand.mobile_calls("+491701234567")
        await self._until(
            "the module is connected", lambda: stand.module.call == (1, 0, "+491701234567")
        )
        back = await self._one_way("1", "mobile", "mobile-hears-telephone")
        heard = await stand.listen("1", _LISTEN_S, "telephone-hears-mobile")
        self._heard("the telephone heard the mobile", heard, MOBILE_HZ)
        self._heard("the mobile heard the telephone", back, TELEPHONE_HZ)
        await self._put_down(phone)
        await self._until("the module has hung up", lambda: stand.module.call is None)

    async def _intercom(self) -> None:
        phone, gate = self.stand.phone(1), self.stand.station("gate")
        self._say("somebody presses the button: intercom/gate -> fxs/1")
        async with self._lifted_when_it_rings(1):
            gate.call()
        await self._until("the gate is connected", lambda: gate.state == "talking")
        there = await self._one_way("gate", "1", "telephone-hears-gate")
        back = await self._one_way("1", "gate", "gate-hears-telephone")
        self._heard("talk key down: the telephone heard the gate", there, STATION_HZ["gate"])
        self._heard("talk key up: the gate heard the telephone", back, TELEPHONE_HZ)
        await self._put_down(phone)
        await self._until("the gate is idle", lambda: gate.state == "idle")

    async def _radio(self) -> None:
        phone, radio = self.stand.phone(1), self.stand.radio
        self._say("a carrier comes up: radio/north -> fxs/1")
        async with self._lifted_when_it_rings(1):
            radio.carrier(True)
        radio.carrier(False)
        there = await self._one_way("radio", "1", "telephone-hears-radio")
        self._heard("the telephone heard the radio", there, VOICE_HZ)
        self._check("nothing was transmitted meanwhile", not radio.overs, "rigctld: 0 overs")
        self._say("the guard takes the word with *, and gives it back with #")
        await phone.dial_dtmf("*")
        await self._until("the radio is keyed", lambda: radio.keyed)
        back = await self._one_way("1", "radio", "on-the-air")
        self._heard("the telephone was on the air", back, TELEPHONE_HZ)
        await phone.dial_dtmf("#")
        await self._until("the over is over", lambda: bool(radio.overs))
        self._check("the transmitter is released", not radio.keyed,
                    f"rigctld: keyed for {radio.overs[-1].seconds:.1f} s")  # fmt: skip
        await self._put_down(phone)

    async def _page(self) -> None:
        stand, anna = self.stand, self.stand.softphone
        self._say("anna dials 70: sip/anna -> page/hall, multicast RTP")
        seen = len(anna.events)
        await anna.dial(f"sip:70@127.0.0.1:{stand.sip_port}")
        await anna.wait("CALL_ESTABLISHED", skip=seen)
        heard = await stand.listen("hall", _LISTEN_S, "hall-hears-anna")
        self._heard("the hall heard her", heard, SOFTPHONE_HZ)
        await anna.hang_up()
        await anna.wait("CALL_CLOSED", skip=seen)

    async def _contacts(self) -> None:
        stand, cabinet = self.stand, self.stand.cabinet
        self._say("the door opens and closes again: modbus/cabinet, pymodbus")
        for closed, words in ((True, "the contact lit the lamp"), (False, "and put it out")):
            begin = time.monotonic()
            await cabinet.close("door", closed)
            await self._until(words, functools.partial(self._relay, "lamp", closed))
            self._check(words, True, f"coil 1 after {time.monotonic() - begin:.2f} s")
        next_ten = await stand.bells()
        self._say(f"{len(next_ten)} bells are due, the first on {next_ten[0]}; one is rung now")
        listening = asyncio.create_task(stand.listen("hall", 2.5, "hall-hears-bell"))
        await stand.ring_bell()
        self._heard("the hall heard the bell", await listening, BELL_HZ)

    async def _account(self) -> None:
        stand, phone = self.stand, self.stand.phone(2)
        if stand.pbx is None:
            self._say(f"left out: {stand.no_pbx}")
            return
        dora = stand.pbx.dora
        self._say("telephone 2 dials 851: fxs/2 -> pyvoip/line -> dora at the other PBX")
        seen = len(dora.events)
        await phone.lift()
        await asyncio.sleep(0.5)
        await phone.dial_dtmf("851#")
        await dora.wait("CALL_INCOMING", skip=seen)
        await dora.accept()
        await dora.wait("CALL_ESTABLISHED", skip=seen)
        await phone.tone(f"{TELEPHONE_HZ:.0f}", -10.0)
        heard = await stand.listen("2", _LISTEN_S, "telephone-hears-dora")
        self._heard("the telephone heard dora", heard, DORA_HZ)
        await self._put_down(phone)
        await dora.wait("CALL_CLOSED", skip=seen)
        self._softphone_heard("dora heard the telephone", dora, TELEPHONE_HZ)

    async def _alarm(self) -> None:
        stand, phone = self.stand, self.stand.phone(1)
        self._say("the alarm panel publishes: triggered (mqtt/house)")
        async with self._lifted_when_it_rings(1, "the guard's telephone"):
            await stand.raise_alarm()
        places = {
            "the guard": "1", "the hall": "hall", "the gate": "gate", "the platform": "platform",
            "the radio": "radio",
        }  # fmt: skip
        recordings = await asyncio.gather(
            *(self._listen_for_speech(place) for place in places.values())
        )
        for who, heard in zip(places, recordings, strict=True):
            level = heard.level_dbm0
            measured = f"{level:.1f} dBm0 in {heard.path.name}"
            self._check(f"{who} heard the announcement", level > _SPEECH_DBM0, measured)
        self._check("the siren is on", await self._relay("siren", True), "coil 0 is 1")
        await self._until("the radio is keyed", lambda: stand.radio.keyed)
        self._check("the radio is keyed", True, "rigctld: t is 1")
        await phone.dial_dtmf("1")
        begin = time.monotonic()
        acknowledged = await asyncio.wait_for(stand.panel.acknowledged.get(), _WITHIN_S)
        self._check(
            "the guard pressed 1: acknowledged, and the panel was told",
            acknowledged.get("by") == "fxs/1",
            f"by {acknowledged.get('by')}",
        )
        await self._until("the siren is off", lambda: self._relay("siren", False))
        await self._until("the radio is released", lambda: not stand.radio.keyed)
        off_s = time.monotonic() - begin
        await self._put_down(phone)
        await self._until("no call is left", self._no_call)
        quiet = await asyncio.gather(
            *(stand.listen(place, 0.5, f"after-{place}") for place in ("hall", "gate", "radio"))
        )
        n_samples = sum(len(heard.samples) for heard in quiet)
        self._check(
            "everything stopped: siren, radio, hall, gate",
            n_samples == 0,
            f"siren and radio off after {off_s:.1f} s, then {n_samples} samples in half a second",
        )
        await stand.calm()

    # What the steps have in common

    @contextlib.asynccontextmanager
    async def _lifted_when_it_rings(self, number: int, who: str = "") -> AsyncIterator[None]:
        phone = self.stand.phone(number)
        since = len(self.stand.card.facts)
        yield
        await phone.wait_for("ringing", "on", since=since, within=_WITHIN_S)
        self._say(f"{who or f'telephone {number}'} rings; somebody lifts it")
        await phone.lift()

    async def _put_down(self, phone: Telephone) -> None:
        await phone.hang_up()
        # Until then it might be the recall key: flash_ms of the lab's ports.
        await asyncio.sleep(0.5)

    async def _listen_for_speech(self, place: str) -> Heard:
        """What is heard in three seconds, again until there is speech in it: nobody has said this
        announcement before, and a busy machine takes a while to synthesise it."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            heard = await self.stand.listen(place, 3.0, f"alarm-{place}")
            if heard.level_dbm0 > _SPEECH_DBM0 or time.monotonic() > deadline:
                return heard

    async def _one_way(
        self, speaker: str, listener: str, name: str, *, seconds: float = _LISTEN_S
    ) -> Heard:
        _, heard = await asyncio.gather(
            self.stand.talk(speaker, seconds), self.stand.listen(listener, seconds, name)
        )
        return heard

    async def _both_ways(self, one: str, other: str, name: str) -> tuple[Heard, Heard]:
        """Both speak at once; what each heard."""
        stand = self.stand
        _, _, there, back = await asyncio.gather(
            stand.talk(one, _LISTEN_S),
            stand.talk(other, _LISTEN_S),
            stand.listen(one, _LISTEN_S, f"telephone-hears-{name}"),
            stand.listen(other, _LISTEN_S, f"{name}-hears-telephone"),
        )
        return there, back

    async def _relay(self, relay: str, on: bool) -> bool:
        return await self.stand.cabinet.relay(relay) is on

    async def _no_call(self) -> bool:
        return not await self.stand.ask("/v1/calls")

    async def _show_call(self) -> None:
        calls: list[dict[str, Any]] = await self.stand.ask("/v1/calls")
        for call in calls:
            legs = " <-> ".join(leg["endpoint"] for leg in call["legs"])
            self._say(f"gateway calls: {legs}, route {call.get('route', '')!r}")

    def _softphone_heard(self, text: str, phone: Softphone, hz: float) -> None:
        channels, rate = read_wav(phone.heard())
        found = loudest(list(channels[0]), hz, rate=rate)
        measured = f"{hz:.0f} Hz at {found:.1f} dBm0 in {phone.heard().name}"
        self._check(text, found > _HEARD_DBM0, measured)
