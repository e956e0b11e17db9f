"""The section ``[adapters.<name>]`` of a Modbus adapter."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from gateway.core.events import Severity
from gateway.protocols.modbus_points import (
    BIT_TABLES,
    WORDS,
    Bands,
    Limits,
    NumberType,
    Order,
    Span,
    Table,
)

_Address = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Unit = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Poll = Annotated[float, msgspec.Meta(ge=0.01, le=3600)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=3_600_000)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
SeverityName = Literal["indeterminate", "warning", "minor", "major", "critical"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def severity(name: str) -> Severity:
    """The core's severity of this name."""
    return Severity[name.upper()]


class Serial(_Section, frozen=True, kw_only=True):
    """A serial port that carries Modbus RTU."""

    device: str
    """``/dev/serial/by-id/...``: stays the same when ports are renumbered."""
    baudrate: Annotated[int, msgspec.Meta(ge=300, le=4_000_000)] = 9600
    parity: Literal["N", "E", "O"] = "N"
    stop_bits: Literal[1, 2] = 1
    rs485: bool = False
    """Have the kernel driver switch the transmitter by RTS; USB adapters do that by themselves."""
    echo: bool = False
    """The line hears itself: take our own request off before the answer."""


class Line(Serial, frozen=True, kw_only=True):
    """``lines.<name>``: a serial port that several devices share."""


class Alarm(_Section, frozen=True, kw_only=True):
    """What a contact means when it is on."""

    kind: str = "contact"
    severity: SeverityName = "major"
    text: str = ""


class Contact(_Section, frozen=True, kw_only=True):
    """``contacts.<name>``: one bit in."""

    table: Table = "discrete"
    address: _Address
    bit: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """Of a register, 0 is the least significant."""
    normally_closed: bool = False
    """On is 0: the loop is broken."""
    debounce_ms: _Milliseconds = 100
    poll_s: _Poll | None = None
    alarm: Alarm | None = None
    """Absent: only `InputChanged`."""
    acknowledges: tuple[str, ...] = ()
    """Endpoints whose alarms this contact acknowledges when it comes on: a key, a button."""

    def span(self, name: str, poll_s: float) -> Span:
        """What must be read for it."""
        return Span(name=name, table=self.table, address=self.address, poll_s=self.poll_s or poll_s)


class _Number(_Section, frozen=True, kw_only=True):
    table: Literal["holding", "input"] = "holding"
    address: _Address
    type: NumberType = "uint16"
    word_order: Order = "big"
    """Which word of a wider number comes first: the high one (big) or the low one."""
    byte_order: Order = "big"
    scale: float = 1.0
    """Value = register content times scale plus offset."""
    offset: float = 0.0
    poll_s: _Poll | None = None

    @property
    def n_words(self) -> int:
        """Registers it takes."""
        return WORDS[self.type]

    def span(self, name: str, poll_s: float) -> Span:
        """What must be read for it."""
        return Span(
            name=name,
            table=self.table,
            address=self.address,
            count=self.n_words,
            poll_s=self.poll_s or poll_s,
        )


class Register(_Number, frozen=True, kw_only=True):
    """``registers.<name>``: a measured value."""

    unit: str = ""
    deadband: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """A change up to this much is not told."""
    invalid: tuple[int, ...] = ()
    """Register contents by which the device says that it has no value."""
    hi: float | None = None
    hihi: float | None = None
    lo: float | None = None
    lolo: float | None = None
    hysteresis: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    kind: str = "threshold"
    severity: SeverityName = "minor"
    """Of hi and lo."""
    severity_outer: SeverityName = "major"
    """Of hihi and lolo."""

    def __post_init__(self) -> None:
        if not self.scale:
            raise ValueError("scale = 0 makes every value the same")
        limits = [v for v in (self.lolo, self.lo, self.hi, self.hihi) if v is not None]
        if limits != sorted(limits):
            raise ValueError("thresholds must rise: lolo, lo, hi, hihi")

    @property
    def limits(self) -> Limits:
        """The thresholds."""
        return Limits(
            hi=self.hi, hihi=self.hihi, lo=self.lo, lolo=self.lolo,
            hysteresis=self.hysteresis, delay_s=self.delay_s,
        )  # fmt: skip


