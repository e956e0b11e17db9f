"""Port state machines on the driver on the virtual card: whole calls, telephone to exchange."""

import asyncio
import contextlib
import math
import shutil
import struct
from collections.abc import AsyncIterator
from typing import Final

import pytest

from gateway.drivers.dahdi import Channel, EventKind, EventPoll, Hook, LineEvent, Tone
from gateway.lab import callerid
from gateway.lab.linecard import LineCard
from gateway.protocols.analog import (
    CallerId,
    FxoConfig,
    FxoPort,
    FxsConfig,
    FxsPort,
    Rule,
    Signal,
    ToneName,
)
from gateway.protocols.analog.callerid import build_mdmf
from gateway.protocols.analog.digits import DialPlan
from gateway.protocols.analog.fxo import CallerIdFrom
from gateway.protocols.analog.signals import (
    Alert,
    Answered,
    Dial,
    Digits,
    DropBattery,
    Flash,
    Hangup,
    Idle,
    LineFault,
    LineRestored,
    OffHook,
    Output,
    PlayTone,
    Ring,
    RingDetected,
    SendCallerId,
    SetHook,
    SetPolarity,
    StopRing,
    StopTone,
)

FXS_SIGNALS: Final = {
    EventKind.RING_OFF_HOOK: Signal.LIFTED,
    EventKind.ON_HOOK: Signal.HUNG_UP,
    EventKind.WINK_FLASH: Signal.FLASHED,
    EventKind.PULSE_START: Signal.PULSE_STARTED,
    EventKind.RINGER_OFF: Signal.RINGER_OFF,
    EventKind.HOOK_COMPLETE: Signal.HOOK_DONE,
}
FXO_SIGNALS: Final = {
    EventKind.RING_BEGIN: Signal.RING_STARTED,
    EventKind.RING_OFF_HOOK: Signal.RING_ENDED,
    EventKind.ON_HOOK: Signal.BATTERY_LOST,
    EventKind.POLARITY: Signal.POLARITY_REVERSED,
    EventKind.DIAL_COMPLETE: Signal.DIAL_DONE,
    EventKind.ALARM: Signal.BATTERY_LOST,
    EventKind.NO_ALARM: Signal.BATTERY_RESTORED,
    EventKind.HOOK_COMPLETE: Signal.HOOK_DONE,
}
TONES: Final = {
    ToneName.DIAL: Tone.DIAL,
    ToneName.BUSY: Tone.BUSY,
    ToneName.CONGESTION: Tone.CONGESTION,
    ToneName.RINGBACK: Tone.RINGBACK,
    ToneName.STUTTER: Tone.STUTTER,
}


class Wired:
    """A port wired to its channel, with real time."""

    def __init__(self, port: FxsPort | FxoPort, channel: Channel) -> None:
        self.port, self.channel = port, channel
        self.said: list[Output] = []
        self._poll = EventPoll()
        self._poll.add(channel)
        self._news = asyncio.Event()

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.add_reader(self._poll.fileno(), woken.set)
        try:
            while True:
                due = self.port.next_timeout()
                wait = 0.05 if due is None else min(0.05, max(0.0, due - self.now))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await woken.wait()
                woken.clear()
                for event in self.channel.events():
                    self._take(event)
                self.port.tick(self.now)
                self.drain()
        finally:
            loop.remove_reader(self._poll.fileno())
            self._poll.close()

    def _take(self, event: LineEvent) -> None:
        signals = FXS_SIGNALS if isinstance(self.port, FxsPort) else FXO_SIGNALS
        if event.kind is EventKind.PULSE_DIGIT and isinstance(self.port, FxsPort):
            self.port.digit(event.digit or "", self.now)
        elif event.kind in signals:
            self.port.signal(signals[event.kind], self.now)

    def drain(self) -> None:
        while (output := self.port.next_output()) is not None:
            self.said.append(output)
            self._do(output)
            self._news.set()

    def _do(self, output: Output) -> None:
        channel = self.channel
        match output:
            case SetHook(off):
                channel.hook(Hook.OFF_HOOK if off else Hook.ON_HOOK)
            case Ring(cadence):
                channel.ring(cadence)
            case StopRing():
                channel.hook(Hook.RING_OFF)
            case PlayTone(tone):
                channel.tone(TONES[tone])
            case StopTone():
                channel.tone(Tone.STOP)
            case SetPolarity(value):
                channel.set_polarity(value)
            case DropBattery():
                channel.hook(Hook.ON_HOOK)
            case Dial(digits, pulse):
                channel.dial(digits, pulse=pulse)
            case SendCallerId(caller):
                samples = callerid.fsk(build_mdmf(caller))
                channel.on_hook_transfer(len(samples) // 16 + 100)
                channel.write(samples[:320])

    async def expect(self, wanted: object, within: float = 5.0) -> None:
        """Wait until the port has said this, or something of this type."""
        try:
            async with asyncio.timeout(within):
                while True:
                    for i, output in enumerate(self.said):
                        if output == wanted or (
                            isinstance(wanted, type) and isinstance(output, wanted)
                        ):
                            del self.said[: i + 1]
                            return
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"no {wanted}, only {self.said}")


