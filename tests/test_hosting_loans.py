"""Loans: the audio of one adapter's endpoint for a leg of another, and how it always comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.adapters.loopback import Loopback
from gateway.config import load
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import LegEnded
from gateway.errors import DeviceError, UsageError
from gateway.media.engine import Engine
from gateway.media.streams import DeviceFailed
from gateway.testing import TestHost
from gateway.testing.audio import level_at, read_wav
from gateway.testing.lending import Borrower, Lender
from gateway.typed import ConfigErrors


@asynccontextmanager
async def two() -> AsyncIterator[tuple[TestHost, Lender, TestHost, Borrower]]:
    near = TestHost("lender")
    lender = near.make(Lender, {"places": ["card/1", "card/2"]})
    far = TestHost("borrower", beside=near)
    borrower = far.make(Borrower, {})
    assert isinstance(lender, Lender)
    assert isinstance(borrower, Borrower)
    async with near.running(), far.running():
        yield near, lender, far, borrower


async def test_it_comes_back_with_the_end_of_the_leg_and_only_then() -> None:
    async with two() as (_, lender, far, borrower):
        first, second = borrower.borrow("card/1"), borrower.borrow("card/2")
        assert lender.lent == {"card/1": first, "card/2": second}
        with pytest.raises(DeviceError, match="lent to borrower/leg#1"):
            borrower.borrow("card/1")
        far.emit(LegEnded(leg=first, cause=Cause.NORMAL))
        assert lender.lent == {"card/2": second}
        assert far.exchange.loans.keys() == {second}
        third = borrower.borrow("card/1")
        # Another loan for the same leg replaces the one it has.
        far.emit(LegEnded(leg=second, cause=Cause.NORMAL))
        far.borrow_stream(third, "card/2")
        assert lender.lent == {"card/2": third}


async def test_what_is_wrong_is_said() -> None:
    async with two() as (near, lender, far, borrower):
        with pytest.raises(UsageError, match="not an open leg"):
            far.borrow_stream("borrower/leg#77", "card/1")
        with pytest.raises(DeviceError, match=r"no adapter has an endpoint card/9.*endpoints"):
            borrower.borrow("card/9")
        with pytest.raises(DeviceError, match="kind borrower does not lend"):
            borrower.borrow("borrower/leg")
        near.set_endpoint(Endpoint(id="card/2", condition=Condition.DOWN, reason="no battery"))
        with pytest.raises(DeviceError, match="card/2 is down: no battery"):
            borrower.borrow("card/2")

        def broken(endpoint: str, leg: str) -> None:
            raise RuntimeError("a fault of the lender")

        lender.lend = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(DeviceError, match="card/1: RuntimeError: a fault of the lender"):
            borrower.borrow("card/1")
        assert near.counters["lend_failed"] == 1


async def test_a_device_that_fails_ends_the_leg_and_goes_back() -> None:
    async with two() as (_, lender, far, borrower):
        leg = borrower.borrow("card/1")
        far.stream(leg).report(DeviceFailed(errno=5))
        ended = far.of(LegEnded, leg=leg)[0]
        assert (ended.cause, ended.detail) == (
            Cause.OUT_OF_ORDER, "audio of card/1: Input/output error",
        )  # fmt: skip
        assert lender.lent == {}


async def test_a_lender_that_dies_ends_the_leg() -> None:
    async def dies(self: Lender) -> None:
        self.host.ready()
        await asyncio.sleep(0.05)
        raise DeviceError("the card is gone")

    near = TestHost("lender")
    lender = near.make(type("Mortal", (Lender,), {"run": dies}), {"places": ["card/1"]})
    far = TestHost("borrower", beside=near)
    borrower = far.make(Borrower, {})
    assert isinstance(borrower, Borrower)
    async with far.running():
        service = asyncio.ensure_future(near.serve())
        while not near.up:  # noqa: ASYNC110
            await asyncio.sleep(0)
        leg = borrower.borrow("card/1")
        assert await service == "the card is gone"
        ended = far.of(LegEnded, leg=leg)[0]
        assert ended.cause is Cause.ADAPTER_LOST
        assert ended.detail == "audio of card/1: the card is gone"
        with pytest.raises(DeviceError, match="adapter lender is down"):
            borrower.borrow("card/1")
    assert lender is near.adapter


async def test_a_borrower_that_is_stopped_gives_back() -> None:
    near = TestHost("lender")
    lender = near.make(Lender, {"places": ["card/1"]})
    assert isinstance(lender, Lender)
    async with near.running():
        far = TestHost("borrower", beside=near)
        borrower = far.make(Borrower, {})
        assert isinstance(borrower, Borrower)
        async with far.running():
            borrower.borrow("card/1")
        assert lender.lent == {}
        assert near.exchange.loans == {}


async def test_the_audio_of_a_lent_port_is_heard(tmp_path: Path) -> None:
    engine = Engine(max_streams=4, ports=(31900, 31999), realtime=False)
    await engine.start()
    try:
        near = TestHost("loopback", engine=engine)
        near.make(Loopback, {"ports": {"tone": {"tone_hz": 440}}})
        far = TestHost("borrower", beside=near)
        borrower = far.make(Borrower, {})
        assert isinstance(borrower, Borrower)
        async with near.running(), far.running():
            leg = borrower.borrow("loopback/tone")
            far.stream(leg).record(str(tmp_path / "heard.wav"), both=False)
            await asyncio.sleep(1.0)
            far.stream(leg).stop_record()
            await far.recorded(tmp_path / "heard.wav")
            refused = near.dial("loopback/tone")
            busy = near.of(LegEnded, leg=refused)[0]
            assert (busy.cause, busy.detail) == (Cause.BUSY, f"lent to {leg}")
        assert far.of(LegEnded, leg=leg)[0].cause is Cause.SHUTDOWN
        (heard, *_), _ = read_wav(tmp_path / "heard.wav")
        # On a busy machine blocks may slip, but within one the tone is whole.
        levels = sorted(level_at(heard[at : at + 160], 440) for at in range(1600, 6400, 160))
        assert levels[len(levels) // 2] == pytest.approx(-9.1, abs=1.5)
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ("fxs/9", r"adapters.door.stations.gate.audio: no adapter defines endpoint fxs/9"),
        ("loopback/eccho", r"no adapter defines endpoint loopback/eccho \(.*loopback/echo"),
        ("door/bus", r"door/bus does not lend its audio \(kind 'intercom'\)"),
    ],
)
def test_check_names_a_wrong_endpoint(tmp_path: Path, audio: str, words: str) -> None:
    file = tmp_path / "gateway.toml"
    text = (
        f'[gateway]\ndata_dir = "{tmp_path}"\n[adapters.loopback]\n'
        '[adapters.door]\nkind = "intercom"\nport = "/dev/ttyS9"\nprofile = "tcsbus"\n'
        '[adapters.door.stations.gate]\naddress = 1\naudio = "{}"\n'
    )
    file.write_text(text.replace("{}", "loopback/echo"))
    load(file)
    file.write_text(text.replace("{}", audio))
    with pytest.raises(ConfigErrors, match=words):
        load(file)
