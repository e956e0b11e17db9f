"""The DAHDI driver on the virtual line card, and the card under foreign programs."""

import asyncio
import errno
import os
import shutil
import signal
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers import dahdi
from gateway.drivers.dahdi import (
    Channel,
    EventKind,
    EventPoll,
    Hook,
    Law,
    LineEvent,
    PortKind,
    Tone,
)
from gateway.errors import DeviceError
from gateway.lab import callerid
from gateway.lab.linecard import BUSY_TONE, LineCard


async def expect(channel: Channel, kind: EventKind, within: float = 3.0) -> LineEvent:
    """The next event of that kind, through an event loop that knows no POLLPRI."""
    poll = EventPoll()
    poll.add(channel)
    loop = asyncio.get_running_loop()
    waiting = asyncio.Event()
    loop.add_reader(poll.fileno(), waiting.set)
    seen = []
    try:
        async with asyncio.timeout(within):
            while True:
                await waiting.wait()
                waiting.clear()
                for ready in poll.ready():
                    for event in ready.events():
                        seen.append(event)
                        if event.kind is kind:
                            return event
    except TimeoutError:
        pytest.fail(f"no {kind.name}, only {seen}")
    finally:
        loop.remove_reader(poll.fileno())
        poll.close()


async def listen(channel: Channel, seconds: float) -> list[int]:
    """Linear samples read from a port."""
    heard = bytearray()
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        heard += channel.read() or b""
        await asyncio.sleep(0.01)
    return list(struct.unpack(f"<{len(heard) // 2}h", heard))


def loudness(samples: list[int]) -> float:
    """Root mean square."""
    return float((sum(x * x for x in samples) / max(1, len(samples))) ** 0.5)


async def test_foreign_tools_find_the_card(card: LineCard) -> None:
    scan = await card.tool("dahdi_scan")
    assert scan.count(",FXS") == 4
    assert scan.count(",FXO") == 4
    assert "Virtual line card" in scan
    listed = await card.tool("lsdahdi")
    assert listed.count("FXOKS") == 4
    assert listed.count("FXSKS") == 4
    assert "8 channels to configure" in await card.configure("fi")


async def test_foreign_clock_test(card: LineCard) -> None:
    # 8192 samples a pass against the machine's clock; a busy machine may spoil one pass
    out = await card.tool("dahdi_test", "-c", "4")
    best = float(out.split("Best: ")[1].split("%")[0])
    assert best >= 99.9


