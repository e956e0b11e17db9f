"""The lab's radio: a transceiver beside the gateway, and somebody far away with another one.

The transceiver is keyed through hamlib's rigctld with its dummy rig, a foreign program that says
whether it transmits. Its squelch is a pseudo-terminal and its audio is UDP, as with SvxLink.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import shutil
import socket
import time
import tty
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import DeviceError
from gateway.lab.heard import RATE, Tape
from gateway.lab.softphone import free_port
from gateway.testing.audio import tone

VOICE_HZ: Final = 850.0
_BLOCK: Final = RATE // 50
_ASKED_S: Final = 0.05
_START_S: Final = 10.0
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Over:
    """One transmission, as the rig saw it."""

    at: float
    """Wall time of its begin."""
    seconds: float


class Transceiver(asyncio.DatagramProtocol):
    """The transceiver and who speaks to it; an asynchronous context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tape = Tape()
        """What was on the air."""
        self.keyed = False
        self.overs: deque[Over] = deque(maxlen=10)
        """The latest transmissions, oldest first."""
        self.receives_at = free_port(socket.SOCK_DGRAM)
        """UDP port on which the gateway gets what the radio receives."""
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Transceiver:
        try:
            await self._set_up()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _set_up(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._squelch, theirs = pty.openpty()
        self._stack.callback(os.close, self._squelch)
        self._stack.callback(os.close, theirs)
        tty.setraw(theirs)
        self.squelch_path = os.ttyname(theirs)
        loop = asyncio.get_running_loop()
        self._audio, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self._stack.callback(self._audio.close)
        self.transmits_at = int(self._audio.get_extra_info("sockname")[1])
        """UDP port to which the gateway sends what is to be transmitted."""
        reader, writer = await self._start()
        watching = asyncio.create_task(self._watch(reader, writer), name="rig")
        self._stack.callback(watching.cancel)

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        program = shutil.which("rigctld")
        if program is None:
            raise DeviceError("rigctld is not installed: apt-get install libhamlib-utils")
        for _ in range(_TRIES):
            self.rig_port = free_port()
            with (self.directory / "rigctld.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    program, "-m", "1", "-T", "127.0.0.1", "-t", str(self.rig_port), "-P", "RIG",
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            self._stack.push_async_callback(_end, process)
            deadline = time.monotonic() + _START_S
            while process.returncode is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    return await asyncio.open_connection("127.0.0.1", self.rig_port)
                await asyncio.sleep(0.05)
        raise DeviceError(f"rigctld did not start: see {self.directory / 'rigctld.log'}")

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask the rig again and again whether it transmits."""
        began = 0.0
        try:
            while True:
                writer.write(b"t\n")
                keyed = (await reader.readline()).strip() == b"1"
                if keyed and not self.keyed:
                    began = time.time()
                elif self.keyed and not keyed:
                    self.overs.append(Over(began, time.time() - began))
                self.keyed = keyed
                await asyncio.sleep(_ASKED_S)
        finally:
            writer.close()

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """The gateway transmits."""
        self.tape.feed(data)

    # Somebody far away

    def carrier(self, on: bool) -> None:
        """Press the talk key of the other radio, or let it go."""
        os.write(self._squelch, b"T" if on else b"R")

    async def talk(self, seconds: float) -> None:
        """Press it, say 850 Hz, let it go."""
        second = tone(VOICE_HZ, 1.0, rate=RATE).tobytes()
        loop = asyncio.get_running_loop()
        self.carrier(True)
        try:
            begin = loop.time()
            for n in range(round(seconds * 50)):
                at = n * _BLOCK * 2 % len(second)
                self._audio.sendto(second[at : at + _BLOCK * 2], ("127.0.0.1", self.receives_at))
                await asyncio.sleep(begin + (n + 1) / 50 - loop.time())
        finally:
            self.carrier(False)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 3.0)
    if process.returncode is None:
        process.kill()
        await process.wait()
