"""The gateway's end of the library's process: starts it, speaks with it, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

from gateway.adapters.pyvoip import messages as say
from gateway.errors import DeviceError

SILENT_S: Final = 15.0
"""A process that says nothing for so long hangs, and is killed."""
END_S: Final = 2.5
_AT_ONCE: Final = 64


class Process:
    """One process, from `serve` to its end. `heard` gets its messages, on the event loop."""

    def __init__(self, heard: Callable[[say.FromLibrary], None]) -> None:
        self._heard = heard
        self._child: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._gone: asyncio.Event = asyncio.Event()
        self._heard_at = 0.0
        self._asked = False

    @property
    def pid(self) -> int | None:
        """Process id."""
        return None if self._child is None else self._child.pid

    async def serve(self, begin: say.Begin) -> str:
        """Start it and follow it until it is gone; why, empty when it was asked to.

        Raises `DeviceError` when it cannot be started.
        """
        ours = self._start()
        ours.setblocking(False)
        self._control = ours
        loop = asyncio.get_running_loop()
        loop.add_reader(ours.fileno(), self._readable)
        self._heard_at = time.monotonic()
        try:
            self.send(begin)
            while not self._gone.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), SILENT_S / 4)
                if time.monotonic() - self._heard_at > SILENT_S:
                    return "the library's process does not answer"
            if self._asked:
                return ""
            return f"the library's process died{await self._status()}"
        finally:
            await self._end()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            with theirs:
                # In a session of its own: a terminal's signals are not for it.
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "gateway.adapters.pyvoip.child", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),), start_new_session=True, env=environment,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise DeviceError(f"the library's process cannot be started: {error}") from error
        return ours

    def send(self, message: say.ToLibrary, wire: socket.socket | None = None) -> bool:
        """Send a message, with a descriptor if any; False: it takes none."""
        if self._control is None:
            return False
        try:
            socket.send_fds(
                self._control, [say.encode(message)], [] if wire is None else [wire.fileno()]
            )
        except OSError:
            return False
        return True

    def end(self) -> None:
        """Ask it to hang up, to take its registration back, and to go."""
        self._asked = True
        self.send(say.End())

    def _readable(self) -> None:
        assert self._control is not None
        for _ in range(_AT_ONCE):
            try:
                data = self._control.recv(say.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._control.fileno())
                self._gone.set()
                return
            self._heard_at = time.monotonic()
            self._heard(say.decode_from_library(data))

    async def _status(self) -> str:
        """How it ended, in words: its end of the socket is closed a little before it is gone."""
        code = await self._reaped()
        if code is None or code == 0:
            return ""
        return f" of {signal.Signals(-code).name}" if code < 0 else f" with status {code}"

    async def _reaped(self) -> int | None:
        deadline = time.monotonic() + END_S
        while self._child is not None and time.monotonic() < deadline:
            if (code := self._child.poll()) is not None:
                return code
            await asyncio.sleep(0.01)
        return None

    async def _end(self) -> None:
        if not self._gone.is_set():
            self.end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), END_S)
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._child is not None:
            if await self._reaped() is None:
                with contextlib.suppress(ProcessLookupError):
                    self._child.kill()
            self._child.wait()