async def test_foreign_monitor_hears_the_line(card: LineCard) -> None:
    with Channel.open(1, directory=card.directory) as port:
        phone = card.telephone(1)
        await phone.lift()
        await expect(port, EventKind.RING_OFF_HOOK)
        port.hook(Hook.OFF_HOOK)
        await phone.tone("1000", dbm0=-3)
        raw = card.scratch(".raw")
        command = card.command("timeout", "1.5", "dahdi_monitor", "1", "-r", str(raw))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await process.wait()
    data = raw.read_bytes()
    samples = list(struct.unpack(f"<{len(data) // 2}h", data[: len(data) // 2 * 2]))
    assert len(samples) > 4000
    assert loudness(samples[2000:]) > 8000


def test_spans_and_channels_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="modprobe dahdi"):
        dahdi.spans(tmp_path)
    with pytest.raises(DeviceError, match="no such device"):
        Channel.open(1, directory=tmp_path)


async def test_ports_say_what_they_are(card: LineCard) -> None:
    assert [span.kind for span in dahdi.spans(card.directory)] == ["FXS", "FXO"]
    ports = dahdi.channels(card.directory)
    assert [port.kind for port in ports] == [PortKind.FXS] * 4 + [PortKind.FXO] * 4
    with Channel.open(3, directory=card.directory) as port:
        assert port.kind is PortKind.FXS
        assert port.buffers().block == 160
        port.set_timing(rx_flash_ms=700)
        assert port.params().rx_flash_ms == 700
        with pytest.raises(DeviceError, match="no timing"):
            port.set_timing(speed_ms=1)
        with pytest.raises(DeviceError, match="busy"):
            Channel.open(3, directory=card.directory)
    with pytest.raises(DeviceError, match="closed"):
        port.params()


async def test_bad_arguments_are_told(card: LineCard) -> None:
    with Channel.open(1, directory=card.directory) as port:
        for cadence in ([], [100], [100, 0], [1] * 18):
            with pytest.raises(DeviceError, match="cadence"):
                port.set_cadence(cadence)
        for digits in ("", "12x", "1" * 300):
            with pytest.raises(DeviceError, match="cannot dial"):
                port.dial(digits)
        with pytest.raises(DeviceError):
            port.set_tone_zone(77)


async def test_telephone_rings_and_is_answered(card: LineCard) -> None:
    phone = card.telephone(2)
    with Channel.open(2, directory=card.directory) as port:
        port.ring([400, 200, 400, 2000])
        first = await phone.wait_for("ringing", "on")
        pause = await phone.wait_for("ringing", "off")
        assert pause.ms - first.ms == pytest.approx(400, abs=2)
        again = await phone.wait_for("ringing", "on", since=card.facts.index(pause))
        assert again.ms - pause.ms == pytest.approx(200, abs=2)
        await phone.lift()
        await expect(port, EventKind.RING_OFF_HOOK)
        # the card's line circuit trips the ring by itself
        tripped = await phone.wait_for("ringing", "off", since=card.facts.index(again))
        assert tripped.ms - again.ms < 200
        port.hook(Hook.OFF_HOOK)
        await phone.hang_up()
        await expect(port, EventKind.ON_HOOK)


async def test_flash_and_pulse_digits(card: LineCard) -> None:
    phone = card.telephone(1)
    with Channel.open(1, directory=card.directory) as port:
        await phone.lift()
        await expect(port, EventKind.RING_OFF_HOOK)
        await phone.dial_pulse("10")
        assert (await expect(port, EventKind.PULSE_DIGIT)).digit == "1"
        assert (await expect(port, EventKind.PULSE_DIGIT)).digit == "0"
        await phone.flash(400)
        await expect(port, EventKind.WINK_FLASH)


async def test_audio_both_ways_and_tone(card: LineCard) -> None:
    phone = card.telephone(1)
    with Channel.open(1, directory=card.directory, linear=True) as port:
        await phone.lift()
        await expect(port, EventKind.RING_OFF_HOOK)
        port.hook(Hook.OFF_HOOK)
        await phone.record()
        port.tone(Tone.DIAL)
        await phone.tone("1000")
        heard = await listen(port, 0.5)
        # a sine of -13 dBm0 has a root mean square of 32768 * 10^(-16.14/20) / sqrt 2
        assert loudness(heard[800:]) == pytest.approx(3612, rel=0.1)
        raw = await phone.recorded()
        assert loudness(list(struct.unpack(f"<{len(raw) // 2}h", raw))[400:]) > 1000


@pytest.mark.skipif(not shutil.which("multimon-ng"), reason="no multimon-ng")
@pytest.mark.interop
async def test_foreign_decoder_hears_dtmf(card: LineCard) -> None:
    phone = card.telephone(1)
    with Channel.open(1, directory=card.directory) as port:
        await phone.lift()
        await expect(port, EventKind.RING_OFF_HOOK)
        port.hook(Hook.OFF_HOOK)
        await phone.record()
        port.dial("159D*0#")
        await expect(port, EventKind.DIAL_COMPLETE)
        raw = card.scratch(".raw")
        raw.write_bytes(await phone.recorded())
    sox = f"sox -t raw -r 8000 -e signed -b 16 -c 1 {raw} -t raw -r 22050 -"
    multimon = "multimon-ng -q -t raw -a DTMF -"
    process = await asyncio.create_subprocess_shell(
        f"{sox} | {multimon}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert "".join(line[-1] for line in out.decode().split("\n") if "DTMF" in line) == "159D*0#"


async def test_exchange_line(card: LineCard) -> None:
    exchange = card.exchange(5)
    with Channel.open(5, directory=card.directory, linear=True) as port:
        await asyncio.sleep(2.1)  # no ring is reported right after the port was opened
        await exchange.ring((600, 900))
        await expect(port, EventKind.RING_BEGIN)
        await expect(port, EventKind.RING_OFF_HOOK)
        port.hook(Hook.OFF_HOOK)
        await exchange.wait_for("seized")
        await asyncio.sleep(0.7)
        await exchange.battery("reversed")
        await expect(port, EventKind.POLARITY)
        port.dial("195")
        assert await exchange.digits(3) == "195"
        await expect(port, EventKind.DIAL_COMPLETE)
        await exchange.tone(BUSY_TONE)
        assert loudness(await listen(port, 0.4)) > 1000
        await exchange.drop(400)
        await expect(port, EventKind.ON_HOOK)
        port.hook(Hook.ON_HOOK)
        await exchange.wait_for("released")


async def test_unplugged_line_raises_and_clears_an_alarm(card: LineCard) -> None:
    exchange = card.exchange(6)
    with Channel.open(6, directory=card.directory) as port:
        assert port.params().rx_off_hook
        await exchange.battery("off")
        await expect(port, EventKind.ALARM)
        assert not port.params().rx_off_hook
        assert port.params().alarms & dahdi.Alarm.RED
        assert port.voltages().tip == 0
        await exchange.battery("on")
        await expect(port, EventKind.NO_ALARM)


async def test_caller_id_reaches_a_port_on_hook(card: LineCard) -> None:
    exchange = card.exchange(5)
    with Channel.open(5, directory=card.directory, linear=True) as port:
        message = callerid.mdmf("5551234567", "GATEWAY TEST", "11211938")
        # the message that two independent decoders have accepted
        assert message.hex() == (
            "802401083131323131393338020a35353531323334353637070c47415445574159205445535418"[:-2]
            + "1d"
        )
        task = asyncio.create_task(exchange.say(callerid.fsk(message), wait=True))
        heard = await listen(port, 1.5)
        await task
    assert loudness(heard) > 500


async def test_on_hook_telephone_hears_only_a_transfer(card: LineCard) -> None:
    phone = card.telephone(1)
    with Channel.open(1, directory=card.directory) as port:
        await phone.record()
        port.write(b"\x00" * 160)
        await asyncio.sleep(0.1)
        assert not any(await phone.recorded())
        await phone.record()
        port.on_hook_transfer(5000)
        port.write(b"\x00" * 160)
        await asyncio.sleep(1.0)
        assert any(await phone.recorded())


async def test_kill_hangs_up(card: LineCard) -> None:
    """A process that is killed leaves no port ringing or off hook: the kernel closes for it."""
    code = (
        "import sys, time; from gateway.drivers.dahdi import Channel, Hook\n"
        "a = Channel.open(1, directory=sys.argv[1]); a.ring([3000, 1000])\n"
        "b = Channel.open(5, directory=sys.argv[1]); b.hook(Hook.OFF_HOOK)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(card.directory)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    await card.telephone(1).wait_for("ringing", "on")
    await card.exchange(5).wait_for("seized")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await card.telephone(1).wait_for("ringing", "off")
    await card.exchange(5).wait_for("released")


async def test_pulled_card(card: LineCard) -> None:
    with Channel.open(1, directory=card.directory) as port:
        await card.fail(1)
        await expect(port, EventKind.REMOVED)
        with pytest.raises(DeviceError, match="gone"):
            port.hook(Hook.OFF_HOOK)
        with pytest.raises(DeviceError, match="gone"):
            port.read()
    with pytest.raises(DeviceError, match="gone"):
        Channel.open(1, directory=card.directory)
    await card.mend(1)
    Channel.open(1, directory=card.directory).close()


async def test_dead_daemon_is_a_lost_device(card: LineCard) -> None:
    with Channel.open(1, directory=card.directory) as port:
        poll = EventPoll()
        poll.add(port)
        os.kill(card.pid, signal.SIGKILL)
        assert poll.ready(5.0) == [port]
        with pytest.raises(DeviceError):
            port.event()
        poll.close()


async def test_companding(card: LineCard) -> None:
    """µ-law and A-law octets written come out as the same octets at a wired port."""
    octets = bytes(x for x in range(256) if x != 0x7F)  # µ-law has two zeros
    for fxs, law in ((1, Law.MU), (2, Law.A)):
        await card.cable(fxs, fxs + 4)
        with (
            Channel.open(fxs, directory=card.directory, law=law) as a,
            Channel.open(fxs + 4, directory=card.directory, law=law) as b,
        ):
            b.hook(Hook.OFF_HOOK)
            await expect(a, EventKind.RING_OFF_HOOK)
            b.flush(dahdi.Flush.READ)
            a.write(octets[:160])
            a.write(octets[160:] + octets[:65])
            heard = b""
            for _ in range(8):
                await asyncio.sleep(0.02)
                heard += b.read() or b""
            assert octets in heard, law


async def test_four_idle_ports_cost_little(card: LineCard) -> None:
    ports = [Channel.open(n, directory=card.directory) for n in range(1, 5)]
    before = card.cpu_seconds()
    await asyncio.sleep(2.0)
    used = card.cpu_seconds() - before
    for port in ports:
        port.close()
    assert used / 2.0 < 0.10


def test_event_pending_errno_is_not_a_posix_one() -> None:
    assert dahdi.Channel.__doc__
    assert 500 not in errno.errorcode


@given(st.integers(0, (1 << 31) - 1))
def test_any_event_code_decodes(code: int) -> None:
    event = LineEvent.of(code)
    assert event.code == code
    assert event.digit is None or len(event.digit) == 1
