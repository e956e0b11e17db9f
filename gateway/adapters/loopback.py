"""Loopback: ports that answer, echo and call by themselves. The adapter to copy.

Useful on a real box too: route a number to ``loopback/echo`` and hear yourself; let
``loopback/probe`` call through the gateway once a minute and watch that it gets through.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from gateway.adapters.base import Adapter, Host, Loan
from gateway.core.actions import Answer, Dial, Hangup, Progress, Ring, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.errors import DeviceError
from gateway.media.streams import Codec, DeviceSpec

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]
_BLOCK_S = 0.02
_FORMAT: dict[str, Any] = {"codec": Codec.L16, "block_bytes": 320, "paced_by_device": False}


class Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.loopback.ports.<name>]``: one port."""

    number: str = ""
    """Directory number."""
    answer_s: _Seconds = 0.0
    """How long it rings before it answers."""
    busy: bool = False
    """Refuse every call."""
    tone_hz: Annotated[float, msgspec.Meta(ge=0, lt=4000)] = 0.0
    """Send this tone; 0: send back what is heard."""
    calls: str = ""
    """Number to call by itself."""
    every_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """How long from one such call to the next."""
    talk_s: _Seconds = 0.0
    """Hang up this long after the answer; 0: never."""


class Loopback(Adapter):
    """Ports that answer, echo and call by themselves."""

    kind = "loopback"

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """``[adapters.loopback]``."""

        ports: dict[str, Port] = msgspec.field(default_factory=lambda: {"echo": Port()})

    def __init__(self, name: str, config: Config, host: Host) -> None:
        # Nothing is opened here: the configuration is also checked on boxes without the device.
        super().__init__(name, config, host)
        self._legs: dict[str, asyncio.Task[Any] | None] = {}
        """Open legs, each with the task that acts for the person at the far end."""
        self._lent: dict[str, tuple[str, contextlib.ExitStack]] = {}
        """Endpoints whose audio another adapter's leg has: which, and what is open for it."""

    def endpoints(self) -> Iterable[Endpoint]:
        for name, port in self.config.ports.items():
            yield Endpoint(id=f"{self.name}/{name}", label=f"loopback {name}", number=port.number)

    async def run(self) -> None:
        try:
            for endpoint in self.endpoints():
                self.host.set_endpoint(msgspec.structs.replace(endpoint, condition=Condition.UP))
            self.host.ready()
            for name, port in self.config.ports.items():
                if port.calls:
                    self.host.create_task(self._call_for_ever(name, port), name=f"{name} calls")
            await _for_ever()  # until cancelled: there is no device that could fail
        finally:
            for leg in list(self._legs):
                self._end(leg, Cause.SHUTDOWN)
            for place, (leg, _) in list(self._lent.items()):
                self.release(place, leg)
                self.host.recall(leg, Cause.SHUTDOWN, "it stops")

    # Towards us: the gateway dials one of our ports.

    def dial(self, action: Dial) -> None:
        port = self.config.ports.get(action.endpoint.partition("/")[2])
        if port is None:
            raise DeviceError(f"there is no port {action.endpoint}")
        self._legs[action.leg] = None
        self.host.wire(action.leg, "ring", kind=self.kind, outward=True)
        if port.busy or any(other != action.leg and other.startswith(f"{action.endpoint}#")
                            for other in self._legs):  # fmt: skip
            self._end(action.leg, Cause.BUSY)
            return
        if action.endpoint in self._lent:
            self._end(action.leg, Cause.BUSY, f"lent to {self._lent[action.endpoint][0]}")
            return
        # Actions return at once: waiting for the person happens in a task.
        self._legs[action.leg] = self.host.create_task(
            self._pick_up(action.leg, port), name=action.leg
        )

    async def _pick_up(self, leg: str, port: Port) -> None:
        self.host.emit(LegRinging(leg=leg))
        await asyncio.sleep(port.answer_s)
        self.host.wire(leg, "picked up", kind=self.kind, outward=False)
        await self._talk(leg, port)

    # From us: somebody at a port calls.

    def call(self, port: str, number: str) -> str:
        """Let somebody at `port` dial `number`; the leg."""
        leg = self.host.new_leg(f"{self.name}/{port}")
        self._legs[leg] = None
        self.host.emit(
            LegOffered(
                leg=leg,
                endpoint=f"{self.name}/{port}",
                called=number,
                calling=self.config.ports[port].number,
                trace=self.host.new_trace(),
                demanded_at=self.host.now(),
            )
        )
        return leg

    async def _call_for_ever(self, name: str, port: Port) -> None:
        while True:
            if not any(leg.startswith(f"{self.name}/{name}#") for leg in self._legs):
                self.call(name, port.calls)
            await asyncio.sleep(port.every_s)

    def ring(self, action: Ring) -> None: ...

    def progress(self, action: Progress) -> None: ...

    def answer(self, action: Answer) -> None:
        if action.leg in self._legs and self._legs[action.leg] is None:
            port = self.config.ports[action.leg.partition("/")[2].rpartition("#")[0]]
            self._legs[action.leg] = self.host.create_task(
                self._talk(action.leg, port), name=action.leg
            )

    # Either way

    def hangup(self, action: Hangup) -> None:
        self._end(action.leg, action.cause)

    def send_digits(self, action: SendDigits) -> None:
        if action.leg in self._legs:
            self.host.count("digits", len(action.digits))

    async def _talk(self, leg: str, port: Port) -> None:
        near, far = _ends(echo=not port.tone_hz)
        with near, far:
            try:
                # Audio never passes through an adapter: the engine keeps a copy of the descriptor.
                self.host.open_stream(leg, DeviceSpec(fd=near.fileno(), **_FORMAT))
            except DeviceError:
                self._end(leg, Cause.RESOURCE_UNAVAILABLE)
                return
            self.host.emit(LegAnswered(leg=leg))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(port.talk_s or None):
                    await (_send_tone(far, port.tone_hz) if port.tone_hz else _for_ever())
        self._end(leg, Cause.NORMAL)

    # For legs of other adapters, which have their control there and their speech here.

    def lend(self, endpoint: str, leg: str) -> Loan:
        port = self.config.ports.get(endpoint.partition("/")[2])
        if port is None:
            raise DeviceError(f"there is no port {endpoint}")
        if endpoint in self._lent:
            raise DeviceError(f"{endpoint} is in use: lent to {self._lent[endpoint][0]}")
        if port.busy or any(other.startswith(f"{endpoint}#") for other in self._legs):
            raise DeviceError(f"{endpoint} is in use")
        near, far = _ends(echo=not port.tone_hz)
        held = contextlib.ExitStack()
        held.callback(near.close)
        held.callback(far.close)
        if port.tone_hz:
            tone = self.host.create_task(_send_tone(far, port.tone_hz), name=f"{endpoint} is lent")
            held.callback(tone.cancel)
        self._lent[endpoint] = leg, held
        return Loan(spec=DeviceSpec(fd=near.fileno(), **_FORMAT))

    def release(self, endpoint: str, leg: str) -> None:
        if endpoint in self._lent and self._lent[endpoint][0] == leg:
            self._lent.pop(endpoint)[1].close()

    def _end(self, leg: str, cause: Cause, detail: str = "") -> None:
        if leg not in self._legs:
            return  # ended before: a leg ends exactly once
        task = self._legs.pop(leg)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self.host.emit(LegEnded(leg=leg, cause=cause, detail=detail))


def _ends(*, echo: bool) -> tuple[socket.socket, socket.socket]:
    """The engine's end of the wire and the far one; to echo, one socket connected to itself."""
    if not echo:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.bind("")
    near.connect(near.getsockname())
    return near, near


async def _send_tone(far: socket.socket, tone_hz: float) -> None:
    far.setblocking(False)
    loop = asyncio.get_running_loop()
    due, n = loop.time(), 0
    while True:
        turns = (tone_hz * (n + k) / 8000 for k in range(160))
        block = struct.pack("=160h", *(round(8000 * math.sin(math.tau * turn)) for turn in turns))
        with contextlib.suppress(BlockingIOError):  # nobody reads it: lost, as on any line
            far.send(block)
        n += 160
        due += _BLOCK_S
        await asyncio.sleep(due - loop.time())


async def _for_ever() -> None:
    await asyncio.Event().wait()
