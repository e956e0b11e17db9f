"""Softphone: baresip, a SIP phone that is not ours, driven over its control port.

Its microphone is a WAV file and what it hears is written to another, so that a machine without a
sound card can listen to a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.errors import DeviceError

_MODULES = Path("/usr/lib/baresip/modules")
_START_S = 10.0
_TRIES = 3
_CONFIG = """\
poll_method epoll
sip_listen {address}:{sip}
sip_trans_def {transport}
call_local_timeout 120
call_max_calls 4
audio_path /usr/share/baresip
audio_source aufile,{microphone}
audio_player aubridge,nowhere
audio_alert aubridge,nowhere
audio_level no
ausrc_format s16
auplay_format s16
auenc_format s16
audec_format s16
audio_channels 1
rtp_ports {rtp}-{rtp_last}
jitter_buffer_delay 1-10
net_interface {address}
module_path {modules}
module aufile.so
module aubridge.so
module g711.so
module g722.so
module contact.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen {address}:{control}
snd_path {heard}
{extra}
"""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody uses at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(eq=False)
class Softphone:
    """One baresip process; an asynchronous context manager."""

    account: str
    """Account line, such as ``<sip:anna@127.0.0.1:5060>;auth_pass=secret``."""
    microphone: Path
    """WAV file that it speaks, at the rate of the codec."""
    directory: Path
    transport: str = "udp"
    extra: str = ""
    address: str = "127.0.0.1"
    """Its own, also of the control port."""
    before: tuple[str, ...] = ()
    """Begins its command line: what puts it elsewhere."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What it reported, oldest first."""
    port: int = 0
    """Its SIP port."""
    _process: asyncio.subprocess.Process | None = None
    _writer: asyncio.StreamWriter | None = None
    _reading: asyncio.Task[None] | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _answers: dict[str, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    @property
    def heard_directory(self) -> Path:
        """Where it writes what it hears."""
        return self.directory / "heard"

    def heard(self) -> Path:
        """What it heard in its latest call. Raises `DeviceError` when there was none."""
        found = sorted(
            self.heard_directory.glob("dump-*-dec.wav"), key=lambda file: file.stat().st_mtime
        )
        if not found:
            raise DeviceError(f"the softphone heard nothing: {self.heard_directory} is empty")
        return found[-1]

    async def __aenter__(self) -> Softphone:
        fixed = self.port
        for left in reversed(range(_TRIES)):
            try:
                await self._start()
                break
            except DeviceError:
                await self.__aexit__()
                # Somebody may have taken a port between our look at it and baresip's.
                if not left or self._process is None:
                    raise
                self.port = fixed
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def _start(self) -> None:
        program = shutil.which("baresip")
        if program is None or not _MODULES.exists():
            raise DeviceError("baresip is not installed: apt-get install baresip-core")
        self.heard_directory.mkdir(parents=True, exist_ok=True)
        control = free_port()
        self.port = self.port or free_port(socket.SOCK_DGRAM)
        rtp = free_port(socket.SOCK_DGRAM) & ~1
        rtp = min(rtp, 65000)
        (self.directory / "config").write_text(
            _CONFIG.format(
                address=self.address,
                sip=self.port,
                transport=self.transport,
                microphone=self.microphone,
                rtp=rtp,
                rtp_last=rtp + 40,
                modules=_MODULES,
                control=control,
                heard=self.heard_directory,
                extra=self.extra,
            )
        )
        (self.directory / "accounts").write_text(self.account + "\n")
        (self.directory / "contacts").touch()
        # Line by line, so that its trace of SIP can be followed while it runs.
        stdbuf = shutil.which("stdbuf")
        unbuffered = (stdbuf, "-oL") if stdbuf else ()
        with (self.directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.before, *unbuffered, program, "-4", "-s", "-f", str(self.directory),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        await self._connect(control)

    async def _connect(self, control: int) -> None:
        deadline = asyncio.get_running_loop().time() + _START_S
        while True:
            try:
                reader, self._writer = await asyncio.open_connection(self.address, control)
                break
            except OSError:
                gone = self._process is None or self._process.returncode is not None
                if gone or asyncio.get_running_loop().time() > deadline:
                    raise DeviceError(
                        f"baresip did not start: see {self.directory / 'log'}"
                    ) from None
                await asyncio.sleep(0.05)
        self._reading = asyncio.create_task(self._read(reader), name="softphone")

    async def __aexit__(self, *_: object) -> None:
        if self._reading:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        if self._writer:
            self._writer.close()
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 3.0)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Netstrings of JSON: ``12:{"event":true},``."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                length = int((await reader.readuntil(b":"))[:-1])
                message = json.loads((await reader.readexactly(length + 1))[:-1])
                waiting = self._answers.pop(message.get("token", ""), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
                    continue
                async with self._changed:
                    self.events.append(message)
                    self._changed.notify_all()

    async def command(self, command: str, parameters: str = "") -> str:
        """Carry out one of baresip's commands; its answer. Raises `DeviceError` on refusal."""
        if self._writer is None:
            raise DeviceError("the softphone is not running")
        token = f"t{len(self._answers)}-{id(object())}"
        text = json.dumps({"command": command, "params": parameters, "token": token}).encode()
        self._answers[token] = asyncio.get_running_loop().create_future()
        self._writer.write(b"%d:%s," % (len(text), text))
        try:
            answer = await asyncio.wait_for(self._answers[token], 5.0)
        except TimeoutError:
            raise DeviceError(f"the softphone did not answer {command!r}") from None
        if not answer.get("ok"):
            raise DeviceError(f"the softphone refused {command!r}: {answer.get('data')}")
        return str(answer.get("data", ""))

    async def wait(self, *types: str, within_s: float = 10.0, skip: int = 0) -> dict[str, Any]:
        """The next event of one of these types that is not among the first `skip` events.

        Raises `DeviceError` naming what came instead.
        """

        def found() -> dict[str, Any] | None:
            return next((e for e in self.events[skip:] if e.get("type") in types), None)

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(found), within_s)
            except TimeoutError:
                seen = [event.get("type") for event in self.events[skip:]]
                raise DeviceError(f"the softphone saw {seen}, not {types}") from None
        event = found()
        assert event is not None
        return event

    async def registered(self, within_s: float = 10.0) -> None:
        """Wait until its registrar has taken it. Raises `DeviceError` after `within_s`."""
        # It may have registered before we could listen, so its events do not tell.
        deadline = asyncio.get_running_loop().time() + within_s
        while "OK" not in (answer := await self.command("reginfo")):
            if asyncio.get_running_loop().time() > deadline:
                raise DeviceError(f"the softphone is not registered: {answer.strip()}")
            await asyncio.sleep(0.1)

    async def dial(self, target: str) -> None:
        """Call a SIP URI or a number of its account's domain."""
        await self.command("dial", target)

    async def accept(self) -> None:
        """Answer the call that rings."""
        await self.command("accept")

    async def hang_up(self) -> None:
        """End the present call."""
        await self.command("hangup")

    async def press(self, digits: str) -> None:
        """Press keys, each long enough to count."""
        for digit in digits:
            await self.command("sndcode", digit)
            await asyncio.sleep(0.2)
            # The zero octet is how baresip says that the key was let go.
            await self.command("sndcode", "\x04")
            await asyncio.sleep(0.1)
