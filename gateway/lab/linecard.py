"""The virtual line card, worked from Python: telephones at FXS ports, an exchange at FXO ports.

::

    async with LineCard.start(fxs=4, fxo=4) as card:
        card.directory            # where a program finds ctl, channel, 1, 2 ...
        phone = card.telephone(1)
        await phone.lift()
        await phone.dial_dtmf("123")

The card is a daemon (``hardware/lab/card``, built by make) that owns a FUSE file system with the
device nodes, so any program uses it through ordinary descriptors. It needs root and ``/dev/fuse``.
All audio is 8 kHz, 16 bits, mono.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import shutil
import subprocess
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import DeviceError
from gateway.lab import callerid

CARD = Path(__file__).parents[2] / "hardware" / "lab" / "card"
BUILD = Path(__file__).parents[2] / "build" / "lab"

US_RING = (2000, 4000)
DIAL_TONE = "350+440"
BUSY_TONE = "480+620/500,0/500"
RINGBACK_TONE = "440+480/2000,0/4000"
CONGESTION_TONE = "480+620/250,0/250"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened at the far end of a line."""

    ms: int
    """Milliseconds of the card's clock."""
    port: int
    what: str
    """telephone: ``ringing``, ``battery``, ``polarity``, ``messages``, ``dialled``, ``played``;
    exchange: ``seized``, ``released``, ``digit``, ``flash``, ``rung``, ``played``; port:
    ``open``, ``close``."""
    value: str = ""


