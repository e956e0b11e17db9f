"""The code of docs/write-an-adapter.md runs as it stands."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.adapters.loopback import Loopback
from gateway.config import load
from gateway.core.actions import Answer, SetOutput
from gateway.core.events import AdapterReady, InputChanged, LegAnswered, LegOffered
from gateway.media.engine import Engine
from gateway.registry import GROUP, Registry
from gateway.testing import TestHost
from gateway.testing.audio import read_wav, steady_level_at
from gateway.testing.wires import SerialLine

PAGE = Path(__file__).parent.parent / "docs" / "write-an-adapter.md"
NAMES = ("door_frames", "door", "test_door")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    """The page's Python blocks as modules."""
    directory = tmp_path_factory.mktemp("page")
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert [name for name, _ in blocks] == [f"{name}.py" for name in NAMES]
    for name, code in blocks:
        (directory / name).write_text(code)
    sys.path.insert(0, str(directory))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(directory))
    for name in NAMES:
        del sys.modules[name]


async def test_the_pages_own_test(page: dict[str, ModuleType]) -> None:
    await page["test_door"].test_promises()


def test_the_pages_configuration_is_legal(page: dict[str, ModuleType], tmp_path: Path) -> None:
    entry, section = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    name, value = re.findall(r'(\w+) = "([\w:]+)"', entry)[0]
    registry = Registry([EntryPoint(name, value, GROUP)])
    (tmp_path / "c.toml").write_text(section)
    found = load(tmp_path / "c.toml", registry=registry)
    assert found.adapters["door"].adapter is page["door"].DoorBus
    assert found.adapters["door"].config.doors == {"front": 3, "yard": 7}  # type: ignore[attr-defined]


def test_the_adapter_is_short(page: dict[str, ModuleType]) -> None:
    assert len(Path(str(page["door"].__file__)).read_text().splitlines()) < 190
    assert len(Path(str(sys.modules[Loopback.__module__].__file__)).read_text().splitlines()) < 240


async def test_the_device_at_the_other_end(page: dict[str, ModuleType]) -> None:
    frame = page["door_frames"].frame
    host = TestHost("door")
    with SerialLine() as line:
        config = {"port": line.path, "doors": {"front": 3}}
        adapter = host.make(page["door"].DoorBus, config)
        async with host.running():
            line.write(frame(3, "OPEN"))
            assert (await host.wait_for(InputChanged)).value == 1
            adapter.set_output(SetOutput(endpoint="door/front", output="latch", value=1))
            assert await line.read(13) == frame(3, "UNLOCK")
            line.write(frame(9, "CALL") + frame(3, "CALL"))
            leg = (await host.wait_for(LegOffered)).leg
            adapter.answer(Answer(leg=leg))
            assert await line.read(11) == frame(3, "TALK")
        assert line.pending() == frame(3, "BYE") + frame(3, "LOCK")
    assert host.counters["unknown_station"] == 1
    assert host.refused == []


async def test_the_line_is_pulled_out(page: dict[str, ModuleType]) -> None:
    host = TestHost("door")
    with SerialLine() as line:
        host.make(page["door"].DoorBus, {"port": line.path, "doors": {"front": 3}})
        service = asyncio.ensure_future(host.serve())
        await host.wait_for(AdapterReady)
        line.write(page["door_frames"].frame(3, "CALL"))
        await host.wait_for(LegOffered)
        line.unplug()
        async with asyncio.timeout(30):
            reason = await service
    assert reason.startswith("door bus: ")
    assert host.legs == []


async def test_its_audio(page: dict[str, ModuleType], tmp_path: Path) -> None:
    frame = page["door_frames"].frame
    engine = Engine(max_streams=4, ports=(31800, 31899), realtime=False)
    await engine.start()
    try:
        host = TestHost("door", engine=engine)
        with SerialLine() as line, SerialLine() as audio:
            config: dict[str, Any] = {"port": line.path, "audio": audio.path}
            host.make(page["door"].DoorBus, config | {"doors": {"front": 3}})
            async with host.running():
                leg = host.dial("door/front")
                line.write(frame(3, "TALK"))
                await host.wait_for(LegAnswered, leg=leg)
                host.stream(leg).record(str(tmp_path / "heard.wav"))
                # The digital milliwatt in mu-law (G.711 table 5): 1000 Hz at 0 dBm0.
                octets = bytes((0x1E, 0x0B, 0x0B, 0x1E, 0x9E, 0x8B, 0x8B, 0x9E)) * 20
                due = host.now()
                for _ in range(40):
                    audio.write(octets)
                    audio.pending()
                    due += 0.02
                    await asyncio.sleep(due - host.now())
                host.stream(leg).stop_record()
                await host.recorded(tmp_path / "heard.wav")
    finally:
        await engine.stop()
    heard = read_wav(tmp_path / "heard.wav")[0][0][1600:4800]
    assert steady_level_at(heard, 1000) == pytest.approx(0.0, abs=0.5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=80)), cut=st.integers(0, 8))
def test_its_frames(page: dict[str, ModuleType], chunks: list[bytes], cut: int) -> None:
    frames = page["door_frames"].Frames()
    for chunk in chunks:
        frames.feed(chunk)
    good = page["door_frames"].frame(3, "CALL")
    frames.feed(b"\n")
    assert frames.feed(good[:cut]) + frames.feed(good[cut:]) == [(3, "CALL")]
