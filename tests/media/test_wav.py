"""The thread that writes recordings: limits, faults, names, a disk that hangs. SoX reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import DeviceError
from gateway.media import wav

sox = pytest.mark.skipif(not shutil.which("sox"), reason="sox is missing")
WITHIN_S = 30.0
SECOND = bytes(16000)


class Sound:
    """What a stream would have left in its ring, piece by piece."""

    channels, rate, dropped = 1, 8000, 0

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)

    def read(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    def is_done(self) -> bool:
        return len(self._pieces) <= 1


class Ended:
    """What was told of the ends of recordings, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, float, str]] = []
        self._more = threading.Condition()

    def __call__(self, path: str, seconds: float, lost: float, error: str) -> None:
        with self._more:
            self.told.append((path, seconds, lost, error))
            self._more.notify_all()

    def wait(self, n: int) -> list[tuple[str, float, float, str]]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.told) >= n, WITHIN_S), self.told
        return self.told


@pytest.fixture
def writer() -> Iterator[wav.Writer]:
    it = wav.Writer()
    yield it
    it.stop()


def lasts(path: Path) -> float:
    done = subprocess.run(["soxi", "-D", str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@sox
def test_a_recording_ends_before_the_format_does(
    writer: wav.Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wav.Writer, "_MOST_FILE_BYTES", 40000)
    ended = Ended()
    long, short = tmp_path / "long.wav", tmp_path / "short.wav"
    # The third is as large as a ring that a slow disk let fill.
    writer.add(str(long), Sound(SECOND, SECOND, 8 * SECOND, SECOND), ended)
    assert ended.wait(1) == [(str(long), 2.0, 0.0, "the WAV format's size limit")]
    assert lasts(long) == 2.0
    writer.add(str(short), Sound(SECOND), ended)
    assert ended.wait(2)[1] == (str(short), 1.0, 0.0, "")
    assert lasts(short) == 1.0


@sox
def test_what_nobody_thought_of_ends_one_recording_alone(
    writer: wav.Writer, tmp_path: Path
) -> None:
    ended = Ended()
    paths = [tmp_path / f"{n}.wav" for n in range(2)]
    writer.add(str(paths[0]), Sound(SECOND, ValueError("odd"), SECOND, SECOND), ended)
    ended.wait(1)
    writer.add(str(paths[1]), Sound(SECOND, SECOND), ended)
    assert ended.wait(2) == [
        (str(paths[0]), 1.0, 0.0, "ValueError('odd')"),
        (str(paths[1]), 2.0, 0.0, ""),
    ]
    assert [lasts(path) for path in paths] == [1.0, 2.0]


class Frozen:
    """A volume where every attempt to make a folder (which comes first) waits until `thaw`."""

    def __init__(self, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._thawed = threading.Event()
        self.waits = threading.Event()

        def makedirs(path: str, **how: Any) -> None:
            if Path(path).is_relative_to(volume):
                self.waits.set()
                self._thawed.wait(WITHIN_S)
            made(path, **how)

        made = os.makedirs
        monkeypatch.setattr(os, "makedirs", makedirs)

    def thaw(self) -> None:
        self._thawed.set()


def test_as_many_recordings_as_may_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, ended, writer = Frozen(tmp_path, monkeypatch), Ended(), wav.Writer(3)
    paths = [tmp_path / f"{n}.wav" for n in range(4)]
    for path in paths[:3]:
        writer.add(str(path), Sound(SECOND), ended)
    with pytest.raises(DeviceError, match="the disk hangs: 3 recordings"):
        writer.add(str(paths[3]), Sound(SECOND), ended)
    assert not ended.told
    frozen.thaw()
    ended.wait(3)
    # Their places are free.
    writer.stop()
    writer.add(str(paths[3]), Sound(SECOND), ended)
    assert ended.wait(4) == [(str(path), 1.0, 0.0, "") for path in paths]
    writer.stop()


def test_a_stop_waits_for_a_disk_that_hangs_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, ended, writer = Frozen(tmp_path / "frozen", monkeypatch), Ended(), wav.Writer()
    hung, later = tmp_path / "frozen" / "a.wav", tmp_path / "b.wav"
    writer.add(str(hung), Sound(SECOND), ended)
    assert frozen.waits.wait(WITHIN_S)
    writer.stop(within_s=0.05)
    assert ended.told == [(str(hung), 0.0, 0.0, "the disk hangs: left at the stop")]
    # It can be started again, while the old thread still waits.
    writer.add(str(later), Sound(SECOND), ended)
    assert ended.wait(2)[1] == (str(later), 1.0, 0.0, "")
    frozen.thaw()
    assert ended.wait(3)[2] == (str(hung), 1.0, 0.0, "")
    writer.stop()


def test_nothing_is_written_over(writer: wav.Writer, tmp_path: Path) -> None:
    ended, path = Ended(), tmp_path / "sub" / "a.b.wav"
    path.parent.mkdir()
    path.write_bytes(b"another's")
    for n in (1, 2):
        writer.add(str(path), Sound(SECOND), ended)
        ended.wait(n)
    assert [Path(told[0]).name for told in ended.told] == ["a.b-2.wav", "a.b-3.wav"]
    assert path.read_bytes() == b"another's"


def test_folders_are_made(writer: wav.Writer, tmp_path: Path) -> None:
    ended, path = Ended(), tmp_path / "a" / "b" / "c.wav"
    writer.add(str(path), Sound(SECOND), ended)
    assert ended.wait(1) == [(str(path), 1.0, 0.0, "")]
    assert path.stat().st_size == 44 + len(SECOND)