def build() -> Path:
    """Build the daemon if its sources are newer; returns the program.

    Raises DeviceError with the compiler's words.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "linecard.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may start at once
        command = ["make", "-s", "-C", str(CARD), f"out={BUILD}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{CARD}: make failed: {done.stderr.strip()[-400:]}")
    return BUILD / "linecard"


def why_not() -> str | None:
    """Why the card cannot run here, or None if it can."""
    if os.geteuid() != 0:
        return "the virtual line card needs root to mount its device directory"
    if not os.path.exists("/dev/fuse"):
        return "the virtual line card needs /dev/fuse (modprobe fuse)"
    if not shutil.which("make") or not shutil.which("cc"):
        return "the virtual line card is built with make and cc"
    return None


def _unmount(directory: Path) -> None:
    subprocess.run(["umount", "-l", str(directory)], capture_output=True, check=False)


def write_pcm(path: Path, samples: bytes | Path) -> Path:
    """Store raw samples, or those of a WAV file of 8 kHz, 16 bits, mono, at ``path``.

    Raises DeviceError if the WAV has another format.
    """
    if isinstance(samples, Path):
        with wave.open(str(samples), "rb") as w:
            shape = (w.getnchannels(), w.getsampwidth(), w.getframerate())
            if shape != (1, 2, 8000):
                raise DeviceError(f"{samples}: {shape}, not mono, 2 octets, 8000 Hz (use sox)")
            samples = w.readframes(w.getnframes())
    path.write_bytes(samples)
    return path


class LineCard:
    """A running card. Closing it stops the daemon; its device nodes then vanish."""

    def __init__(self, work: Path, fxs: int, fxo: int) -> None:
        self.work, self.fxs, self.fxo = work, fxs, fxo
        self.directory = work / "dahdi"
        self.socket = work / "control"
        self.facts: list[Fact] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._news = asyncio.Condition()
        self._files = itertools.count(1)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, *, fxs: int = 4, fxo: int = 4, zone: str = "us", configure: bool = True
    ) -> AsyncIterator[LineCard]:
        """Start a card; with ``configure`` Debian's dahdi_cfg sets it up (kewl start, ``zone``).

        Raises DeviceError when this machine cannot run it.
        """
        reason = why_not()
        if reason:
            raise DeviceError(reason)
        program = await asyncio.to_thread(build)
        with tempfile.TemporaryDirectory(prefix="linecard-") as work:
            card = cls(Path(work), fxs, fxo)
            try:
                await card._start(program)
                if configure:
                    await card.configure(zone)
                yield card
            finally:
                await card.stop()

    async def _start(self, program: Path) -> None:
        self.directory.mkdir()
        self._daemon = self._spawn(program)
        assert self._daemon.stdout is not None
        assert self._daemon.stderr is not None
        if await asyncio.to_thread(self._daemon.stdout.readline) != b"ready\n":
            words = (await asyncio.to_thread(self._daemon.stderr.read)).decode().strip()
            raise DeviceError(f"the virtual line card did not start: {words}")
        self._reader, self._writer = await asyncio.open_unix_connection(self.socket)
        self._task = asyncio.create_task(self._listen(self._reader))

    def _spawn(self, program: Path) -> subprocess.Popen[bytes]:
        ports = (str(self.fxs), str(self.fxo))
        # The card goes when its standard input closes: also if this process is killed.
        return subprocess.Popen(
            [str(program), str(self.directory), str(self.socket), *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def stop(self) -> None:
        """Stop the daemon."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        if self._daemon is not None:
            self._daemon.terminate()
            if await asyncio.to_thread(self._daemon.wait) != 0:
                # killed: it could not unmount, and a dead mount cannot be removed
                await asyncio.to_thread(_unmount, self.directory)
            for pipe in (self._daemon.stdin, self._daemon.stdout, self._daemon.stderr):
                if pipe is not None:
                    pipe.close()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        assert self._daemon is not None
        return self._daemon.pid

    def cpu_seconds(self) -> float:
        """CPU time that the daemon has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # -- foreign programs ------------------------------------------------------------------------

    def command(self, *argv: str) -> list[str]:
        """``argv`` wrapped so that a program that insists on /dev/dahdi finds this card there.

        It runs in a mount namespace of its own; nothing else on the machine sees the change.
        """
        Path("/dev/dahdi").mkdir(exist_ok=True)
        script = (
            'mount --make-rprivate / && mount --bind "$0" /dev/dahdi && '
            # dahdi_cfg serialises itself by a semaphore that a failed run leaves behind
            'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        )
        return ["unshare", "-m", "sh", "-c", script, str(self.directory), *argv]

    async def tool(self, *argv: str, within: float = 60.0) -> str:
        """Run one of Debian's DAHDI tools on this card; returns what it printed.

        Raises DeviceError if it fails or takes longer than ``within`` seconds.
        """
        process = await asyncio.create_subprocess_exec(
            *self.command(*argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "DAHDI_VIRT_TOP": str(self._proc_tree())},
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), within)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise DeviceError(f"{argv[0]}: not done after {within} s") from None
        text = out.decode("utf-8", "replace")
        if process.returncode:
            raise DeviceError(f"{argv[0]}: status {process.returncode}: {text.strip()[-400:]}")
        return text

    async def configure(self, zone: str = "us") -> str:
        """Let dahdi_cfg configure every port: kewl start, echo canceller, tone zone."""
        lines = [f"loadzone={zone}", f"defaultzone={zone}"]
        if self.fxs:
            lines.append(f"fxoks=1-{self.fxs}")
        if self.fxo:
            lines.append(f"fxsks={self.fxs + 1}-{self.fxs + self.fxo}")
        lines.append(f"echocanceller=mg2,1-{self.fxs + self.fxo}")
        file = self.work / "system.conf"
        file.write_text("\n".join(lines) + "\n")
        return await self.tool("dahdi_cfg", "-c", str(file), "-v")

    def _proc_tree(self) -> Path:
        """A /proc/dahdi for the Perl tools, which read text and not the device."""
        top = self.work / "virtual"
        proc = top / "proc" / "dahdi"
        proc.mkdir(parents=True, exist_ok=True)
        spans = ((1, "FXS", 1, self.fxs, "FXOKS"), (2, "FXO", self.fxs + 1, self.fxo, "FXSKS"))
        for number, kind, first, count, signalling in spans:
            ports = "".join(
                f"\t{first + i:4d} VLC/{number - 1}/{i} {signalling} (SWEC: MG2)\n"
                for i in range(count)
            )
            head = f'Span {number}: VLC/{number - 1} "Virtual line card, {kind} ports"'
            (proc / str(number)).write_text(f"{head}\n\n{ports}")
        return top

    # -- control ---------------------------------------------------------------------------------

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := (await reader.readline()).decode():
            head, _, rest = line.rstrip("\n").partition(" ")
            if head == "*":
                ms, port, what, *value = rest.split(" ", 3)
                self.facts.append(Fact(int(ms), int(port), what, value[0] if value else ""))
                async with self._news:
                    self._news.notify_all()
            elif (waiting := self._answers.pop(head, None)) and not waiting.done():
                waiting.set_result(rest)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(DeviceError("the virtual line card is gone"))

    async def control(self, verb: str, *arguments: object) -> str:
        """Send one command (see ``card/control.c``).

        Raises DeviceError with the card's reason.
        """
        if self._writer is None:
            raise DeviceError("the virtual line card is not running")
        number = str(next(self._numbers))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(" ".join([number, verb, *map(str, arguments)]).encode() + b"\n")
        word, _, rest = (await answer).partition(" ")
        if word != "ok":
            raise DeviceError(f"line card: {verb}: {rest}")
        return rest

    async def wait_for(
        self, port: int, what: str, value: str | None = None, *, since: int = 0, within: float = 20
    ) -> Fact:
        """The first fact of that kind at index ``since`` or later of ``facts``; waits for it.

        Raises TimeoutError.
        """
        async with asyncio.timeout(within):
            at = since
            while True:
                while at < len(self.facts):
                    fact = self.facts[at]
                    at += 1
                    if (fact.port, fact.what) == (port, what) and value in (None, fact.value):
                        return fact
                async with self._news:
                    if at == len(self.facts):
                        await self._news.wait()

    def telephone(self, port: int) -> Telephone:
        """The telephone at FXS port ``port``."""
        if not 1 <= port <= self.fxs:
            raise DeviceError(f"port {port} is not an FXS port (1 to {self.fxs})")
        return Telephone(self, port)

    def exchange(self, port: int) -> Exchange:
        """The exchange line at FXO port ``port`` (numbered after the FXS ports)."""
        if not self.fxs < port <= self.fxs + self.fxo:
            raise DeviceError(f"port {port} is not an FXO port (from {self.fxs + 1})")
        return Exchange(self, port)

    async def cable(self, fxs_port: int, fxo_port: int) -> None:
        """Join two ports by a cable; telephone and exchange are then out of the way."""
        await self.control("cable", fxs_port, fxo_port)

    async def uncable(self, fxs_port: int) -> None:
        """Take the cable away."""
        await self.control("cable", fxs_port, fxs_port)

    async def echo(self, port: int, loss_db: float | None, delay_ms: int = 0) -> None:
        """Give a port's hybrid an echo return loss; None is a perfect hybrid."""
        await self.control("echo", port, "off" if loss_db is None else loss_db, delay_ms)

    async def fail(self, port: int) -> None:
        """Take the port away as if the card were pulled."""
        await self.control("fail", port)

    async def mend(self, port: int) -> None:
        """Put it back."""
        await self.control("mend", port)

    def scratch(self, suffix: str) -> Path:
        """A new file name in the card's own directory."""
        return self.work / f"{next(self._files)}{suffix}"


