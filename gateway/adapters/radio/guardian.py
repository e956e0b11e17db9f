"""The gateway's end of a guard: starts the process, renews its lease, hears what the line does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.errors import DeviceError

RENEW_S: Final = 0.05
SILENT_S: Final = 1.5
"""A guard that says nothing for so long hangs: it is killed, and the kernel lets go of the line."""
START_S: Final = 15.0
"""How long its first word may take: an interpreter starts, perhaps on a busy box."""
END_S: Final = 1.0
REAP_S: Final = 0.005


class Guardian:
    """One guard process at a time. Driven by `serve`, `key` and `unkey`; `heard` gets every
    message of the guard as a dictionary."""

    def __init__(
        self,
        config: dict[str, Any],
        heard: Callable[[dict[str, Any]], None],
        release: Callable[[], bytes],
    ) -> None:
        """release: the datagram that would end the present over of a network radio."""
        self._config, self._heard, self._release = config, heard, release
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._wanted = False
        self._over = 0
        self._renewal: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._spoke = False
        self._gone: asyncio.Future[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the guard."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start a guard. Raises `DeviceError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            # In a session of its own: a terminal's signals are not for it.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.guard", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), start_new_session=True, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise DeviceError(f"the guard cannot be started: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._send(self._config)

    async def serve(self) -> str:
        """Follow the guard until it is gone; why. `stop` must follow."""
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        self._gone = loop.create_future()
        self._heard_at = time.monotonic()
        loop.add_reader(self._socket.fileno(), self._readable)
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(self._gone), SILENT_S / 3)
            allowed = SILENT_S if self._spoke else START_S
            if time.monotonic() - self._heard_at > allowed:
                return "the guard does not answer"

    def key(self) -> None:
        """Key, and renew the lease until `unkey`."""
        if not self._wanted:
            self._wanted = True
            self._over += 1
            self._renew()

    def unkey(self, why: str) -> None:
        """Release."""
        if self._wanted:
            self._forget()
            self._send({"key": False, "why": why})

    def lapsed(self) -> None:
        """The line is off by the guard's own decision: stop renewing."""
        self._forget()

    def wire(self, fd: int) -> None:
        """Hand over the socket of a network radio."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [b'{"wire": 1}'], [fd])

    def _forget(self) -> None:
        self._wanted = False
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _renew(self) -> None:
        now, release = time.monotonic(), self._release().hex()
        self._send({"key": True, "over": self._over, "at": now, "release": release})
        self._renewal = asyncio.get_running_loop().call_later(RENEW_S, self._renew)

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            # A full or broken socket ends the lease: that is what it is for.
            with contextlib.suppress(OSError):
                self._socket.send(json.dumps(message).encode())

    def _readable(self) -> None:
        assert self._socket is not None
        assert self._gone is not None
        for _ in range(64):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                if not self._gone.done():
                    self._gone.set_result("the guard died")
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                return
            self._heard_at, self._spoke = time.monotonic(), True
            message = json.loads(data)
            if message["is"] != "alive":
                self._heard(message)

    async def stop(self) -> None:
        """End it, the line off; a guard that hangs is killed."""
        self._forget()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            # The guard takes the end of the socket as the end of us, releases the line and goes.
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process is not None:
            try:
                for _ in range(round(END_S / REAP_S)):
                    if process.poll() is not None:
                        break
                    await asyncio.sleep(REAP_S)
            finally:
                process.kill()
                process.wait()


def proof_file(directory: Path, name: str) -> Path:
    """Where the guard of a radio writes its proofs."""
    return directory / f"keying-{name}.jsonl"
