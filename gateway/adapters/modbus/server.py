"""Server: the gateway as a Modbus server on TCP or a serial line.

Who may connect and who may write is decided by address; the rest gets an exception or is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import struct
from collections.abc import Sequence
from typing import Final

from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsResponse, ReadDiscreteInputsResponse
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersResponse,
    ReadInputRegistersResponse,
)

from gateway.adapters.base import Host
from gateway.adapters.modbus.config import Server as ServerConfig
from gateway.adapters.modbus.frames import exception, find_frame, mbap, request_size, rtu
from gateway.adapters.modbus.line import SerialWire, open_port
from gateway.adapters.modbus.state import Image, State
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import AcknowledgeRequested, InputChanged

AGAIN_S: Final = 5.0
STALE_S: Final = 0.05
"""Octets of a frame on a serial line that are further apart than this are not of one frame."""
COMPLAINT_EVERY_S: Final = 60.0

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3
TARGET_DID_NOT_RESPOND: Final = 11

_HEADER: Final = struct.Struct(">HHHB")
_SERVED: Final = (1, 2, 3, 4, 5, 15)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Server:
    """Driven by `run`; `endpoint` is how it is shown."""

    def __init__(self, network: str, local: str, config: ServerConfig, host: Host) -> None:
        self.config, self.host = config, host
        self.id = f"{network}/{local}"
        self.port = 0
        """The TCP port it listens on; 0 while it does not."""
        self.tried = asyncio.Event()
        """Set once it listens, or could not."""
        self._readers = _networks(config.readers)
        self._writers = _networks(config.writers)
        self._condition, self._reason = Condition.UNKNOWN, "not started yet"
        self._clients: set[_Client] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._complained: dict[str, float] = {}
        self._image: Image
        self._decoder = DecodePDU(True)
        self._lost: asyncio.Future[str] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """As it is now."""
        return Endpoint(
            id=self.id,
            label=self.config.label,
            duplex=Duplex.NONE,
            can_ring=False,
            inputs=tuple(self.config.triggers),
            condition=self._condition,
            reason=self._reason,
        )

    async def run(self, state: State) -> None:
        """Listen until cancelled, and again when that fails: its failure is not the devices'."""
        self._image = Image(self.config, state)
        try:
            while True:
                try:
                    if self.config.serial:
                        why = await self._serve_serial()
                    else:
                        why = await self._serve_tcp()
                except (OSError, ValueError) as error:
                    number = error.errno if isinstance(error, OSError) else None
                    why = os.strerror(number) if number else str(error)
                if self._condition is not Condition.DOWN:
                    self.host.log.error("modbus server down", server=self.id, why=why)
                self._announce(Condition.DOWN, why)
                await asyncio.sleep(AGAIN_S)
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    # TCP

    async def _serve_tcp(self) -> str:
        config = self.config
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: _Client(self), config.host, config.port)
        try:
            self.port = listener.sockets[0].getsockname()[1]
            self._announce(Condition.UP, "")
            await listener.serve_forever()
            return "it stopped listening"
        finally:
            self.port = 0
            listener.close()
            for client in list(self._clients):
                client.close()

    def admit(self, client: _Client, address: str) -> bool:
        """Whether a client may stay."""
        if not _within(address, self._readers):
            self.host.count("modbus.clients_refused")
            self._complain(address, "a client outside of readers wanted to connect")
            return False
        if len(self._clients) >= self.config.max_clients:
            self.host.count("modbus.clients_overflowed")
            self._complain("", f"more than {self.config.max_clients} clients")
            return False
        self._clients.add(client)
        return True

    def leave(self, client: _Client) -> None:
        """A client is gone."""
        self._clients.discard(client)

    def may_write(self, address: str) -> bool:
        """Whether a client may write coils."""
        return _within(address, self._writers)

    # Serial

    async def _serve_serial(self) -> str:
        config = self.config.serial
        assert config is not None
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, open_port, config)
        try:
            port = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, ValueError):
                (await opening).close()
            raise
        self._lost = loop.create_future()
        listener = _SerialListener(self)
        wire = SerialWire(port, lambda data: listener.received(wire, data))
        try:
            self._announce(Condition.UP, "")
            return await self._lost
        finally:
            self._lost = None
            wire.close()

    def line_lost(self, why: str) -> None:
        """The serial port is gone."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)

    # Requests

    def answer(self, pdu: bytes, *, who: str, may_write: bool) -> bytes:
        """The PDU that answers a request, which may be an exception."""
        function = pdu[0]
        if function not in _SERVED:
            self.host.count("modbus.requests_refused")
            return exception(function, ILLEGAL_FUNCTION)
        request = self._decoder.decode(pdu)
        if request is None or not _sound(pdu):
            self.host.count("modbus.garbage")
            return exception(function, ILLEGAL_VALUE)
        self.host.count("modbus.requests")
        if function in (5, 15):
            return self._write(request, pdu, who, may_write)
        return self._read(request)

    def _read(self, request: ModbusPDU) -> bytes:
        function, address, count = request.function_code, request.address, request.count
        answer: ModbusPDU | None = None
        if function in (1, 2):
            bits = (
                self._image.read_coils(address, count)
                if function == 1
                else self._image.points(address, count)
            )
            kind = ReadCoilsResponse if function == 1 else ReadDiscreteInputsResponse
            answer = kind(bits=bits) if bits is not None else None
        else:
            words = self._image.registers(address, count, self.host.now())
            of = ReadHoldingRegistersResponse if function == 3 else ReadInputRegistersResponse
            answer = of(registers=words) if words is not None else None
        if answer is None:
            self.host.count("modbus.requests_refused")
            return exception(function, ILLEGAL_ADDRESS)
        return bytes((function,)) + answer.encode()

    def _write(self, request: ModbusPDU, pdu: bytes, who: str, may_write: bool) -> bytes:
        function, address = request.function_code, request.address
        bits: Sequence[bool] = request.bits
        if not may_write:
            self.host.count("modbus.writes_refused")
            self._complain(who, "a client outside of writers wanted to write")
            return exception(function, ILLEGAL_FUNCTION)
        if self._image.read_coils(address, len(bits)) is None:
            self.host.count("modbus.requests_refused")
            return exception(function, ILLEGAL_ADDRESS)
        for name, trigger in self.config.triggers.items():
            if address <= trigger.coil < address + len(bits):
                self._pull(name, bits[trigger.coil - address], who)
        return pdu[:5]

    def _pull(self, name: str, on: bool, who: str) -> None:
        trigger = self.config.triggers[name]
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        was, self._image.coils[trigger.coil] = self._image.coils[trigger.coil], on
        if on and trigger.pulse_ms:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(trigger.pulse_ms / 1000, self._fall, name)
        if was == on:
            self.host.count("modbus.triggers_repeated")
            return
        self.host.log.info("trigger written", server=self.id, trigger=name, on=on, by=who)
        self._tell(name, on)
        if on:
            for endpoint in trigger.acknowledges:
                self.host.emit(
                    AcknowledgeRequested(endpoint=endpoint, alarm="", by=f"{self.id} {who}")
                )

    def _fall(self, name: str) -> None:
        del self._timers[name]
        self._image.coils[self.config.triggers[name].coil] = False
        self._tell(name, False)

    def _tell(self, name: str, on: bool) -> None:
        self.host.emit(
            InputChanged(
                endpoint=self.id,
                input=name,
                value=float(on),
                trace=self.host.new_trace() if on else "",
            )
        )

    def _announce(self, condition: Condition, reason: str) -> None:
        self._condition, self._reason = condition, reason
        self.host.set_endpoint(self.endpoint)
        self.tried.set()

    def _complain(self, who: str, what: str) -> None:
        now = self.host.now()
        if now - self._complained.get(what, -COMPLAINT_EVERY_S) >= COMPLAINT_EVERY_S:
            self._complained[what] = now
            self.host.log.warning(what, server=self.id, client=who)


class _Client(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rest = b""
        self._who = ""
        self._transport: asyncio.Transport
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._who = peer[0] if peer else ""
        if not self._server.admit(self, self._who):
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= _HEADER.size and not self._transport.is_closing():
            number, protocol, length, unit = _HEADER.unpack_from(self._rest)
            if protocol or not 2 <= length <= 254:
                self._server.host.count("modbus.garbage")
                self.close()
                return
            if len(self._rest) < 6 + length:
                return
            pdu, self._rest = self._rest[7 : 6 + length], self._rest[6 + length :]
            self._transport.write(mbap(number, unit, self._answer(unit, pdu)))
            self._wait()

    def _answer(self, unit: int, pdu: bytes) -> bytes:
        server = self._server
        # 0 and 255 mean the server itself (Messaging Implementation Guide 4.4.1.2).
        if unit not in (0, 255, server.config.unit):
            server.host.count("modbus.requests_refused")
            return exception(pdu[0], TARGET_DID_NOT_RESPOND)
        return server.answer(pdu, who=self._who, may_write=server.may_write(self._who))

    def pause_writing(self) -> None:
        # A client that asks and never reads would otherwise fill our memory.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._server.leave(self)

    def close(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _wait(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._server.config.idle_s, self._bored)

    def _bored(self) -> None:
        self._server.host.count("modbus.clients_idle")
        self.close()


class _SerialListener:
    """Requests on a serial line, where answers of others and noise pass as well."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rest = b""
        self._heard = 0.0

    def received(self, wire: SerialWire, data: bytes) -> None:
        server = self._server
        if not data:
            server.line_lost(wire.gone)
            return
        now = server.host.now()
        if self._rest and now - self._heard > STALE_S:
            server.host.count("modbus.noise_octets", len(self._rest))
            self._rest = b""
        self._heard = now
        self._rest += data
        while found := find_frame(self._rest, server.config.unit, request_size):
            at, pdu = found
            if at:
                server.host.count("modbus.noise_octets", at)
            self._rest = self._rest[at + len(pdu) + 3 :]
            may_write = "serial" in server.config.writers
            wire.write(
                rtu(server.config.unit, server.answer(pdu, who="serial", may_write=may_write))
            )
            if wire.gone:
                server.line_lost(wire.gone)
        if len(self._rest) > 512:
            server.host.count("modbus.noise_octets", len(self._rest) - 256)
            self._rest = self._rest[-256:]


def _sound(pdu: bytes) -> bool:
    """What pymodbus lets pass: a length that is not the function's, a coil neither on nor off."""
    if pdu[0] == 15:
        count = int.from_bytes(pdu[3:5], "big")
        return 1 <= count <= 0x7B0 and pdu[5] == (count + 7) // 8 == len(pdu) - 6
    if len(pdu) != 5:
        return False
    if pdu[0] == 5:
        return pdu[3:] in (b"\xff\x00", b"\x00\x00")
    return int.from_bytes(pdu[1:3], "big") + int.from_bytes(pdu[3:], "big") <= 0x10000


def _networks(texts: Sequence[str]) -> list[_Network]:
    return [ipaddress.ip_network(text, strict=False) for text in texts if text != "serial"]


def _within(address: str, networks: Sequence[_Network]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)
