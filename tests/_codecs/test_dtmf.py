"""DTMF: Q.24 limits on the calibrated corpus, spandsp as yardstick, talk-off on speech, and
multimon-ng as the receiver of what we send."""

import ctypes
import ctypes.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway._codecs.dtmf import DtmfReceiver, generate_dtmf
from gateway.errors import UsageError

from .conftest import read_wav, write_wav

DIGITS = "123A456B789C*0#D"


def receive(pcm: bytes, n_samples: int = 160) -> list:
    receiver, events = DtmfReceiver(), []
    for at in range(0, len(pcm), 2 * n_samples):
        events += receiver.push(pcm[at : at + 2 * n_samples])
    return events


def digits(pcm: bytes) -> str:
    return "".join(e.digit for e in receive(pcm) if not e.is_end)


def spandsp_digits(pcm: bytes) -> str | None:
    name = ctypes.util.find_library("spandsp")
    if name is None:
        return None
    lib = ctypes.CDLL(name)
    lib.dtmf_rx_init.restype = ctypes.c_void_p
    lib.dtmf_rx_init.argtypes = [ctypes.c_void_p] * 3
    lib.dtmf_rx.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    lib.dtmf_rx_get.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    lib.dtmf_rx_free.argtypes = [ctypes.c_void_p]
    state, found = lib.dtmf_rx_init(None, None, None), b""
    buffer = ctypes.create_string_buffer(129)
    for at in range(0, len(pcm), 320):
        lib.dtmf_rx(state, pcm[at : at + 320], len(pcm[at : at + 320]) // 2)
        n = lib.dtmf_rx_get(state, buffer, 128)
        found += buffer.raw[:n]
    lib.dtmf_rx_free(state)
    return found.decode()


def distance(got: str, expected: str) -> int:
    """Digits missing, wrong or too many (Levenshtein)."""
    row = list(range(len(expected) + 1))
    for i, g in enumerate(got, 1):
        previous, row[0] = row[0], i
        for j, e in enumerate(expected, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (g != e))
    return row[-1]


def test_corpus_at_least_as_good_as_spandsp(corpus) -> None:
    folder: Path = corpus("dtmf")
    for line in (folder / "manifest.tsv").read_text().splitlines():
        name, expected, _rule = line.split("\t")
        pcm = read_wav(folder / name)
        got = digits(pcm)
        assert got == expected, name
        theirs = spandsp_digits(pcm)
        if theirs is not None:
            assert distance(got, expected) <= distance(theirs, expected), name


@pytest.mark.parametrize("digit", DIGITS)
def test_digit_start_and_duration(digit) -> None:
    for start, length in ((800, 400), (837, 800), (1201, 4000)):
        tone = generate_dtmf(digit, length, level_dbm0=-9)
        pcm = b"\0\0" * start + tone + b"\0\0" * 1600
        begin, end = receive(pcm)
        assert (begin.digit, begin.is_end, end.digit, end.is_end) == (digit, False, digit, True)
        assert abs(begin.start_sample - start) <= 24
        assert abs(end.start_sample - start) <= 24
        assert abs(end.n_samples - length) <= 24
        assert end.level_dbm0 == pytest.approx(-9, abs=0.3)


def test_block_length_does_not_matter() -> None:
    pcm = b"".join(generate_dtmf(d, 480) + b"\0\0" * 480 for d in DIGITS)
    expected = receive(pcm)
    assert len(expected) == 2 * len(DIGITS)
    for n in (1, 7, 8, 63, 64, 65, 960, 100000):
        assert receive(pcm, n) == expected


def test_digits_without_a_pause_between() -> None:
    assert digits(b"".join(generate_dtmf(d, 480) for d in "1590") + b"\0\0" * 800) == "1590"


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("fade_ms", [40, 80, 120, 300])
def test_a_digit_that_dies_away_is_one_digit(digit: str, fade_ms: int) -> None:
    """As a concealment lets it when a sender stops without a word; then it is pressed again."""
    tone = np.frombuffer(generate_dtmf(digit, 1120 + 8 * fade_ms, level_dbm0=-9), np.int16)
    gain = np.concatenate([np.ones(1120), np.linspace(1, 0, 8 * fade_ms)])
    pcm = (tone * gain).astype(np.int16).tobytes() + b"\0\0" * 320
    assert digits(pcm * 2) == 2 * digit


def test_digit_over_dial_tone() -> None:
    t = np.arange(8000)
    dial = 1600 * (np.sin(2 * np.pi * 350 * t / 8000) + np.sin(2 * np.pi * 440 * t / 8000))
    keyed = np.zeros(8000)
    keyed[3000:3800] = np.frombuffer(generate_dtmf("5", 800, level_dbm0=-6), np.int16)
    assert digits((dial + keyed).astype(np.int16).tobytes()) == "5"


def test_single_tones_and_other_pairs_are_no_digits() -> None:
    t = np.arange(4000) / 8000
    for hz in ((697,), (1209,), (697, 770), (1209, 1477), (480, 620), (2130, 2750), (440, 480)):
        pcm = sum(6000 * np.sin(2 * np.pi * f * t) for f in hz)
        assert digits(pcm.astype(np.int16).tobytes()) == ""


def test_speech_gives_no_digit(program, tmp_path: Path) -> None:
    espeak, sox = program("espeak-ng"), program("sox")
    text = (
        "The quick brown fox jumps over the lazy dog near the bank of the river. Please call the "
        "control room and report one two three four five six seven eight nine zero. Elevator "
        "emergency, all units respond. Who are you? Sally sells sea shells by the sea shore. "
        "La la la, do re mi fa sol la si do, ooh, aah, eee."
    )
    for voice in ("en", "en+f3", "en+m5", "de", "fr", "es"):
        for speed in ("120", "180"):
            wide, narrow = tmp_path / "wide.wav", tmp_path / "narrow.wav"
            subprocess.run([espeak, "-v", voice, "-s", speed, "-w", wide, text], check=True)
            subprocess.run([sox, wide, "-r", "8000", "-c", "1", "-b", "16", narrow], check=True)
            pcm = read_wav(narrow)
            assert len(pcm) > 2 * 8000 * 8
            assert digits(pcm) == "", (voice, speed)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_multimon_ng_hears_our_digits(program, tmp_path: Path, rate: int) -> None:
    sox, multimon = program("sox"), program("multimon-ng")
    tone, pause = rate // 10, b"\0\0" * (rate // 10)
    pcm = b"".join(generate_dtmf(d, tone, sample_rate=rate) + pause for d in DIGITS)
    raw = tmp_path / "x.raw"
    wav = write_wav(tmp_path / "x.wav", pause + pcm, rate)
    subprocess.run(
        [sox, wav, "-t", "raw", "-r", "22050", "-e", "signed", "-b", "16", "-c", "1", raw],
        check=True,
    )
    heard = subprocess.run(
        [multimon, "-q", "-t", "raw", "-a", "DTMF", raw], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[-1] for line in heard.splitlines() if "DTMF" in line] == list(DIGITS)


def test_generator_level_and_frequencies() -> None:
    pcm = np.frombuffer(generate_dtmf("1", 8000, level_dbm0=-10, twist_db=2), np.int16)
    spectrum = np.abs(np.fft.rfft(pcm)) / 4000
    assert set(np.argsort(spectrum)[-2:]) == {697, 1209}
    for hz, dbm0 in ((697, -11.0), (1209, -9.0)):
        assert 20 * np.log10(spectrum[hz] / 32768) + 3.14 == pytest.approx(dbm0, abs=0.05)


def test_bad_use_is_refused() -> None:
    for digit in ("E", "", "12", "é", "\0"):
        with pytest.raises(UsageError):
            generate_dtmf(digit, 160)
    with pytest.raises(UsageError):
        generate_dtmf("1", -1)
    with pytest.raises(UsageError):
        generate_dtmf("1", 160, sample_rate=4000)
    with pytest.raises(ValueError, match="even"):
        DtmfReceiver().push(b"\0")
