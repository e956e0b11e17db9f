"""Speech: text to a WAV file the engine plays, by a synthesiser command in a process of its own.

Run as a program (`python -m gateway.media.speech OUT COMMAND...`) it starts the command with the
text on its standard input and resamples the WAV that it writes to standard output: neither
arithmetic nor waiting touches the gateway's event loop.
"""

from __future__ import annotations

import array
import asyncio
import functools
import hashlib
import io
import math
import operator
import os
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.errors import DeviceError

RATE: Final = 16000
"""Hz of what is written: the highest the engine speaks on a call."""
MAXIMUM_TEXT: Final = 2000
MAXIMUM_CACHED: Final = 500
"""Files kept; the one not used for the longest time goes first."""
MAXIMUM_AHEAD: Final = 100
"""Texts spoken before anybody asks for them; the others wait until they are needed."""
DEADLINE_S: Final = 15.0
_AT_ONCE: Final = 2
_WAITING: Final = 100
_TAPS: Final = 16


class Synthesiser:
    """Speaks texts through `command`, a program and arguments: text in, WAV out.

    Results are cached by text. Driven by `speak` and `prepare`; `close` ends what runs.
    """

    def __init__(self, command: Sequence[str], cache_dir: Path) -> None:
        self._command = tuple(command)
        self._cache_dir = cache_dir
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._running: dict[Path, asyncio.Task[None]] = {}
        self._waiting: dict[Path, list[Callable[[Path | DeviceError], None]]] = {}
        self._ahead: asyncio.Task[None] | None = None

    def speak(self, text: str, spoken: Callable[[Path | DeviceError], None]) -> None:
        """Call `spoken` with the file, at once when it is cached.

        Raises `DeviceError` when the program is missing or too much is waiting already.
        """
        text = " ".join(text.split())[:MAXIMUM_TEXT]
        digest = hashlib.sha256("\0".join((*self._command, text)).encode()).hexdigest()
        path = self._cache_dir / f"{digest}.wav"
        if path.exists():
            os.utime(path)
            spoken(path)
            return
        if path in self._waiting:
            self._waiting[path].append(spoken)
            return
        if not self._command or shutil.which(self._command[0]) is None:
            raise DeviceError(f"speech synthesiser {self._command[:1]} is not installed")
        if len(self._running) >= _WAITING:
            raise DeviceError("too many announcements wait for the speech synthesiser")
        self._waiting[path] = [spoken]
        self._running[path] = asyncio.get_running_loop().create_task(
            self._synthesise(path, text), name="speech"
        )

    def prepare(self, texts: Iterable[str], failed: Callable[[str, DeviceError], None]) -> None:
        """Speak texts into the cache, one after the other, in place of those prepared before.

        An alarm should not wait for its words. One turn always stays free for what is needed now.
        failed: told of the first text that could not be spoken; a program that is missing ends it.
        """
        if self._ahead is not None:
            self._ahead.cancel()
        self._ahead = asyncio.get_running_loop().create_task(
            self._prepare(list(dict.fromkeys(texts))[:MAXIMUM_AHEAD], failed), name="speech ahead"
        )

    async def _prepare(
        self, texts: Sequence[str], failed: Callable[[str, DeviceError], None]
    ) -> None:
        told = False
        for text in texts:
            done: asyncio.Future[Path | DeviceError] = asyncio.get_running_loop().create_future()
            try:
                self.speak(text, functools.partial(_settle, done))
            except DeviceError as error:
                failed(text, error)
                return
            result = await done
            if isinstance(result, DeviceError) and not told:
                told = True
                failed(text, result)

    async def close(self) -> None:
        """End what runs; those who wait hear nothing more."""
        tasks = list(self._running.values())
        if self._ahead is not None:
            tasks.append(self._ahead)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _synthesise(self, path: Path, text: str) -> None:
        result: Path | DeviceError = path
        try:
            async with self._turn:
                await self._run(path, text)
        except DeviceError as error:
            result = error
        finally:
            del self._running[path]
            waiting = self._waiting.pop(path)
        for spoken in waiting:
            spoken(result)

    async def _run(self, path: Path, text: str) -> None:
        try:
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            self._forget_oldest()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.media.speech", str(path), *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise DeviceError(f"speech synthesiser: {error}") from error
        try:
            async with asyncio.timeout(DEADLINE_S):
                _, said = await process.communicate(text.encode())
        except TimeoutError:
            raise DeviceError(f"speech synthesiser took over {DEADLINE_S:g} s") from None
        finally:
            if process.returncode is None:
                # The whole group: the synthesiser is the child of our child.
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            last = said.decode(errors="replace").strip().rpartition("\n")[2][:200]
            raise DeviceError(f"speech synthesiser: {last or process.returncode}")

    def _forget_oldest(self) -> None:
        files = list(self._cache_dir.glob("*.wav"))
        if len(files) >= MAXIMUM_CACHED:
            files.sort(key=lambda file: file.stat().st_mtime)
            for file in files[: len(files) - MAXIMUM_CACHED + 1]:
                file.unlink(missing_ok=True)


