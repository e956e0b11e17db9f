"""The guard: whatever happens to the gateway, the line is released, read back, and proven."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.testing import until
from tests.adapters import radio_stand
from tests.adapters.radio_stand import Port

LEASE_S = 0.2
SLACK_S = 0.6
"""For a test machine on which others work too."""

SURVIVED = {
    # Their default is to go on, or Python ignores them.
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ,
}  # fmt: skip
SIGNALS = sorted(s for s in signal.valid_signals() if isinstance(s, signal.Signals))


@dataclass
class Keyed:
    """A gateway that transmits."""

    process: asyncio.subprocess.Process
    port: Port
    guard: int
    home: Path

    def proofs(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (self.home / "keying-a.jsonl").read_text().splitlines()
        ]

    async def off(self, within_s: float) -> float:
        """Wait until the line is off; how long that took."""
        begin = time.monotonic()
        while self.port.output():
            assert time.monotonic() - begin < within_s, "the line is still keyed"
            await asyncio.sleep(0.002)
        return time.monotonic() - begin

    async def gone(self) -> None:
        """Wait until the guard has ended by itself."""
        for _ in range(400):
            if not alive(self.guard):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the guard does not end")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return radio_stand.build_shim(tmp_path_factory.mktemp("shim"))


@contextlib.asynccontextmanager
async def keyed(shim: Path) -> AsyncIterator[Keyed]:
    with tempfile.TemporaryDirectory(prefix="guard-") as name:
        home = Path(name)
        port = Port(home)
        root = Path(gateway.__file__).parent.parent
        environment = os.environ | {
            "LINES_SHIM": name, "LD_PRELOAD": str(shim), "PYTHONPATH": str(root),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.adapters.radio_stand", port.path, name, cwd=root,
            env=environment, stdout=asyncio.subprocess.PIPE, process_group=0,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            words = (await asyncio.wait_for(process.stdout.readline(), 30)).split()
            assert words[:1] == [b"keyed"]
            yield Keyed(process, port, int(words[1]), home)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            port.close()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
async def test_a_signal_to_the_gateway(shim: Path, number: signal.Signals) -> None:
    async with keyed(shim) as it:
        assert it.port.output()
        it.process.send_signal(number)
        if number in SURVIVED:
            await asyncio.sleep(2 * LEASE_S)
            # Where it had no time to renew, it keys again by itself.
            await until(it.port.output, "it goes on, and so does the transmission")
            assert it.process.returncode is None
            return
        took = await it.off(5.0)
        assert took < LEASE_S + SLACK_S
        while len(it.proofs()) < 2:
            assert alive(it.guard) or len(it.proofs()) == 2
            await asyncio.sleep(0.005)
        if number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            assert it.proofs()[-1]["why"] == "the lease was not renewed"
        else:
            await it.gone()
        last = it.proofs()[-1]
        assert (last["what"], last["read_back"], last["radio"]) == ("unkeyed", "off", "radio/a")
        assert it.proofs()[0]["why"] == "start"


async def test_signals_to_the_guard_do_not_take_it_away(shim: Path) -> None:
    async with keyed(shim) as it:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(it.guard, number)
        await asyncio.sleep(0.5)
        assert alive(it.guard)
        assert it.port.output()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_guard_that_dies_or_hangs_is_replaced_and_the_new_one_releases(
    shim: Path, number: signal.Signals
) -> None:
    async with keyed(shim) as it:
        n_proofs = len(it.proofs())
        os.kill(it.guard, number)
        # The shim does not imitate HUPCL: what releases here is the next guard's first act.
        await it.off(6.0)
        await until(lambda: len(it.proofs()) > n_proofs, "the next guard's proof")
        assert it.proofs()[-1]["why"] == "start"
        assert it.proofs()[-1]["read_back"] == "off"
        assert it.process.returncode is None
        await it.gone()


def alive(pid: int) -> bool:
    """Whether a process runs that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
