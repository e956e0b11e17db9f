"""Speech: spoken by a real synthesiser, resampled without spoiling it, off the event loop."""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
import time
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceError
from gateway.media import speech
from gateway.media.speech import Synthesiser, convert, resample
from gateway.testing.audio import level, level_at, read_wav, tone
from tests.interop.peers import until

FAKE = """
import os, sys, wave, time
text = sys.stdin.read()
if "slow" in text: open(sys.argv[1] + ".pid", "w").write(str(os.getpid()))
if "fail" in text: sys.exit("the voice is gone")
if "slow" in text: time.sleep(60)
with wave.open(sys.stdout.buffer, "wb") as out:
    out.setparams((1, 2, 22050, 0, "NONE", ""))
    out.writeframes(b"\\1\\2" * 2205)
open(sys.argv[1], "a").write(text + "\\n")
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "voice.py").write_text(FAKE)
    return [sys.executable, str(tmp_path / "voice.py"), str(tmp_path / "said")]


async def _speak(voice: Synthesiser, text: str) -> Path | DeviceError:
    done: asyncio.Future[Path | DeviceError] = asyncio.get_running_loop().create_future()
    voice.speak(text, done.set_result)
    return await done


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_espeak_speaks(tmp_path: Path) -> None:
    voice = Synthesiser(("espeak-ng", "--stdin", "--stdout"), tmp_path / "cache")
    path = await _speak(voice, "Fire in hall three")
    assert isinstance(path, Path)
    (samples,), rate = read_wav(path)
    assert rate == 16000
    assert 0.8 < len(samples) / rate < 4.0
    assert level(samples) > -30


async def test_each_text_is_spoken_once(tmp_path: Path, command: list[str]) -> None:
    voice = Synthesiser(command, tmp_path / "cache")
    both = await asyncio.gather(_speak(voice, "one"), _speak(voice, " one\n"))
    again = await _speak(voice, "one")
    assert both[0] == both[1] == again
    await _speak(Synthesiser([*command, "other voice"], tmp_path / "cache"), "one")
    assert (tmp_path / "said").read_text() == "one\none\n"


async def test_failures_are_told_and_not_cached(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = Synthesiser(command, tmp_path / "cache")
    failed = await _speak(voice, "fail")
    assert isinstance(failed, DeviceError)
    assert "exit status 1: the voice is gone" in str(failed)
    monkeypatch.setattr(speech, "DEADLINE_S", 0.5)
    slow = await _speak(voice, "slow")
    assert isinstance(slow, DeviceError)
    assert "took over 0.5 s" in str(slow)
    # The kill was sent to the whole group before the error was told; that the grandchild is gone
    # too is up to the kernel, and to init, which inherits it.
    await until(lambda: _is_over(tmp_path / "said.pid"), "the synthesiser is gone")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(DeviceError, match="not installed"):
        Synthesiser(["no-such-program-here"], tmp_path).speak("x", print)
    with pytest.raises(DeviceError, match="not installed"):
        Synthesiser([], tmp_path).speak("x", print)


def _is_over(pid_file: Path) -> bool:
    """Whether a process has ended (it may not have been reaped yet)."""
    try:
        return (
            Path(f"/proc/{pid_file.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
            == "Z"
        )
    except OSError:
        return True


async def test_the_cache_is_bounded(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "MAXIMUM_CACHED", 3)
    cache = tmp_path / "cache"
    cache.mkdir()
    for n in range(6):
        (cache / f"{n}.wav").write_bytes(b"")
    assert isinstance(await _speak(Synthesiser(command, cache), "new"), Path)
    assert len(list(cache.iterdir())) == 3


async def test_the_loop_turns_while_a_long_text_is_spoken(
    tmp_path: Path, command: list[str]
) -> None:
    voice = Synthesiser(command, tmp_path / "cache")
    task = asyncio.ensure_future(_speak(voice, "long " * 500))
    worst, before = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        worst, before = max(worst, now - before), now
    assert worst < 0.2


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000])
def test_resampling_keeps_a_tone_and_adds_nothing(rate: int) -> None:
    found = resample(tone(1000, 0.4, rate=rate, dbm0=-10), rate)
    assert abs(len(found) - 6400) <= 1
    middle = found[800:-800]
    assert level_at(middle, 1000, rate=16000) == pytest.approx(-10.0, abs=0.1)
    assert level(middle) - level_at(middle, 1000, rate=16000) < 0.02


def test_what_does_not_fit_the_lower_rate_is_removed_not_folded() -> None:
    found = resample(tone(9500, 0.3, rate=22050, dbm0=-10), 22050)
    assert level(found[800:-800]) < -50


def test_conversion_takes_stereo() -> None:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\x01\x00\x02\x00" * 100)
    with wave.open(io.BytesIO(convert(data.getvalue()))) as file:
        assert (file.getnchannels(), file.getnframes()) == (1, 100)
        assert file.readframes(1) == b"\x01\x00"


@given(st.binary(max_size=80).map(lambda data: b"RIFF" + data) | st.binary(max_size=80))
def test_garbage_instead_of_wav(data: bytes) -> None:
    with pytest.raises(DeviceError):
        convert(data)
