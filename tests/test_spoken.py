"""Announcements that are spoken before anybody asks for them."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from gateway import spoken
from gateway.config import Configuration, GatewaySection, load
from gateway.core.routes import Announcement, Route, Trigger
from gateway.errors import DeviceError
from gateway.media import speech
from gateway.media.speech import Synthesiser
from gateway.testing.audio import level, read_wav
from tests.runtime_rig import Rig

EXAMPLES = Path(__file__).parent.parent / "hardware" / "examples"
VOICE = """
import sys, wave
text = sys.stdin.read()
open(sys.argv[1], "a").write(text + "\\n")
if "fail" in text: sys.exit("no voice")
with wave.open(sys.stdout.buffer, "wb") as out:
    out.setparams((1, 2, 16000, 0, "NONE", ""))
    out.writeframes(b"\\1\\2" * 1600)
"""


def says(text: str, name: str = "") -> Route:
    return Route(
        name=name or text, on=Trigger.ALARM, targets=("far/a",), announce=Announcement(text=text)
    )


@pytest.fixture
def box(tmp_path: Path) -> GatewaySection:
    """Its voice writes down what it says."""
    (tmp_path / "voice.py").write_text(VOICE)
    command = (sys.executable, str(tmp_path / "voice.py"), str(tmp_path / "said"))
    return GatewaySection(name="box", data_dir=str(tmp_path), drain_s=1, synthesiser=command)


def said(tmp_path: Path) -> list[str]:
    path = tmp_path / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_the_words_of_configured_alarms_are_known() -> None:
    plan = (says("{text}, {kind}"), says("{text}, {kind}", "again"), says("{text} by {source}"))
    box = load(EXAMPLES / "modbus.toml")
    assert spoken.texts(msgspec.structs.replace(box, routes=plan)) == [
        "Door at portal north is open, intrusion",
        "Smoke detector loop at portal north, fire",
    ]


def test_words_without_fields_are_known() -> None:
    hold = Route(name="call", targets=("far/a",), hold=Announcement(text="Please hold"))
    plan = (hold, says("Leave the hall"), says(""), says("Leave the hall", "y"), says("{text}"))
    found = spoken.texts(Configuration(file=Path("c.toml"), routes=plan))
    assert found == ["Please hold", "Leave the hall"]


async def test_they_are_spoken_at_the_start_and_after_a_reload(
    tmp_path: Path, box: GatewaySection
) -> None:
    rig = Rig(tmp_path, says("one"), gateway=box)
    async with rig.running():
        await rig.until(lambda: said(tmp_path) == ["one"])
        plan = (says("one"), says("fail a"), says("fail b"), says("two"))
        rig.gateway.use(msgspec.structs.replace(rig.gateway.configuration, routes=plan))
        await rig.until(lambda: said(tmp_path) == ["one", "fail a", "fail b", "two"])
        await rig.until(lambda: len(list((tmp_path / "speech").glob("*.wav"))) == 2)
    warned = [line for line in rig.log.of("warning") if "cannot be spoken" in line]
    assert len(warned) == 1
    assert "fail a" in warned[0]
    assert "no voice" in warned[0]


async def test_what_is_needed_now_does_not_wait_for_them(
    tmp_path: Path, box: GatewaySection
) -> None:
    voice = Synthesiser(box.synthesiser, tmp_path / "cache")
    troubles: list[str] = []
    voice.prepare([f"text {i}" for i in range(500)], lambda text, error: troubles.append(text))
    done: asyncio.Future[Path | DeviceError] = asyncio.get_running_loop().create_future()
    await asyncio.sleep(0)
    voice.speak("now", done.set_result)
    async with asyncio.timeout(30):
        assert isinstance(await done, Path)
    assert len(said(tmp_path)) <= 5
    voice.prepare(["other"], lambda text, error: troubles.append(text))
    async with asyncio.timeout(30):
        while "other" not in said(tmp_path):  # noqa: ASYNC110 (a file)
            await asyncio.sleep(0.01)
    await voice.close()
    assert troubles == []
    assert len(said(tmp_path)) <= 7, "the others were given up"


async def test_a_voice_that_is_missing_is_told_once(tmp_path: Path) -> None:
    voice = Synthesiser(["no-such-program-here"], tmp_path)
    troubles: list[str] = []
    voice.prepare(["a", "b"], lambda text, error: troubles.append(f"{text}: {error}"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(troubles) == 1
    assert "not installed" in troubles[0]
    await voice.close()


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_espeak_has_spoken_before_the_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "MAXIMUM_AHEAD", 1)
    rig = Rig(tmp_path, says("Fire in hall three"), says("Fire in hall four"))
    async with rig.running():
        await rig.until(lambda: list((tmp_path / "speech").glob("*.wav")))
    (path,) = (tmp_path / "speech").glob("*.wav")
    (samples,), _ = read_wav(path)
    assert level(samples) > -30
