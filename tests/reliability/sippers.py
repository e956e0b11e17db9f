"""SIPp as caller and called one, with scenarios that forgive the network what it does."""

from __future__ import annotations

import asyncio
import csv
import signal
import subprocess
from pathlib import Path

from tests.reliability.net import CLIENT, FAR, GATEWAY, Netlab

SCENARIOS = Path(__file__).parent / "sipp"


class Sipp:
    """One SIPp process in a namespace."""

    def __init__(
        self, net: Netlab, home: Path, scenario: str, space: str, address: str, *more: str
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._file = home / f"{scenario}-{address}.csv"
        self._file.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            net.command(
                space, "sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", address,
                "-mi", address, "-p", "5060", "-nostdin", "-trace_stat", "-stf", str(self._file),
                "-fd", "1", "-timer_resol", "5", "-buff_size", "4000000",
                # What the network doubles or hastens is not the peer's fault.
                "-default_behaviors", "all,-abortunexp", *more,
            ),
            cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        net.processes.append(self.process)

    async def done(self, within_s: float) -> None:
        """Wait for its end, or end it."""
        for _ in range(int(within_s * 10)):
            if self.process.poll() is not None:
                return
            await asyncio.sleep(0.1)
        await self.stop()

    async def stop(self) -> None:
        """Let it write its last figures and go."""
        for number in (signal.SIGCONT, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            self.process.send_signal(number)
            for _ in range(20):
                if self.process.poll() is not None:
                    return
                await asyncio.sleep(0.05)

    def figures(self) -> dict[str, int]:
        """The last counters it has written."""
        with self._file.open() as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        return {key: int(value) for key, value in rows[-1].items() if key and value.isdigit()}


def called(net: Netlab, home: Path, address: str = FAR, *more: str) -> Sipp:
    """A far end that answers."""
    return Sipp(net, home, "uas", "b", address, *more)


def caller(net: Netlab, home: Path, n: int, rate: float, hold_ms: int, *more: str) -> Sipp:
    """Calls to 1000; the calling number is 7000000 and the number of the call."""
    return Sipp(
        net, home, "uac", "a", CLIENT, "-s", "1000", "-m", str(n), "-r", f"{rate:g}",
        "-l", str(n), "-d", str(hold_ms), *more, f"{GATEWAY}:5060",
    )  # fmt: skip
