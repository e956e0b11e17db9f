"""Speech by level: what begins it, what ends it, and what it is not to be taken in by."""

from __future__ import annotations

import numpy as np
import pytest
from peers import pace, sine, talk
from test_digits import press

from gateway.core.actions import Vox
from gateway.media.streams import SpeechChanged
from gateway.testing.audio import write_wav

VOX = Vox(dbm0=-35, attack_ms=60, hang_ms=400)
BEGAN, ENDED = SpeechChanged(speaking=True), SpeechChanged(speaking=False)


def spoken(*pieces: tuple[float, float]) -> np.ndarray:
    """Pieces of (seconds, dBm0); below -60 is digital silence."""
    return np.concatenate([
        sine(900, seconds, level_dbm0=level) if level > -60 else np.zeros(int(seconds * 8000), int)
        for seconds, level in pieces
    ])  # fmt: skip


def said(stream, *, sent: bool = False) -> list[SpeechChanged]:
    return [e for e in stream.events if isinstance(e, SpeechChanged) and e.sent is sent]


@pytest.mark.parametrize("pt", [0, 8])
async def test_speech_begins_and_ends(engine, peer, leg, pt):
    a = peer(pt)
    stream = leg(a)
    stream.watch_speech(VOX)
    # A pause shorter than the hang time is part of what is said.
    signal = spoken((0.2, -99), (0.4, -20), (0.24, -99), (0.3, -20), (1.0, -99))
    speak = talk(a, stream.local, signal)
    await pace(0.2 + 0.4, speak)
    assert said(stream) == [BEGAN]
    await pace(0.24 + 0.3, lambda i: speak(i + 30))
    assert said(stream) == [BEGAN]
    await pace(0.9, lambda i: speak(i + 57))
    assert said(stream) == [BEGAN, ENDED]
    assert said(stream, sent=True) == []


async def test_neither_noise_nor_a_click_is_speech(engine, peer, leg):
    a = peer()
    stream = leg(a)
    stream.watch_speech(VOX)
    clicks = [(0.02, -5.0), (0.18, -99.0)] * 4
    await pace(1.2, talk(a, stream.local, spoken((0.4, -38), *clicks)))
    assert said(stream) == []
    stream.watch_speech(Vox(dbm0=-42))
    await pace(0.4, talk(a, stream.local, spoken((0.4, -38))))
    assert said(stream) == [BEGAN]


async def test_who_falls_silent_without_a_word_has_ended(engine, peer, leg):
    a = peer()
    stream = leg(a)
    stream.watch_speech(VOX)
    await pace(0.4, talk(a, stream.local, spoken((0.4, -20))))
    assert said(stream) == [BEGAN]
    await pace(1.2)
    assert said(stream) == [BEGAN, ENDED], "its packets stopped"


@pytest.mark.parametrize(("echo", "expected"), [(-22.0, []), (-14.0, [BEGAN])])
async def test_the_echo_of_what_is_heard_is_no_speech(
    engine, peer, leg, tmp_path, echo, expected
):  # fmt: skip
    """The far end hears -13 dBm0; what comes back 9 dB weaker is echo, at 1 dB it is a voice."""
    a = peer()
    stream = leg(a)
    stream.watch_speech(VOX)
    stream.play_file(str(write_wav(tmp_path / "air.wav", sine(600, 1.0))))
    # The echo comes late, and is there for a while after the end of what caused it.
    await pace(1.4, talk(a, stream.local, spoken((0.2, -99), (1.0, echo), (0.2, -99))))
    assert said(stream) == expected
    assert said(stream, sent=True)[:1] == [SpeechChanged(speaking=True, sent=True)]


async def test_a_digit_is_no_speech(engine, peer, leg):
    a = peer()
    a.te_pt = 101
    stream = leg(a)
    stream.watch_speech(VOX)
    quiet = talk(a, stream.local, spoken((1.0, -99)))
    await pace(0.9, press(a, stream.local, "5", at=10, on_ms=400, speech=quiet))
    assert said(stream) == []


async def test_a_watch_begins_with_silence_and_says_nothing_when_it_is_over(engine, peer, leg):
    a = peer()
    stream = leg(a)
    stream.watch_speech(VOX)
    speak = talk(a, stream.local, spoken((2.0, -20)))
    await pace(0.4, speak)
    stream.watch_speech(VOX)
    await pace(0.4, lambda i: speak(i + 20))
    assert said(stream) == [BEGAN, BEGAN]
    stream.watch_speech(None)
    await pace(0.7)
    assert said(stream) == [BEGAN, BEGAN]


async def test_two_watched_streams_are_not_relayed(engine, peer, leg):
    a, b = peer(), peer()
    legs = [leg(a), leg(b)]
    engine.open_bridge("x")
    for stream in legs:
        engine.join("x", stream)
    legs[0].watch_speech(VOX)
    await pace(0.5, talk(a, legs[0].local, spoken((0.5, -20))))
    assert said(legs[0]) == [BEGAN]
    assert said(legs[1]) == []
    assert engine.stats().relays == 0
