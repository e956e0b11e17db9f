"""Foreign Modbus programs for the tests: a libmodbus device, mbpoll, and serial lines by socat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import pytest

from gateway.testing import until

SOURCE = Path(__file__).parents[1] / "interop" / "modbus_device.c"

needs_libmodbus = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("pkg-config"))
    or subprocess.run(["pkg-config", "--exists", "libmodbus"], check=False).returncode != 0,
    reason="needs a C compiler and libmodbus (apt-get install gcc pkg-config libmodbus-dev)",
)
needs_mbpoll = pytest.mark.skipif(
    not shutil.which("mbpoll"), reason="needs mbpoll (apt-get install mbpoll)"
)
needs_socat = pytest.mark.skipif(
    not shutil.which("socat"), reason="needs socat (apt-get install socat)"
)


@cache
def _program() -> str:
    directory = Path(tempfile.gettempdir()) / f"gateway-test-modbus-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    program = directory / "modbus_device"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus"], check=True, capture_output=True
    )
    fresh = directory / f"modbus_device.{os.getpid()}"
    subprocess.run(["cc", "-O2", "-o", fresh, SOURCE, *flags.stdout.decode().split()], check=True)
    fresh.replace(program)
    return str(program)


class Device:
    """A libmodbus server; `asked` are the requests it got, such as ``fc 2 addr 3``."""

    def __init__(self, *arguments: str) -> None:
        self.asked: list[str] = []
        self.said: list[str] = []
        self.port = 0
        self._arguments = arguments
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, on the same TCP port as before if it had one."""
        arguments = list(self._arguments)
        if arguments[0] == "tcp":
            arguments[1] = str(self.port)
        self.said.clear()
        self._process = subprocess.Popen(  # noqa: ASYNC220
            [_program(), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._readable, fd)
        await until(lambda: self.said, "the device starts")
        if self.said[0].startswith("port"):
            self.port = int(self.said[0].split()[1])

    def stop(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            asyncio.get_running_loop().remove_reader(process.stdout.fileno())
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def tell(self, command: str) -> None:
        """Send it a command."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    async def coil(self, address: int) -> bool:
        """The coil as it is in the device."""
        n_said = len(self.said)
        self.tell(f"? co {address}")
        await until(lambda: len(self.said) > n_said, "the device tells")
        return self.said[-1].endswith("1")

    async def coil_is(self, address: int, value: bool, within_s: float = 30.0) -> None:
        """Wait until the coil is so."""
        deadline = time.monotonic() + within_s
        while await self.coil(address) is not value:
            assert time.monotonic() < deadline, f"coil {address} is not {value}"
            await asyncio.sleep(0.01)

    def _readable(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 65536)
            if not data:
                asyncio.get_running_loop().remove_reader(fd)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                (self.asked if line.startswith(b"fc") else self.said).append(line.decode())


@contextlib.asynccontextmanager
async def device(*arguments: str) -> AsyncIterator[Device]:
    """A device that runs."""
    made = Device(*(arguments or ("tcp", "0")))
    await made.start()
    try:
        yield made
    finally:
        made.stop()


class Cable:
    """Two pseudo-terminals joined by socat; pulling it out is `unplug`."""

    def __init__(self, directory: Path) -> None:
        self.ends = (str(directory / "a"), str(directory / "b"))
        self._process: subprocess.Popen[bytes] | None = None

    async def plug(self) -> None:
        """Join them; returns when both are there."""
        self._process = subprocess.Popen(  # noqa: ASYNC220
            ["socat", *(f"pty,raw,echo=0,link={end}" for end in self.ends)]
        )
        await until(lambda: all(os.path.exists(end) for end in self.ends), "socat starts")

    def unplug(self) -> None:
        """Both ends are gone."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


@contextlib.asynccontextmanager
async def cable(directory: Path) -> AsyncIterator[Cable]:
    """A cable that is plugged in."""
    made = Cable(directory)
    await made.plug()
    try:
        yield made
    finally:
        made.unplug()


async def mbpoll(*arguments: str) -> tuple[int, str]:
    """Exit status and output of mbpoll."""
    process = await asyncio.create_subprocess_exec(
        "mbpoll",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()