@contextlib.asynccontextmanager
async def wired(card: LineCard, port: FxsPort | FxoPort, number: int) -> AsyncIterator[Wired]:
    with Channel.open(number, directory=card.directory, linear=True) as channel:
        # The driver ignores the loop for 600 ms after it is fed, and with it a quick first pulse.
        channel.set_timing(debounce_ms=60)
        one = Wired(port, channel)
        task = asyncio.create_task(one.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def amplitude(raw: bytes, frequency: float) -> float:
    """Amplitude of one frequency in raw samples."""
    samples = struct.unpack(f"<{len(raw) // 2}h", raw)
    angle = 2 * math.pi * frequency / 8000
    real = sum(x * math.cos(angle * i) for i, x in enumerate(samples))
    imaginary = sum(x * math.sin(angle * i) for i, x in enumerate(samples))
    return 2 * math.hypot(real, imaginary) / len(samples)


async def test_telephone_dials(card: LineCard) -> None:
    phone = card.telephone(1)
    async with wired(card, FxsPort(FxsConfig(plan=DialPlan(("1xx",)))), 1) as one:
        await phone.lift()
        await one.expect(OffHook())
        await asyncio.sleep(0.1)
        await phone.record()
        await asyncio.sleep(0.4)
        heard = (await phone.recorded())[640:5760]
        # US dial tone is 350 and 440 Hz and nothing else
        assert amplitude(heard, 350) > 1000
        assert amplitude(heard, 440) > 1000
        assert amplitude(heard, 600) < 100
        await phone.dial_pulse("123", pause_ms=400)
        await one.expect(StopTone())
        await one.expect(Digits("123", True))
        assert isinstance(one.port, FxsPort)
        one.port.answered(one.now)
        one.drain()
        await phone.flash(400)
        await one.expect(Flash())
        await phone.hang_up()
        await one.expect(Hangup(Rule.ON_HOOK))
        await one.expect(Idle())


async def test_telephone_is_rung_and_released(card: LineCard) -> None:
    phone = card.telephone(2)
    config = FxsConfig(cadence_ms=(400, 900), answer_reversal=True)
    async with wired(card, FxsPort(config), 2) as one:
        assert isinstance(one.port, FxsPort)
        assert one.port.ring(one.now, CallerId(number="5551234"))
        one.drain()
        await phone.wait_for("ringing", "on")
        await one.expect(SendCallerId)
        await phone.lift()
        await one.expect(Answered(Rule.OFF_HOOK))
        await phone.wait_for("polarity", "reversed")
        await asyncio.sleep(0.7)
        since = len(card.facts)
        one.port.release(one.now)
        one.drain()
        dropped = await phone.wait_for("battery", "off", since=since)
        back = await phone.wait_for("battery", "on", since=since)
        assert back.ms - dropped.ms == pytest.approx(500, abs=3)
        await one.expect(PlayTone(ToneName.BUSY))
        await phone.record()
        await asyncio.sleep(0.3)
        assert amplitude(await phone.recorded(), 620) > 300
        await phone.hang_up()
        await one.expect(Idle())


async def test_exchange_calls_and_drops(card: LineCard) -> None:
    exchange = card.exchange(5)
    async with wired(card, FxoPort(FxoConfig(caller_id=CallerIdFrom.NONE)), 5) as one:
        assert isinstance(one.port, FxoPort)
        await asyncio.sleep(2.1)  # the driver's own guard after opening
        await exchange.ring((800, 1000))
        await one.expect(RingDetected())
        await one.expect(Alert(None))
        assert one.port.answer(one.now)
        one.drain()
        await exchange.wait_for("seized")
        await asyncio.sleep(0.8)
        await exchange.drop(500)
        await one.expect(Hangup(Rule.CPC))
        await one.expect(Idle())
        await exchange.wait_for("released")


async def test_gateway_calls_the_exchange(card: LineCard) -> None:
    exchange = card.exchange(6)
    config = FxoConfig(wait_dial_tone=0, dial_delay=0.8)
    async with wired(card, FxoPort(config), 6) as one:
        assert isinstance(one.port, FxoPort)
        assert one.port.seize("5551", one.now)
        one.drain()
        await exchange.wait_for("seized")
        assert await exchange.digits(4) == "5551"
        await asyncio.sleep(0.3)
        await exchange.battery("reversed")
        await one.expect(Answered(Rule.POLARITY))
        await exchange.battery("on")
        await one.expect(Hangup(Rule.POLARITY))
        await exchange.wait_for("released")


async def test_line_is_unplugged(card: LineCard) -> None:
    exchange = card.exchange(7)
    async with wired(card, FxoPort(), 7) as one:
        await exchange.battery("off")
        await one.expect(LineFault("no battery"))
        await exchange.battery("on")
        await one.expect(LineRestored())


@pytest.mark.interop
@pytest.mark.skipif(not shutil.which("minimodem"), reason="no minimodem")
async def test_foreign_modem_reads_the_exchanges_caller_id(card: LineCard) -> None:
    """What a port on hook hears between rings is what minimodem takes for caller ID."""
    exchange = card.exchange(5)
    heard = bytearray()
    with Channel.open(5, directory=card.directory, linear=True) as port:
        sending = asyncio.create_task(exchange.send_caller_id("5551234567", "GATEWAY TEST"))
        while not sending.done():
            heard += port.read() or b""
            await asyncio.sleep(0.005)
        await sending
        await asyncio.sleep(0.1)
        while block := port.read():
            heard += block
    wav = card.scratch(".wav")
    convert = f"sox -t raw -r 8000 -e signed -b 16 -c 1 - {wav} && minimodem --rx callerid -f {wav}"
    process = await asyncio.create_subprocess_shell(
        convert,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate(bytes(heard))
    text = out.decode("utf-8", "replace")
    assert "5551234567" in text.replace("-", "").replace(" ", "")
    assert "GATEWAY TEST" in text
