"""The tour: a call each way and an alarm, with what was measured on the way.

Every line that claims something was measured: on the WAV file that the telephone or the softphone
recorded, or on what the panel received.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import click

from gateway.errors import DeviceError
from gateway.lab.stand import SOFTPHONE_HZ, Stand
from gateway.testing.audio import level_at, read_wav

_HEARD_DBM0: Final = -30.0
_TELEPHONE_HZ: Final = 440.0


class Failed(Exception):
    """A step of the tour did not do what it should."""


class Tour:
    """Plays the tour on a stand and tells it on the terminal."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand

    async def play(self) -> None:
        """All steps. Raises `Failed` naming the first that went wrong."""
        async with self._step("A SIP call reaches an analog telephone"):
            await self._sip_to_telephone()
        async with self._step("The telephone calls back"):
            await self._telephone_to_sip()
        async with self._step("An alarm reaches a person"):
            await self._alarm()

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

    async def _sip_to_telephone(self) -> None:
        stand, phone, anna = self.stand, self.stand.phone(1), self.stand.softphone
        self._say("anna (baresip, a foreign softphone) dials 11: sip/anna -> fxs/1")
        seen = len(anna.events)
        ringing = asyncio.create_task(phone.wait_for_ring())
        await anna.dial(f"sip:11@127.0.0.1:{stand.sip_port}")
        await ringing
        self._say("telephone 1 rings; somebody lifts it")
        await phone.lift()
        await anna.wait("CALL_ESTABLISHED", skip=seen)
        await phone.tone("440", -10.0)
        heard = await stand.listen(1, 4.0, "telephone-1-hears-anna")
        await phone.stop()
        await self._show_call()
        there = heard.tone_dbm0(SOFTPHONE_HZ)
        self._check(
            "the telephone heard the softphone",
            there > _HEARD_DBM0,
            f"{SOFTPHONE_HZ:.0f} Hz at {there:.1f} dBm0 in {heard.path}",
        )
        await phone.hang_up()
        await anna.wait("CALL_CLOSED", skip=seen)
        back = self._softphone_heard(_TELEPHONE_HZ)
        self._check(
            "the softphone heard the telephone",
            back > _HEARD_DBM0,
            f"{_TELEPHONE_HZ:.0f} Hz at {back:.1f} dBm0 in {anna.heard()}",
        )

    async def _telephone_to_sip(self) -> None:
        stand, phone, anna = self.stand, self.stand.phone(2), self.stand.softphone
        seen = len(anna.events)
        await phone.lift()
        dial_tone = await stand.listen(2, 1.2, "telephone-2-dial-tone")
        level = min(dial_tone.tone_dbm0(350.0), dial_tone.tone_dbm0(440.0))
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
        heard = await stand.listen(2, 3.0, "telephone-2-hears-anna")
        there = heard.tone_dbm0(SOFTPHONE_HZ)
        self._check(
            "they are connected", there > _HEARD_DBM0, f"{SOFTPHONE_HZ:.0f} Hz at {there:.1f} dBm0"
        )
        await anna.hang_up()
        await asyncio.sleep(0.3)
        await phone.hang_up()

    async def _alarm(self) -> None:
        stand, phone = self.stand, self.stand.phone(1)
        ringing = asyncio.create_task(phone.wait_for_ring())
        self._say("the alarm panel publishes: triggered (mqtt/house)")
        await stand.raise_alarm()
        await ringing
        self._say("telephone 1 rings; somebody lifts it and listens")
        await phone.lift()
        heard = await stand.listen(1, 3.0, "telephone-1-hears-alarm")
        self._check(
            "the announcement was heard",
            heard.level_dbm0 > -40.0,
            f"{heard.level_dbm0:.1f} dBm0 in {heard.path}",
        )
        await phone.dial_dtmf("1")
        acknowledged = await asyncio.wait_for(stand.panel.acknowledged.get(), 10.0)
        self._check(
            "pressing 1 acknowledged it, and the panel was told",
            acknowledged.get("by") == "fxs/1",
            f"by {acknowledged.get('by')}",
        )
        await asyncio.sleep(0.5)
        await phone.hang_up()
        await stand.calm()

    async def _show_call(self) -> None:
        calls: list[dict[str, Any]] = await self.stand.ask("/v1/calls")
        for call in calls:
            legs = " <-> ".join(leg["endpoint"] for leg in call["legs"])
            self._say(f"gateway calls: {legs}, route {call.get('route', '')!r}")

    def _softphone_heard(self, hz: float) -> float:
        channels, rate = read_wav(self.stand.softphone.heard())
        samples, half = channels[0], rate // 2
        windows = range(0, max(1, len(samples) - half), half // 2)
        return max(level_at(samples[at : at + half], hz, rate=rate) for at in windows)