class Outside:
    """What a telephone and an exchange line have in common: they speak and listen."""

    def __init__(self, card: LineCard, port: int) -> None:
        self.card, self.port = card, port
        self._recording: Path | None = None

    async def _do(self, verb: str, *arguments: object) -> None:
        await self.card.control(verb, self.port, *arguments)

    async def wait_for(
        self, what: str, value: str | None = None, *, since: int = 0, within: float = 20
    ) -> Fact:
        """The first such fact at this line; see ``LineCard.wait_for``."""
        return await self.card.wait_for(self.port, what, value, since=since, within=within)

    async def say(self, samples: bytes | Path, *, wait: bool = False) -> None:
        """Play raw samples or a WAV file into the line; ``wait`` until it has been played."""
        since = len(self.card.facts)
        file = await asyncio.to_thread(write_pcm, self.card.scratch(".pcm"), samples)
        await self._do("play", file)
        if wait:
            seconds = file.stat().st_size / 16000
            await self.wait_for("played", since=since, within=seconds + 20)

    async def tone(self, spec: str, dbm0: float = -13.0) -> None:
        """Play a tone, e.g. ``480+620/500,0/500``, until ``stop``."""
        await self._do("tone", spec, dbm0)

    async def stop(self) -> None:
        """Be silent."""
        await self._do("stop")

    async def dial_dtmf(self, digits: str, *, on_ms: int = 80, off_ms: int = 80) -> None:
        """Send DTMF digits, and wait until they have been sent."""
        since = len(self.card.facts)
        await self._do("dtmf", digits, on_ms, off_ms)
        length = len(digits) * (on_ms + off_ms) / 1000
        await self.wait_for("played", since=since, within=length + 20)

    async def record(self) -> Path:
        """Start to record what is heard here; returns the file of raw samples."""
        self._recording = self.card.scratch(".heard")
        await self._do("record", self._recording)
        return self._recording

    async def recorded(self) -> bytes:
        """Stop recording; the raw samples."""
        await self._do("record", "-")
        if self._recording is None:
            raise DeviceError(f"line card: port {self.port} was not recording")
        return await asyncio.to_thread(self._recording.read_bytes)

    async def state(self) -> dict[str, int]:
        """Electrical state of the line."""
        words = (await self.card.control("state", self.port)).split()
        return {name: int(value) for name, value in (word.split("=") for word in words)}


