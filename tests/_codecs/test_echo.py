"""The line echo canceller: learns quickly, bears double talk, leaves alone what is no echo."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs.echo import BLOCK, MOST_TAPS, Canceller
from gateway.errors import UsageError
from tests.lines import HARVARD, OTHER, RATE, at_level, echo_of, erle, hybrid, spoken, ulaw, white

SECOND = RATE


def cancel(sent: np.ndarray, received: np.ndarray, taps: int = 256) -> np.ndarray:
    out = Canceller(taps).cancel(sent.tobytes(), received.tobytes())
    return np.frombuffer(out, np.int16).astype(float)


def far(signal: str, level: float, program) -> np.ndarray:
    """Six seconds on a G.711 line."""
    if signal == "noise":
        return ulaw(white(6, level))
    for name in ("espeak-ng", "sox"):
        program(name)
    return ulaw(np.resize(spoken(HARVARD, signal, level), 6 * SECOND))


@pytest.mark.parametrize("taps", [128, 256])
@pytest.mark.parametrize("loss_db", [6, 12, 20])
@pytest.mark.parametrize("level", [-10, -25])
@pytest.mark.parametrize("signal", ["noise", "en", "en+f3"])
def test_within_a_second_20_db_are_taken_away(signal, level, loss_db, taps, program) -> None:
    sent = far(signal, level, program)
    echo = echo_of(sent, hybrid(loss_db))
    left = cancel(sent, ulaw(echo), taps)
    assert erle(echo[SECOND : 2 * SECOND], left[SECOND : 2 * SECOND]) > 20
    assert erle(echo[2 * SECOND :], left[2 * SECOND :]) > 20


@pytest.mark.parametrize("taps", [512, MOST_TAPS])
def test_a_long_one_reaches_the_end_of_its_tail(taps, program) -> None:
    sent = far("noise", -15, program)
    echo = echo_of(sent, hybrid(8, delay=taps - 80))
    assert erle(echo[2 * SECOND :], cancel(sent, ulaw(echo), taps)[2 * SECOND :]) > 25
    beyond = echo_of(sent, hybrid(8, delay=taps + 8))
    assert erle(beyond[2 * SECOND :], cancel(sent, ulaw(beyond), taps)[2 * SECOND :]) < 3


@pytest.mark.parametrize("level", [-15, -25])
def test_the_near_end_survives_double_talk(level, program) -> None:
    sent = far("en", -15, program)
    near = np.resize(spoken(OTHER, "en+f3", level), len(sent)).astype(float)
    near[: 2 * SECOND] = near[4 * SECOND :] = 0
    echo = echo_of(sent, hybrid(10))
    out = cancel(sent, ulaw(echo + near))
    both = slice(2 * SECOND, 4 * SECOND)
    error = out[both] - near[both]
    assert erle(echo[both], error) > 12, "what is left of the echo, and what became of the voice"
    assert erle(near[both], error) > (20 if level == -15 else 12)
    assert erle(echo[4 * SECOND :], out[4 * SECOND :]) > 20, "nothing has to be learned again"


def test_without_an_echo_a_voice_passes_untouched(program) -> None:
    sent = far("en", -15, program)
    near = ulaw(np.resize(spoken(OTHER, "en+f3", -20), len(sent)))
    assert erle(near, cancel(sent, near) - near) > 40


def test_silence_stays_silence() -> None:
    nothing = np.zeros(2 * SECOND, np.int16)
    assert not cancel(ulaw(white(2)), nothing).any()
    assert not cancel(nothing, nothing).any()


def test_a_path_that_changes_is_learned_anew(program) -> None:
    sent = far("noise", -15, program)
    before, after = echo_of(sent, hybrid(8)), -echo_of(sent, hybrid(14, delay=60))
    echo = np.concatenate([before[: 3 * SECOND], after[3 * SECOND :]])
    left = cancel(sent, ulaw(echo))
    assert erle(echo[4 * SECOND :], left[4 * SECOND :]) > 25
    worst = max(
        np.sum(left[at : at + 800] ** 2) / np.sum(echo[at : at + 800] ** 2)
        for at in range(3 * SECOND, 4 * SECOND, 800)
    )
    assert worst < 4, "while it learns it adds no more than the old path's echo"


def test_tones_do_not_drive_it_astray() -> None:
    t = np.arange(6 * SECOND) / RATE
    sent = ulaw(at_level(np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 350 * t), -13))
    echo = echo_of(sent, hybrid(8))
    left = cancel(sent, ulaw(echo))
    assert erle(echo[SECOND:], left[SECOND:]) > 20
    assert np.abs(left).max() < 1.5 * np.abs(echo).max()


def test_forgetting_begins_anew() -> None:
    sent = ulaw(white(2))
    echo = ulaw(echo_of(sent, hybrid(8)))
    it = Canceller(256)
    first = it.cancel(sent.tobytes(), echo.tobytes())
    it.forget()
    assert it.cancel(sent.tobytes(), echo.tobytes()) == first


SPANDSP = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
library.echo_can_init.restype = ctypes.c_void_p
update = library.echo_can_update
update.argtypes = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_int16]
update.restype = ctypes.c_int16
state = library.echo_can_init(256, 1)
sent, received = np.load(sys.argv[2])
clean = [update(state, int(x), int(d)) for x, d in zip(sent, received)]
np.save(sys.argv[3], np.array(clean, np.int16))
"""


@pytest.mark.parametrize("signal", ["noise", "en", "en+f3"])
def test_it_leaves_no_more_than_spandsps(signal, tmp_path: Path, program) -> None:
    # In a process of its own: Debian's writes two lines to standard output for each sample.
    library = ctypes.util.find_library("spandsp")
    if library is None:
        pytest.skip("libspandsp is not installed")
    sent = far(signal, -20, program)
    echo = echo_of(sent, hybrid(15))
    received = ulaw(echo)
    np.save(tmp_path / "in.npy", np.array([sent, received]))
    subprocess.run(
        [sys.executable, "-c", SPANDSP, library, tmp_path / "in.npy", tmp_path / "out.npy"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    theirs = np.load(tmp_path / "out.npy")
    ours = cancel(sent, received)
    assert erle(echo[SECOND:], ours[SECOND:]) > erle(echo[SECOND:], theirs[SECOND:]) - 2


@settings(max_examples=60, deadline=None)
@given(
    taps=st.sampled_from([16, 128, 256]),
    seeds=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32767)), max_size=12),
)
def test_no_samples_make_it_diverge(taps, seeds) -> None:
    it = Canceller(taps)
    for seed, peak in seeds:
        rng = np.random.default_rng(seed)
        sent = rng.integers(-peak - 1, peak + 1, BLOCK * 5).astype(np.int16)
        it.cancel(sent.tobytes(), rng.integers(-32768, 32768, BLOCK * 5).astype(np.int16).tobytes())
    nothing = bytes(2 * BLOCK * 50)
    it.cancel(nothing, nothing)
    assert it.cancel(nothing, nothing) == nothing


def test_what_makes_no_sense_is_refused() -> None:
    for taps in (0, 15, 24, MOST_TAPS + 16, -16):
        with pytest.raises(UsageError, match="multiple of 16"):
            Canceller(taps)
    with pytest.raises(UsageError, match="blocks of 80"):
        Canceller(128).cancel(bytes(160), bytes(320))
    with pytest.raises(UsageError, match="blocks of 80"):
        Canceller(128).cancel(bytes(100), bytes(100))
