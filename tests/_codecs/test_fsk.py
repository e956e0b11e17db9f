"""Caller-ID FSK: minimodem and multimon-ng hear ours, we hear minimodem's."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs.fsk import FskReceiver, modulate
from gateway.errors import UsageError

from .conftest import read_wav, write_wav

# MDMF: 21 November 19:38, number 5551234567, name GATEWAY TEST.
MESSAGE = bytes.fromhex(
    "8024 0108 3131323131393338 020A 35353531323334353637 070C 474154455741592054455354 1D"
)
TONES = {"bell202": ("1200", "2200"), "v23": ("1300", "2100")}
SILENCE = b"\0\0" * 4000


def receive(pcm: bytes, standard: str, rate: int = 8000, n_samples: int = 160) -> bytes:
    receiver = FskReceiver(standard, rate)
    return b"".join(
        receiver.push(pcm[at : at + 2 * n_samples]) for at in range(0, len(pcm), 2 * n_samples)
    )


def test_message_is_a_valid_mdmf() -> None:
    assert sum(MESSAGE) % 256 == 0
    assert MESSAGE[1] == len(MESSAGE) - 3


@pytest.mark.parametrize("standard", TONES)
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_round_trip(standard, rate) -> None:
    pcm = modulate(MESSAGE, standard, sample_rate=rate)
    assert receive(SILENCE + pcm + SILENCE, standard, rate) == MESSAGE


@pytest.mark.parametrize("standard", TONES)
def test_minimodem_reads_our_caller_id(standard, program, tmp_path: Path) -> None:
    mark, space = TONES[standard]
    wav = write_wav(tmp_path / "x.wav", SILENCE + modulate(MESSAGE, standard) + SILENCE)
    heard = subprocess.run(
        [program("minimodem"), "--rx", "callerid", "-M", mark, "-S", space, "-f", wav],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "555-123-4567" in heard
    assert "GATEWAY TEST" in heard


@pytest.mark.parametrize("standard", TONES)
def test_multimon_ng_reads_our_caller_id(standard, program, tmp_path: Path) -> None:
    pcm = modulate(MESSAGE, standard, sample_rate=22050)
    raw = tmp_path / "x.raw"
    raw.write_bytes(b"\0\0" * 11025 + pcm + b"\0\0" * 11025)
    heard = subprocess.run(
        [program("multimon-ng"), "-q", "-t", "raw", "-a", "CLIPFSK", raw],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "CS DATE=11211938 CID=5551234567 CNT=GATEWAY TEST" in heard


@pytest.mark.parametrize("standard", TONES)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_we_read_minimodem(standard, rate, program, tmp_path: Path) -> None:
    mark, space = TONES[standard]
    wav = tmp_path / "x.wav"
    options = ["-M", mark, "-S", space, "-R", str(rate), "--startbits", "1", "--stopbits", "1.0"]
    command = [program("minimodem"), "--tx", "1200", "--tx-carrier", *options, "-f", wav]
    subprocess.run(command, input=MESSAGE, check=True)
    # minimodem leads in with a few bits of mark only: a real sender's mark comes first.
    lead = modulate(b"", standard, sample_rate=rate, seizure_bits=0, mark_bits=80, tail_bits=0)
    assert receive(lead + read_wav(wav) + SILENCE, standard, rate)[: len(MESSAGE)] == MESSAGE


@pytest.mark.parametrize("standard", TONES)
def test_level_and_noise(standard) -> None:
    rng = np.random.default_rng(5)
    for level in (-3.0, -13.5, -30.0, -36.0):
        pcm = np.frombuffer(SILENCE + modulate(MESSAGE, standard, level_dbm0=level) + SILENCE, "i2")
        rms = 32768 / np.sqrt(2) * 10 ** ((level - 3.14 - 20) / 20)  # 20 dB below
        noisy = np.clip(pcm + rng.normal(0, rms, len(pcm)), -32768, 32767).astype(np.int16)
        assert receive(noisy.tobytes(), standard) == MESSAGE, level


def test_off_hook_burst_without_seizure() -> None:
    pcm = modulate(MESSAGE, seizure_bits=0, mark_bits=80)
    assert receive(SILENCE + pcm + SILENCE, "bell202") == MESSAGE


def test_two_bursts_and_carrier() -> None:
    receiver = FskReceiver()
    heard = b""
    for _ in range(2):
        heard += receiver.push(modulate(MESSAGE))
        assert receiver.has_carrier
        heard += receiver.push(SILENCE)
        assert not receiver.has_carrier
    assert heard == 2 * MESSAGE
    assert receiver.n_framing == 0


@settings(max_examples=30, deadline=None)
@given(message=st.binary(max_size=320), cut=st.integers(1, 500))
def test_any_octets_in_any_blocks(message, cut) -> None:
    pcm = SILENCE + modulate(message, "v23") + SILENCE
    assert receive(pcm, "v23", n_samples=cut) == message


def test_noise_and_speechlike_sound_give_nothing() -> None:
    rng = np.random.default_rng(1)
    t = np.arange(80000) / 8000
    hum = 9000 * np.sin(2 * np.pi * 220 * t) * np.sin(2 * np.pi * 3 * t)
    for pcm in (rng.normal(0, 6000, 80000), hum):
        assert receive(np.clip(pcm, -32768, 32767).astype(np.int16).tobytes(), "bell202") == b""


def test_bad_use_is_refused() -> None:
    with pytest.raises(UsageError):
        modulate(b"x" * 321)
    with pytest.raises(UsageError):
        modulate(b"", "v21")
    with pytest.raises(UsageError):
        modulate(b"", mark_bits=-1)
    with pytest.raises(UsageError):
        FskReceiver("v23", 4000)