class Supervised(_Number, frozen=True, kw_only=True):
    """``supervised.<name>``: a loop with end-of-line resistor on an analog input."""

    bands: Bands
    debounce_ms: _Milliseconds = 200
    alarm: Alarm = Alarm()
    fault_severity: SeverityName = "major"
    """Of a short, an open loop, or a reading that no band holds."""


class NativePulse(_Section, frozen=True, kw_only=True):
    """How the device itself makes a pulse of a relay: it then ends even when we are gone."""

    address: _Address
    """Coil that is written to begin it."""
    step_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0
    """The length is written into the coil in these steps (Waveshare: 100)."""
    length_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 0
    """The coil starts a pulse whose length is set in the device (Moxa): this long."""

    def __post_init__(self) -> None:
        if bool(self.step_ms) == bool(self.length_ms):
            raise ValueError("give step_ms or length_ms")

    def word(self, pulse_ms: int) -> int | None:
        """What to write for this length; None when the device cannot do it."""
        if self.length_ms:
            return 0xFF00 if pulse_ms == self.length_ms else None
        steps = round(pulse_ms / self.step_ms)
        exact = abs(steps * self.step_ms - pulse_ms) * 20 <= pulse_ms
        return steps if exact and 0 < steps <= 0x7FFF else None


class Relay(_Section, frozen=True, kw_only=True):
    """``relays.<name>``: a coil or register out."""

    table: Literal["coil", "holding"] = "coil"
    address: _Address
    type: NumberType = "uint16"
    word_order: Order = "big"
    byte_order: Order = "big"
    scale: float = 1.0
    """Register content = (value minus offset) divided by scale."""
    offset: float = 0.0
    safe: float = 0.0
    """Value while nobody commands it: at the start, at the end, after a loss."""
    keep: bool = False
    """Leave it as it is when the gateway starts, stops, or lost the device."""
    verify: bool = True
    """Read back what was written, and once a second whether it is still so."""
    pulse: NativePulse | None = None
    deadline_s: _Seconds = 5.0
    """How long a command is tried; then it is reported as failed."""

    def __post_init__(self) -> None:
        if not self.scale:
            raise ValueError("scale = 0 writes the same whatever the value")
        if self.pulse and self.table != "coil":
            raise ValueError("a native pulse needs a coil")

    def span(self, name: str, poll_s: float) -> Span:
        """What must be read to know its position."""
        count = 1 if self.table in BIT_TABLES else WORDS[self.type]
        return Span(name=name, table=self.table, address=self.address, count=count, poll_s=poll_s)


