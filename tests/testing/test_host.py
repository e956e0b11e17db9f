"""TestHost: what it tells a test about an adapter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.adapters.loopback import Loopback
from gateway.config import ConfigErrors
from gateway.core.actions import Hangup, Note
from gateway.core.envelope import Envelope
from gateway.core.events import AdapterReady, DigitPressed, LegAnswered, LegEnded, LegRinging
from gateway.core.numbers import Completeness
from gateway.errors import DeviceError, UsageError
from gateway.media.streams import DigitDetected, NullSpec, RtpSpec, StreamOptions
from gateway.testing import PaperStream, TestHost


async def test_a_leg_its_stream_and_its_events() -> None:
    host = TestHost("loopback")
    adapter = host.make(Loopback, {"ports": {"echo": {}}})
    async with host.running():
        assert host.of(AdapterReady)
        leg = host.dial("loopback/echo", calling="5")
        await host.wait_for(LegAnswered, leg=leg)
        stream = host.stream(leg)
        assert isinstance(stream, PaperStream)
        stream.report(DigitDetected(digit="7", duration_ms=90, via="inband"))
        assert (await host.wait_for(DigitPressed, digit="7")).leg == leg
        adapter.hangup(Hangup(leg=leg))
        assert stream.closed
        assert host.legs == []
    assert [type(e) for e in host.events[-4:]] == [LegRinging, LegAnswered, DigitPressed, LegEnded]


async def test_waiting_in_vain_tells_what_came() -> None:
    host = TestHost("loopback")
    host.make(Loopback, {})
    async with host.running():
        with pytest.raises(TimeoutError, match=r"no LegEnded with .* came: .*AdapterReady"):
            await host.wait_for(LegEnded, leg="x", within_s=0.01)


async def test_an_adapter_that_does_not_start() -> None:
    class Broken(Loopback):
        async def run(self) -> None:
            raise DeviceError("no such port")

    host = TestHost("loopback")
    host.make(Broken, {})
    with pytest.raises(DeviceError, match="ended before it was ready: no such port"):
        async with host.running():
            pass


async def test_the_configuration_is_checked_as_the_daemon_does() -> None:
    with pytest.raises(ConfigErrors, match=r"ports.a.answr_s: unknown key \(did you mean answer_s"):
        TestHost().make(Loopback, {"ports": {"a": {"answr_s": 1}}})


async def test_what_the_daemon_would_refuse_is_refused_here() -> None:
    host = TestHost("loopback")
    host.make(Loopback, {})
    host.emit(LegAnswered(leg="sip/x#1"))
    ((_, why),) = host.refused
    assert why == "leg sip/x#1 is not this adapter's"
    with pytest.raises(UsageError, match="is not an open leg of loopback"):
        host.open_stream("sip/x#1", NullSpec())
    with pytest.raises(UsageError, match="set_endpoint first"):
        host.new_leg("sip/x")


async def test_the_bus_the_dial_plan_and_the_data_directory(tmp_path: Path) -> None:
    host = TestHost("loopback", data_dir=tmp_path)
    host.make(Loopback, {})
    assert host.data_dir == tmp_path
    host.dial_plan = lambda endpoint, digits: Completeness.COMPLETE
    assert host.completeness("loopback/echo", "1") is Completeness.COMPLETE
    feed = host.subscribe(maximum=2)
    for n in range(3):
        action = Note(text=str(n))
        host.publish(Envelope(id=host.new_trace(), box="b", at=0.0, mono=0.0, action=action))
    feed.close()
    assert [envelope.body.text async for envelope in feed] == ["1", "2"]
    scratch = TestHost()
    assert scratch.data_dir.is_dir()


async def test_paper_streams_write_down_what_is_asked() -> None:
    host = TestHost("loopback")
    host.make(Loopback, {})
    leg = host.new_leg("loopback/echo")
    spec = RtpSpec(local_ip="127.0.0.1")
    stream = host.open_stream(leg, spec)
    assert stream.local[0] == "127.0.0.1"
    assert stream.local[1] % 2 == 0
    stream.update(spec)
    stream.configure(StreamOptions(detect_dtmf=True))
    stream.send_digits("5")
    stream.close()
    stream.play_tone("busy")
    assert isinstance(stream, PaperStream)
    assert [what for what, _ in stream.asked] == ["update", "configure", "send_digits"]
    await asyncio.sleep(0)