class Telephone(Outside):
    """A telephone at an FXS port."""

    async def lift(self) -> None:
        """Lift the handset."""
        await self._do("hook", "up")

    async def hang_up(self) -> None:
        """Put it down; silences the phone too."""
        await self._do("stop")
        await self._do("hook", "down")

    async def flash(self, ms: int = 300) -> None:
        """Press the recall key."""
        await self._do("flash", ms)

    async def dial_pulse(
        self, digits: str, *, break_ms: int = 60, make_ms: int = 40, pause_ms: int = 700
    ) -> None:
        """Dial with a rotary dial, and wait until it has come to rest."""
        since = len(self.card.facts)
        await self._do("pulse", digits, break_ms, make_ms, pause_ms)
        length = sum(int(d) or 10 for d in digits) * (break_ms + make_ms) + len(digits) * pause_ms
        await self.wait_for("dialled", since=since, within=length / 1000 + 20)

    async def wait_for_ring(self, within: float = 20.0) -> Fact:
        """Wait until it rings (again)."""
        return await self.wait_for("ringing", "on", since=len(self.card.facts), within=within)


class Exchange(Outside):
    """The exchange's side of a line at an FXO port."""

    async def ring(self, cadence_ms: Sequence[int] = US_RING, count: int = 0) -> None:
        """Ring; ``count`` bursts, 0 until answered or ``stop_ring``."""
        await self._do("ring", ",".join(map(str, cadence_ms)), count)

    async def stop_ring(self) -> None:
        """Stop ringing."""
        await self._do("ring", "off")

    async def battery(self, state: str) -> None:
        """Feed the line: ``on``, ``off`` or ``reversed``."""
        await self._do("battery", state)

    async def drop(self, ms: int = 500) -> None:
        """Drop the battery for a while: calling party control, "the far end has gone"."""
        await self._do("drop", ms)

    async def send_caller_id(
        self, number: str, name: str = "", *, v23: bool = False, wait: bool = True
    ) -> None:
        """Send caller ID as FSK, to be called in the pause after the first ring."""
        stamp = time.strftime("%m%d%H%M")
        await self.say(callerid.fsk(callerid.mdmf(number, name, stamp), v23=v23), wait=wait)

    async def digits(self, count: int, *, since: int = 0, within: float = 30.0) -> str:
        """The first ``count`` digits, DTMF or pulse, that the port has dialled."""
        found = ""
        async with asyncio.timeout(within):
            while len(found) < count:
                fact = await self.wait_for("digit", since=since, within=within)
                since = self.card.facts.index(fact, since) + 1
                found += fact.value
        return found
