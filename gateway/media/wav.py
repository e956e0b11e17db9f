"""WAV files in and out: load for playing, write while recording."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
from array import array
from collections.abc import Callable
from typing import BinaryIO, Final, Protocol

from gateway.errors import DeviceError
from gateway.media import _engine

_PCM, _ALAW, _ULAW, _EXTENSIBLE = 1, 6, 7, 0xFFFE
_MOST_BYTES = 256 << 20
_RATES = (8000, 16000, 48000)
STOP_S: Final = 10.0
"""A service manager kills who stops for much longer."""


def load(path: str, rate: int) -> bytes:
    """Signed 16-bit mono samples of a WAV file at `rate` Hz (8000 or 16000).

    Takes 8, 16 or 48 kHz, 16-bit PCM, A-law or mu-law, any number of channels (averaged).
    Raises `DeviceError` when the file is missing, broken or something else.
    """
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            raise DeviceError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; play a shorter file")
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from error
    form, channels, file_rate, bits, audio = _parse(path, data)
    if file_rate not in _RATES:
        raise DeviceError(f"{path}: {file_rate} Hz; convert it to 8000, 16000 or 48000 Hz")
    if form in (_ALAW, _ULAW) and bits == 8:
        audio = _engine.decode_g711(audio, form == _ALAW)
    elif form != _PCM or bits != 16:
        raise DeviceError(f"{path}: format {form} with {bits} bits; use 16-bit PCM or G.711")
    audio = audio[: len(audio) // (2 * channels) * 2 * channels]
    if channels > 1:
        audio = _engine.to_mono(audio, channels)
    return audio if file_rate == rate else _engine.resample(audio, file_rate, rate)


def directions(path: str, rate: int) -> tuple[bytes, bytes]:
    """What a recording of both directions holds, at `rate` Hz: received, and sent.

    Raises `DeviceError` when it cannot be read, or is no recording of two channels.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}") from error
    form, channels, file_rate, bits, audio = _parse(path, data)
    if (form, channels, bits) != (_PCM, 2, 16) or file_rate not in _RATES:
        raise DeviceError(f"{path}: not a recording of two channels of 16-bit PCM")
    both = array("h", audio[: len(audio) // 4 * 4])
    found = [both[side::2].tobytes() for side in (0, 1)]
    if file_rate != rate:
        found = [bytes(_engine.resample(each, file_rate, rate)) for each in found]
    return found[0], found[1]


def _parse(path: str, data: bytes) -> tuple[int, int, int, int, bytes]:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise DeviceError(f"{path}: not a WAV file")
    at = 12
    found: tuple[int, int, int, int] | None = None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"fmt " and len(body) >= 16:
            form, channels, rate = struct.unpack_from("<HHI", body)
            bits = int.from_bytes(body[14:16], "little")
            if form == _EXTENSIBLE and len(body) >= 26:
                form = int.from_bytes(body[24:26], "little")
            found = (form, channels, rate, bits)
        elif name == b"data":
            if found is None or not 0 < found[1] <= 8:
                break
            return (*found, body)
        at += 8 + size + size % 2
    raise DeviceError(f"{path}: no audio in this WAV file")


class _Source(Protocol):
    @property
    def channels(self) -> int: ...
    @property
    def rate(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def read(self) -> bytes: ...
    def is_done(self) -> bool: ...


class _Job:
    def __init__(
        self, path: str, source: _Source, ended: Callable[[str, float, float, str], None]
    ) -> None:
        self.path, self.source, self.ended = path, source, ended
        self.n_bytes = 0
        self.file: BinaryIO | None = None

    def open(self) -> BinaryIO:
        # A stream replaced in mid-call continues beside the first part, never over it.
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        stem, suffix = os.path.splitext(self.path)
        for part in itertools.count(2):
            try:
                file = open(self.path, "xb")  # noqa: SIM115 (closed by `Writer`)
                break
            except FileExistsError:
                self.path = f"{stem}-{part}{suffix}"
        try:
            self.write_header(file)
        except OSError:
            # What cannot even say what it is helps nobody.
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            raise
        self.file = file
        return file

    def write_header(self, file: BinaryIO) -> None:
        channels, rate = self.source.channels, self.source.rate
        file.seek(0)
        file.write(
            struct.pack(
                "<4sI4s4sIHHIIHH4sI",
                b"RIFF", 36 + self.n_bytes, b"WAVE",
                b"fmt ", 16, _PCM, channels, rate, rate * channels * 2, channels * 2, 16,
                b"data", self.n_bytes,
            )
        )  # fmt: skip
        file.seek(0, os.SEEK_END)
        file.flush()

    def end(self, error: str) -> None:
        per_s = self.source.rate * self.source.channels * 2
        self.ended(self.path, self.n_bytes / per_s, self.source.dropped / self.source.rate, error)


class Writer:
    """The thread that empties recording rings into files, ten times a second.

    The header is brought up to date at every write, so a file is readable whenever the process
    dies. What fails ends its recording only, and says so. Files are made here as well: a disk
    that hangs must not hold up whoever wants one.
    """

    _PERIOD_S = 0.1
    _MOST_FILE_BYTES = 0xFFFFFFFF - 4096

    def __init__(self, most: int = 64) -> None:
        """most: recordings at a time. While a disk hangs those of calls that ended wait too."""
        self._most = most
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._quit = threading.Event()
        self._thread: threading.Thread | None = None

    def check_room(self) -> None:
        """Raises `DeviceError` when as many recordings as may wait for the disk do."""
        if len(self._jobs) >= self._most:
            raise DeviceError(f"the disk hangs: {self._most} recordings wait for it")

    def add(
        self, path: str, source: _Source, ended: Callable[[str, float, float, str], None]
    ) -> None:
        """Start writing a file that is not there yet (else `path` with -2, -3...), in a folder made
        when needed. `ended(path, seconds, lost_seconds, error)` is called on the thread with the
        path as written, also when the file cannot be made. Raises `DeviceError` like `check_room`.
        """
        with self._lock:
            self.check_room()
            self._jobs.append(_Job(path, source, ended))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._jobs, self._quit), name="recorder", daemon=True
                )
                self._thread.start()

    def stop(self, within_s: float = STOP_S) -> None:
        """Write what there is, close every file, end the thread.

        A disk that still hangs after `within_s` keeps the thread; what waits for it has `ended`.
        """
        self._quit.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(within_s)
        with self._lock:
            # The thread that is left keeps its own.
            left, self._jobs, self._quit = self._jobs, [], threading.Event()
            cut = list(left)
        for job in cut:
            job.end("the disk hangs: left at the stop")

    def _run(self, jobs: list[_Job], quit_: threading.Event) -> None:
        while True:
            leaving = quit_.wait(self._PERIOD_S)
            with self._lock:
                present = list(jobs)
            for job in present:
                if self._step(job, leaving):
                    with self._lock:
                        jobs.remove(job)
            if leaving:
                return

    def _step(self, job: _Job, leaving: bool) -> bool:
        over, error = leaving, ""
        try:
            over = job.source.is_done() or leaving
            data = job.source.read()
            file = job.file or job.open()
            if job.n_bytes + len(data) > self._MOST_FILE_BYTES:
                error = "the WAV format's size limit"
            elif data:
                file.write(data)
                job.n_bytes += len(data)
                job.write_header(file)
            if over or error:
                file.close()
        except Exception as failure:
            # Whatever it is, the others' recordings are not to end with this one.
            known = failure.strerror if isinstance(failure, OSError) else None
            error = known or repr(failure)
            if job.file is not None:
                with contextlib.suppress(OSError):
                    job.file.close()
        if over or error:
            job.end(error)
        return bool(over or error)