def _settle(done: asyncio.Future[Path | DeviceError], result: Path | DeviceError) -> None:
    if not done.done():  # whoever waited may have given up
        done.set_result(result)


def resample(samples: Sequence[int], rate: int, wanted: int = RATE) -> array.array[int]:
    """Signed 16-bit mono samples at another rate, by a windowed sinc (Hann, 16 zero crossings)."""
    if rate == wanted:
        return array.array("h", samples)
    step = math.gcd(rate, wanted)
    up, down = wanted // step, rate // step
    cut = min(1.0, wanted / rate) * 0.95
    half = math.ceil(_TAPS / cut)
    kernels = []
    for phase in range(up):
        kernel = []
        for tap in range(-half + 1, half + 1):
            x = tap - phase / up
            window = 0.5 + 0.5 * math.cos(math.pi * x / half) if abs(x) < half else 0.0
            angle = math.pi * x * cut
            kernel.append(window * cut * (math.sin(angle) / angle if angle else 1.0))
        total = sum(kernel)
        kernels.append([value / total for value in kernel])
    padded = [0] * (half - 1) + list(samples) + [0] * (half + 1)
    found: array.array[int] = array.array("h")
    for n in range(len(samples) * up // down):
        at, phase = divmod(n * down, up)
        value = sum(map(operator.mul, padded[at : at + 2 * half], kernels[phase]))
        found.append(max(-32768, min(32767, round(value))))
    return found


def convert(data: bytes) -> bytes:
    """A WAV file of any rate, mono or more, 16-bit, as a mono one of `RATE`.

    Raises `DeviceError` when it is not such a file.
    """
    try:
        with wave.open(io.BytesIO(data)) as source:
            if source.getsampwidth() != 2:
                raise DeviceError(f"{8 * source.getsampwidth()}-bit samples, not 16-bit")
            rate, channels = source.getframerate(), source.getnchannels()
            # A program that writes to a pipe cannot go back to fill in the length.
            samples = array.array("h", source.readframes(source.getnframes()))
    except (wave.Error, EOFError, ValueError) as error:
        raise DeviceError(f"no WAV file: {error}") from error
    if not samples or not 4000 <= rate <= 192000:
        raise DeviceError(f"{len(samples)} samples at {rate} Hz")
    written = io.BytesIO()
    with wave.open(written, "wb") as sink:
        sink.setparams((1, 2, RATE, 0, "NONE", ""))
        sink.writeframes(resample(samples[::channels], rate).tobytes())
    return written.getvalue()


def main(arguments: Sequence[str], stdin: Any = sys.stdin) -> int:
    """Program face; see the module's docstring."""
    path, *command = arguments
    text: bytes = stdin.buffer.read()
    try:
        done = subprocess.run(command, input=text, capture_output=True, check=True)
        data = convert(done.stdout)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        sys.stderr.write(f"{command[0]}: exit status {error.returncode}: {said}\n")
        return 1
    except (OSError, DeviceError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    partial = Path(f"{path}.{os.getpid()}")
    partial.write_bytes(data)
    partial.rename(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