class Device(_Section, frozen=True, kw_only=True):
    """``devices.<name>``: one Modbus server (slave) out there; an endpoint."""

    label: str = ""
    location: str = ""
    host: str = ""
    """Modbus TCP; or `line`."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 502
    framing: Literal["tcp", "rtu"] = "tcp"
    """``rtu``: serial frames over TCP, as a plain serial-to-Ethernet converter has them."""
    line: str = ""
    """Name of a serial line of `lines`."""
    unit: _Unit = 1
    poll_s: _Poll = 0.1
    timeout_s: Annotated[float, msgspec.Meta(ge=0.02, le=60)] = 0.5
    missed: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Polls in succession without an answer until everything is stale."""
    retry_s: _Seconds = 2.0
    """How often a lost device is tried."""
    gap: Annotated[int, msgspec.Meta(ge=0, le=125)] = 0
    """Addresses nobody wants that may be read along to save a request."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 2000
    """Most addresses that a request may ask for."""
    fault_severity: SeverityName | Literal["none"] = "major"
    """Of the alarms ``io-fault`` (device lost) and ``<relay>-output`` (not switched)."""
    ack_relay: str = ""
    """Relay to pulse when an alarm of this device is acknowledged."""
    ack_pulse_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 500
    contacts: dict[str, Contact] = {}
    registers: dict[str, Register] = {}
    supervised: dict[str, Supervised] = {}
    relays: dict[str, Relay] = {}

    def __post_init__(self) -> None:
        if bool(self.host) == bool(self.line):
            raise ValueError("give host (Modbus TCP) or line (serial), one of them")
        if self.line and not 1 <= self.unit <= 247:
            raise ValueError(f"unit = {self.unit}: on a serial line it is 1 to 247")
        taken: set[str] = set()
        for name in self.names():
            _check_name(name)
            if name in taken:
                raise ValueError(f"{name!r} names two points")
            taken.add(name)
        if not taken:
            raise ValueError("it has no contacts, registers, supervised loops or relays")
        if self.ack_relay and self.ack_relay not in self.relays:
            raise ValueError(f"ack_relay: there is no relay {self.ack_relay!r}")

    def names(self) -> Iterator[str]:
        """The names of all points."""
        for points in (self.contacts, self.registers, self.supervised, self.relays):
            table: Mapping[str, object] = points
            yield from table


class Point(_Section, frozen=True, kw_only=True):
    """``points.<name>``: one discrete input that shows alarms, or one input, to others."""

    address: Annotated[int, msgspec.Meta(ge=0, le=255)]
    endpoint: str
    """Pattern: ``modbus/*``."""
    alarm: str = ""
    """Pattern of alarms; with neither `alarm` nor `input`: every alarm."""
    input: str = ""
    """Pattern of inputs: the point is 1 while one is not 0, or is not known."""


class Trigger(_Section, frozen=True, kw_only=True):
    """``triggers.<name>``: one coil that others write; an input of the gateway."""

    coil: _Address
    pulse_ms: _Milliseconds = 500
    """It goes back to 0 by itself after this time; 0: it stays as written."""
    acknowledges: tuple[str, ...] = ()
    """Endpoints whose alarms it acknowledges when it comes on."""


class Server(_Section, frozen=True, kw_only=True):
    """``servers.<name>``: the gateway itself as a Modbus server; an endpoint."""

    label: str = ""
    host: str = ""
    """Address to listen on; or `serial`."""
    port: _Port = 502
    serial: Serial | None = None
    unit: Annotated[int, msgspec.Meta(ge=1, le=247)] = 1
    readers: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks whose clients may connect."""
    writers: tuple[str, ...] = ()
    """Networks whose clients may write coils as well; ``serial`` lets the serial line."""
    max_clients: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    idle_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    """Close a connection that asked nothing for so long."""
    endpoints: Annotated[tuple[str, ...], msgspec.Meta(max_length=2000)] = ()
    """Endpoints shown from register 100 on, four registers each, in this order."""
    points: dict[str, Point] = {}
    triggers: dict[str, Trigger] = {}

    def __post_init__(self) -> None:
        if bool(self.host) == bool(self.serial):
            raise ValueError("give host (listen on TCP) or serial, one of them")
        for text in (*self.readers, *self.writers):
            if text != "serial":
                ipaddress.ip_network(text, strict=False)
        for name in (*self.points, *self.triggers):
            _check_name(name)
        for what, numbers in (
            ("point", [p.address for p in self.points.values()]),
            ("coil", [t.coil for t in self.triggers.values()]),
        ):
            for number in numbers:
                if numbers.count(number) > 1:
                    raise ValueError(f"{what} {number} is given twice")


class Config(_Section, frozen=True, kw_only=True):
    """Devices the gateway reads and switches, and what it shows of itself."""

    lines: dict[str, Line] = {}
    devices: dict[str, Device] = {}
    servers: dict[str, Server] = {}

    def __post_init__(self) -> None:
        for name in (*self.devices, *self.servers):
            _check_name(name)
        twice = self.devices.keys() & self.servers.keys()
        if twice:
            raise ValueError(f"{sorted(twice)[0]!r} is both a device and a server")
        for name, device in self.devices.items():
            if device.line and device.line not in self.lines:
                raise ValueError(f"devices.{name}: there is no line {device.line!r}")
            if device.line and device.framing == "rtu":
                raise ValueError(f"devices.{name}: framing is for TCP; a line is always rtu")
        ports = [line.device for line in self.lines.values()]
        ports += [s.serial.device for s in self.servers.values() if s.serial]
        for port in ports:
            if ports.count(port) > 1:
                raise ValueError(f"serial port {port} is used twice")


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise ValueError(f"{name!r}: use letters, digits, '_' and '-'")
