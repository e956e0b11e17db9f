"""A serial port with control lines, and a gateway of one radio in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import tty
from pathlib import Path
from typing import Any

import pytest

SHIM = Path(__file__).parent.parent / "drivers" / "lines_shim.c"


def build_shim(directory: Path) -> Path:
    """The preloaded library that gives pseudo-terminals control lines."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    out = directory / "lines_shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(out), str(SHIM), "-ldl"], check=True)
    return out


class Port:
    """A serial port: `path` for the gateway, its control lines for the test."""

    def __init__(self, directory: Path) -> None:
        self._fds = pty.openpty()
        tty.setraw(self._fds[1])
        self.path = os.ttyname(self._fds[1])
        number = self.path.rpartition("/")[2]
        self._out, self._in = directory / f"{number}.out", directory / f"{number}.in"
        for each in (self._out, self._in):
            each.write_bytes(bytes(4))

    def output(self, bit: int = termios.TIOCM_RTS) -> bool:
        """Whether an output is raised."""
        return bool(struct.unpack("i", self._out.read_bytes())[0] & bit)

    def carrier(self, on: bool, bit: int = termios.TIOCM_CTS) -> None:
        """Raise or drop an input."""
        self._in.write_bytes(struct.pack("i", bit if on else 0))

    def close(self) -> None:
        """Pull it."""
        for fd in self._fds:
            os.close(fd)
        self._fds = ()


async def main(device: str, data_dir: str) -> None:
    """Hold a radio keyed for ever, as the gateway does: the lease renewed every half second.

    device: a serial port, ``rigctld:port`` or ``reflector:port``.
    """
    from gateway.adapters.radio import Radio
    from gateway.core.actions import Key
    from gateway.core.endpoints import Condition
    from gateway.core.events import EndpointChanged, InputChanged
    from gateway.testing import TestHost

    host = TestHost("radio", data_dir=Path(data_dir))
    by, _, where = device.partition(":")
    config: dict[str, Any] = {"transmit": True}
    if by == "reflector":
        config["reflector"] = {
            "host": "127.0.0.1", "port": int(where), "callsign": "GATEWAY", "password": "secret-g",
        }  # fmt: skip
    else:
        config["key"] = (
            {"by": "rigctld", "port": int(where)}
            if by == "rigctld"
            else {"by": "serial", "device": device}
        )
        silence = ["sleep", "1000"]
        config["audio"] = {"by": "command", "record": silence, "play": silence}
    host.make(Radio, {"radios": {"a": config}})
    seen = 0
    async with host.running():
        adapter = host.adapter
        while host.endpoints["radio/a"].condition is not Condition.UP:
            await asyncio.wait_for(host.wait_for(EndpointChanged, count=seen + 1), 20)
            seen = len(host.of(EndpointChanged))
        leg = host.dial("radio/a")
        adapter.key(Key(leg=leg))
        await host.wait_for(InputChanged, input="ptt", value=1.0)
        print("keyed", adapter.stations["radio/a"].guardian.pid, flush=True)
        while True:
            adapter.key(Key(leg=leg))
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    # Whoever started the tests in the background may have had it ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    asyncio.run(main(*sys.argv[1:]))
