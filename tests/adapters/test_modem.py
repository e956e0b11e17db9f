"""The modem adapter keeps every promise on a simulated radio module, and speech goes both ways.

The simulated module is ours; gammu, a foreign host, identifies it and dials with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.modem import ModemTrunks
from gateway.core.actions import Answer, Hangup, SendDigits, SendMessage
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    MessageReceived,
)
from gateway.errors import DeviceError, UsageError
from gateway.lab.radio_module import RadioModule, delivered
from gateway.media.engine import Engine
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from gateway.testing.audio import level_at, read_wav, write_wav
from gateway.testing.audio import tone as samples
from gateway.typed import ConfigErrors


def steady(samples: Sequence[int], hz: float) -> float:
    """Level of a frequency, as the middle of all blocks of 20 ms: a busy machine loses blocks."""
    pieces = [samples[at : at + 160] for at in range(0, len(samples) - 159, 160)]
    return statistics.median(level_at(piece, hz) for piece in pieces)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(31400, 31499), realtime=False)
    await made.start()
    yield made
    await made.stop()


def section(module: RadioModule, **more: Any) -> dict[str, Any]:
    return {"port": module.path, "audio": module.pcm_path, "audio_within_s": 10.0} | more


@contextlib.asynccontextmanager
async def running(
    module: RadioModule, engine: Any = None, **more: Any
) -> AsyncIterator[tuple[TestHost, Any]]:
    host = TestHost("modem", engine=engine)
    adapter = host.make(
        ModemTrunks, {"reopen_s": 0.1, "modems": {"a": section(module, calls="600", **more)}}
    )
    async with host.running():
        await until(lambda: host.endpoints["modem/a"].condition is Condition.UP)
        yield host, adapter


async def test_promises(engine: Engine) -> None:
    async def answer(adapter: Any, module: RadioModule) -> None:
        await until(lambda: module.call)
        module.say(module.state(3))
        module.say(module.state(0))

    scenario = Scenario(
        name="modem",
        dial="modem/a",
        number="+49301234",
        world=RadioModule,
        configure=lambda module: {"modems": {"a": section(module)}},
        offer=lambda adapter, module: module.say(module.ring("030123456")),
        answer=answer,
        garbage=lambda adapter, module: module.say(b"\xff\x00\r\n+CLCC: x\r\nOK\r\n+CREG: ,\r\n"),
        engine=engine,
    )
    config = {"modems": {"a": {"port": "/dev/ttyUSB2", "audio": "/dev/ttyUSB1"}}}
    report = await check_adapter(ModemTrunks, config, scenario)
    assert report.kept == list(PROMISES), report.unchecked


@pytest.mark.parametrize("maker", ["quectel", "simcom"])
async def test_somebody_calls_and_both_are_heard(
    maker: str, engine: Engine, tmp_path: Path
) -> None:
    spoken = write_wav(tmp_path / "spoken.wav", samples(400, 8.0, dbm0=-10))
    async with RadioModule(maker) as module, running(module, engine) as (host, adapter):
        module.say(module.ring("030123456"))
        offered = await host.wait_for(LegOffered)
        assert (offered.called, offered.calling, offered.hidden) == ("600", "030123456", False)
        leg = offered.leg
        adapter.answer(Answer(leg=leg))
        await host.wait_for(LegAnswered, leg=leg)
        host.stream(leg).play_file(str(spoken))
        host.stream(leg).record(str(tmp_path / "got.wav"))
        begin = len(module.heard)
        await until(lambda: len(module.heard) >= begin + 2 * 12000)
        host.stream(leg).stop_record()
        await host.recorded(tmp_path / "got.wav")
        heard = memoryview(bytes(module.heard[begin + 2 * 4000 : begin + 2 * 12000])).cast("h")
        got = read_wav(tmp_path / "got.wav")[0][0][3200:11200]
        assert steady(heard, 400) == pytest.approx(-10, abs=1)
        assert steady(heard, 1000) < -40
        # A peak of 8000 is -9.1 dBm0.
        assert steady(got, 1000) == pytest.approx(-9.1, abs=1)
        assert steady(got, 400) < -40
        adapter.send_digits(SendDigits(leg=leg, digits="42#"))
        await until(lambda: module.digits == "42#")
        module.call = None
        module.say(b"\r\nNO CARRIER\r\n")
        ended = await host.wait_for(LegEnded, leg=leg)
        assert (ended.cause, ended.detail) == (Cause.NORMAL, "NO CARRIER")
        await until(lambda: not module.audio)
    assert host.refused == []


@pytest.mark.skipif(shutil.which("gammu") is None, reason="gammu is not installed")
async def test_a_foreign_host_uses_the_simulated_module_and_exchanges_texts(tmp_path: Path) -> None:
    async with RadioModule() as module:
        settings, words = tmp_path / "gammurc", tmp_path / "words"
        # With the model gammu need not find out, which takes it seconds.
        settings.write_text(f"[gammu]\ndevice={module.path}\nconnection=at115200\nmodel=at\n")

        async def gammu(*lines: str) -> str:
            words.write_text("".join(f"{line}\n" for line in lines))
            process = await asyncio.create_subprocess_exec(
                "gammu", "-c", str(settings), "batch", str(words),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            try:
                async with asyncio.timeout(30.0):
                    out, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            assert process.returncode == 0, out
            return out.decode()

        async with RadioModule() as other, running(other, texts="201") as (host, adapter):
            there = SendMessage(
                endpoint="modem/a", recipient="+4917012345", text="Füllstand € " * 20, trace="t7"
            )
            adapter.send_message(there)
            await until(lambda: host.counters["messages_sent"])
            module.deliver(*map(delivered, other.sent))
            shown = await gammu(
                "identify", "networkinfo", "getallsms",
                'sendsms TEXT +4917054321 -smscnumber +4917000000 -unicode -text "Pumpe я läuft"',
                "dialvoice 030123",
            )  # fmt: skip
            for known in ("Simulated", "490154203237518", "home network", '"Simulated Net"',
                          "+4917012345", "part 2 of 2"):  # fmt: skip
                assert known in shown
            assert shown.count("€") == 20
            assert module.call == (0, 3, "030123")
            # And back: what gammu wrote.
            other.say(other.deliver(*map(delivered, module.sent)))
            came = await host.wait_for(MessageReceived)
            assert (came.sender, came.recipient, came.text) == (
                "+4917054321", "201", "Pumpe я läuft"
            )  # fmt: skip
            # What was sent is found with the trace of who asked for it.
            said = [entry for entry in host.exchange.wires.entries() if entry.key == "t7"]
            assert sum(str(entry.data).startswith("AT+CMGS=") for entry in said) == 2
            assert not any("F\u00fcllstand" in str(entry.data) for entry in said)
        assert host.refused == []


async def test_a_call_of_ours_rings_is_answered_and_ended(engine: Engine) -> None:
    async with RadioModule() as module, running(module, engine) as (host, adapter):
        leg = host.dial("modem/a", "+49301234")
        await until(lambda: module.call)
        assert "D+49301234;" in module.commands
        second = host.dial("modem/a", "1")
        assert host.of(LegEnded, leg=second)[0].cause is Cause.BUSY
        module.say(module.state(3))
        await host.wait_for(LegRinging, leg=leg)
        module.say(module.state(0))
        await host.wait_for(LegAnswered, leg=leg)
        adapter.send_digits(SendDigits(leg=leg, digits="7"))
        await until(lambda: module.digits == "7")
        adapter.hangup(Hangup(leg=leg))
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.NORMAL
        assert module.call is None
        seen = [
            (entry.outward, entry.data)
            for entry in host.exchange.wires.entries()
            if entry.kind == "at" and entry.about == leg
        ]
        assert (True, "ATD+49301234;") in seen
        assert (True, "AT+VTS=?") in seen
        assert (True, "AT+VTS=7") not in seen


async def test_what_cannot_be_dialled_ends_with_a_cause() -> None:
    async with RadioModule() as module, running(module) as (host, _):
        module.dial_result = "BUSY"
        leg = host.dial("modem/a", "1")
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.BUSY
        leg = host.dial("modem/a", "1;+CFUN=0")
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.ADDRESS_INCOMPLETE
        module.say(b"\r\n+CREG: 3\r\n")
        await until(lambda: host.endpoints["modem/a"].condition is Condition.DOWN)
        assert host.endpoints["modem/a"].reason == "the network refuses the SIM"
        leg = host.dial("modem/a", "1")
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.OUT_OF_ORDER


async def test_a_module_that_vanishes_ends_its_call(engine: Engine) -> None:
    async with RadioModule() as module, running(module, engine) as (host, _):
        leg = host.dial("modem/a", "1")
        await until(lambda: module.call)
        module.say(module.state(0))
        await host.wait_for(LegAnswered, leg=leg)
        module.unplug()
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.ADAPTER_LOST
        await until(lambda: host.endpoints["modem/a"].condition is Condition.DOWN)
        assert host.counters["modems_lost"] == 1


async def test_a_module_that_comes_back_is_used_again() -> None:
    """It vanishes with a text that waits; under the same name it is there again."""
    async with (
        RadioModule() as module,
        RadioModule() as later,
        lasting(module) as names,
        running(module, fault_after_s=0.0, **names) as (host, adapter),
    ):
        module.refuses_text = "+CMS ERROR: 38"
        adapter.send_message(SendMessage(endpoint="modem/a", recipient="1", text="high water"))
        await until(lambda: any(each.startswith("+CMGS=") for each in module.commands))
        module.unplug()
        raised = await host.wait_for(AlarmRaised)
        assert (raised.kind, raised.alarm) == ("fault", "fault")
        assert host.endpoints["modem/a"].condition is Condition.DOWN
        point(names, later)
        await until(lambda: host.endpoints["modem/a"].condition is Condition.UP)
        assert host.of(AlarmCleared)[-1].endpoint == "modem/a"
        assert host.counters["modems_lost"] == 1
        leg = host.dial("modem/a", "1")
        await until(lambda: later.call)
        adapter.hangup(Hangup(leg=leg))
        await host.wait_for(LegEnded, leg=leg)


def point(names: dict[str, str], module: RadioModule) -> None:
    for name, path in ((names["port"], module.path), (names["audio"], module.pcm_path)):
        Path(name).unlink(missing_ok=True)
        Path(name).symlink_to(path)


@contextlib.asynccontextmanager
async def lasting(module: RadioModule) -> AsyncIterator[dict[str, str]]:
    """Names that stay when the module comes back elsewhere, as udev gives them."""
    with tempfile.TemporaryDirectory() as place:
        names = {"port": f"{place}/at", "audio": f"{place}/pcm"}
        point(names, module)
        yield names


async def test_texts_that_cannot_be_sent() -> None:
    async with RadioModule() as module, running(module, texts_an_hour=2) as (host, adapter):

        def send(text: str = "x", to: str = "+4917012345") -> None:
            adapter.send_message(SendMessage(endpoint="modem/a", recipient=to, text=text))

        with pytest.raises(UsageError, match="nobody"):
            send(to="nobody")
        with pytest.raises(DeviceError, match="texts_an_hour = 2"):
            send("x" * 400)
        module.refuses_text = "+CMS ERROR: 21"
        send()
        await until(lambda: host.counters["messages_failed"] == 1)
        assert host.counters["messages_refused"] == 1
        assert sum(each.startswith("+CMGS=") for each in module.commands) == 1
    # What was sent of a text before it was refused counts, too.
    async with RadioModule() as module, running(module, texts_an_hour=3) as (host, adapter):
        module.refuses_text, module.refuses_from = "+CMS ERROR: 38", 2
        adapter.send_message(SendMessage(endpoint="modem/a", recipient="1", text="x" * 400))
        await until(lambda: host.counters["messages_failed"] == 1)
        assert len(module.sent) == 2
    async with RadioModule() as module:
        module.knows_texts = False
        async with running(module) as (host, adapter):
            with pytest.raises(DeviceError, match="sends no texts"):
                adapter.send_message(SendMessage(endpoint="modem/a", recipient="1", text="x"))


@pytest.mark.parametrize(
    ("change", "condition", "reason"),
    [
        ({"sim": ""}, Condition.DOWN, "no SIM can be read (+CME ERROR: 10)"),
        ({"sim": "SIM PIN"}, Condition.DOWN, "the SIM asks for SIM PIN"),
        ({"creg": "2,2"}, Condition.DOWN, "not registered in a network (searching)"),
        ({"csq": 2}, Condition.UP, "weak signal, -109 dBm"),
    ],
)
async def test_what_is_wrong_stands_beside_the_endpoint(
    change: dict[str, Any], condition: Condition, reason: str
) -> None:
    host = TestHost("modem")
    async with RadioModule() as module, RadioModule() as fine:
        for name, value in change.items():
            setattr(module, name, value)
        host.make(
            ModemTrunks, {"modems": {"a": section(module, fault_after_s=0.0), "b": section(fine)}}
        )
        async with host.running():
            await until(lambda: host.endpoints["modem/a"].reason)
            place = host.endpoints["modem/a"]
            assert (place.condition, reason in place.reason) == (condition, True), place
            if condition is Condition.DOWN:
                assert reason in (await host.wait_for(AlarmRaised)).text
            else:
                assert place.detail["signal"] == "-109 dBm"
                assert host.of(AlarmRaised) == []


async def test_keys_from_the_module(engine: Engine) -> None:
    async with RadioModule() as module, running(module, engine, keys="module") as (host, adapter):
        module.say(module.ring("1"))
        leg = (await host.wait_for(LegOffered)).leg
        adapter.answer(Answer(leg=leg))
        await host.wait_for(LegAnswered, leg=leg)
        module.say(b"\r\n+QTONEDET: 53\r\n")
        assert (await host.wait_for(DigitPressed, leg=leg)).digit == "5"


async def test_a_module_without_audio_is_reset(engine: Engine) -> None:
    async with (
        RadioModule("simcom") as module,
        running(module, engine, audio_within_s=0.3) as (host, _),
    ):
        module.silent = True
        leg = host.dial("modem/a", "1")
        await until(lambda: module.call)
        module.say(module.state(0))
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.cause is Cause.TEMPORARY_FAILURE
        await host.wait_for(InputChanged, input="no-audio", value=1.0)
        await until(lambda: "+CRESET" in module.commands)
        await until(lambda: module.commands.count("+CPIN?") == 2)
        await until(lambda: host.endpoints["modem/a"].condition is Condition.UP)


async def test_a_stop_goes_on_hook(engine: Engine) -> None:
    async with RadioModule() as module:
        async with running(module, engine) as (host, _):
            leg = host.dial("modem/a", "1")
            await until(lambda: module.call)
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.SHUTDOWN
        await until(lambda: module.call is None)


async def test_one_dead_module_does_not_stop_the_other() -> None:
    async with RadioModule() as module:
        host = TestHost("modem")
        dead = {"port": "/dev/no-such-port", "audio": "/dev/no-such-audio"}
        host.make(ModemTrunks, {"modems": {"a": section(module), "b": dead}})
        async with host.running():
            await until(lambda: host.endpoints["modem/a"].condition is Condition.UP)
            assert host.endpoints["modem/b"].condition is Condition.DOWN
            assert "no-such-port" in host.endpoints["modem/b"].reason
            module.say(module.ring(""))
            assert (await host.wait_for(LegOffered)).hidden


async def test_without_any_module_somebody_is_told_which_port() -> None:
    host = TestHost("modem")
    dead = {"port": "/dev/no-such-port", "audio": "/dev/x", "fault_after_s": 0.0, "label": "LTE"}
    host.make(ModemTrunks, {"modems": {"a": dead}})
    async with host.running():
        raised = await host.wait_for(AlarmRaised)
        assert raised.text.startswith("LTE: cannot open /dev/no-such-port")
        place = host.endpoints["modem/a"]
        assert (place.condition, "no-such-port" in place.reason) == (Condition.DOWN, True)


@pytest.mark.parametrize(
    ("modems", "what"),
    [
        ({}, "no modem"),
        ({"a": {"port": "/dev/x", "audio": "/dev/x"}}, "same"),
        ({"a": {"port": "/dev/x", "audio": "x"}}, "path"),
        ({"a/b": {"port": "/dev/x", "audio": "/dev/y"}}, "letters"),
        (
            {
                "a": {"port": "/dev/x", "audio": "/dev/y"},
                "b": {"port": "/dev/z", "audio": "/dev/y"},
            },
            "same port",
        ),
    ],
)
def test_bad_configuration(modems: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigErrors, match=what):
        TestHost("modem").make(ModemTrunks, {"modems": modems})
