"""The DAHDI user/kernel interface: ioctl numbers, layouts, codes.

Numbers and layouts are those of DAHDI-Linux 2.11 and 3.x ``include/dahdi/user.h`` (type byte 0xDA,
native integers, little-endian 64-bit Linux), declared anew.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

MAX_CADENCE: Final = 16
MAX_DIAL: Final = 255

# errno by which read and write say "an event waits for GETEVENT"
EVENT_PENDING: Final = 500


class Io(enum.IntEnum):
    """ioctl numbers: direction, size, 0xDA, number."""

    GET_BLOCKSIZE = 0x8004DA01
    SET_BLOCKSIZE = 0x4004DA01
    FLUSH = 0x4004DA03
    GET_PARAMS = 0xC088DA05
    SET_PARAMS = 0x4088DA05
    HOOK = 0x4004DA07
    GETEVENT = 0x8004DA08
    SPANSTAT = 0xC13ADA0A
    SENDTONE = 0x4004DA15
    GETTONEZONE = 0x8004DA16
    SETTONEZONE = 0x4004DA16
    GET_BUFINFO = 0x8018DA1B
    SET_BUFINFO = 0x4018DA1B
    DIAL = 0x4104DA1F
    AUDIOMODE = 0x4004DA20
    ECHOCANCEL = 0x4004DA21
    CHANNO = 0x8004DA22
    DIALING = 0x8004DA23
    SPECIFY = 0x4004DA26
    SETLAW = 0x4004DA27
    SETLINEAR = 0x4004DA28
    SETCADENCE = 0x4040DA2A
    ECHOTRAIN = 0x4004DA32
    ONHOOKTRANSFER = 0x4004DA33
    GETVERSION = 0x80A0DA39
    WCTDM_GET_STATS = 0x800CDA3C
    SET_HWGAIN = 0x4008DA56
    SETPOLARITY = 0x4004DA5C
    VMWI = 0xC004DA5E
    VMWI_CONFIG = 0x4004DA5F
    BUFFER_EVENTS = 0x4004DA69


class Signalling(enum.IntEnum):
    """How a port signals. The name is the opposite of the port's: an FXS port is FXO signalled."""

    NONE = 0
    FXS_LS = 0x2001
    FXS_GS = 0x2002
    FXS_KS = 0x2004
    FXO_LS = 0x1008
    FXO_GS = 0x1010
    FXO_KS = 0x1020
    EM = 0x40
    CLEAR = 0x80


FXO_SIGNALLED: Final = 0x1000
FXS_SIGNALLED: Final = 0x2000


class PortKind(enum.Enum):
    """What plugs in: a telephone into FXS, an exchange line into FXO."""

    FXS = "fxs"
    FXO = "fxo"
    OTHER = "other"


class Hook(enum.IntEnum):
    """What ``Channel.hook`` can do."""

    ON_HOOK = 0
    OFF_HOOK = 1
    WINK = 2
    FLASH = 3
    START = 4
    RING = 5
    RING_OFF = 6


class Law(enum.IntEnum):
    """Companding of ``read`` and ``write``; DEFAULT is what the card was configured with."""

    DEFAULT = 0
    MU = 1
    A = 2


class Flush(enum.IntFlag):
    """Queues that ``Channel.flush`` empties."""

    READ = 1
    WRITE = 2
    EVENT = 4
    ALL = 7


class Tone(enum.IntEnum):
    """Tones of the loaded zone."""

    STOP = -1
    DIAL = 0
    BUSY = 1
    RINGBACK = 2
    CONGESTION = 3
    CALL_WAITING = 4
    DIAL_RECALL = 5
    RECORD = 6
    INFO = 7
    STUTTER = 10


class Alarm(enum.IntFlag):
    """Alarm bits of a span or a channel."""

    RECOVER = 1
    LOOPBACK = 2
    YELLOW = 4
    RED = 8
    BLUE = 16
    NOT_OPEN = 32
    LOSS_OF_SIGNAL = 256


class EventKind(enum.IntEnum):
    """Codes of GETEVENT. ON_HOOK of an FXO port says that battery was dropped; RING_OFF_HOOK of
    an FXS port says lifted, of an FXO port that a burst of ringing has ended."""

    ON_HOOK = 1
    RING_OFF_HOOK = 2
    WINK_FLASH = 3
    ALARM = 4
    NO_ALARM = 5
    ABORT = 6
    OVERRUN = 7
    BAD_FCS = 8
    DIAL_COMPLETE = 9
    RINGER_ON = 10
    RINGER_OFF = 11
    HOOK_COMPLETE = 12
    BITS_CHANGED = 13
    PULSE_START = 14
    TIMER_EXPIRED = 15
    TIMER_PING = 16
    POLARITY = 17
    RING_BEGIN = 18
    ECHO_CANCELLER_DISABLED = 19
    REMOVED = 20
    NEON_MWI_ON = 21
    NEON_MWI_OFF = 22
    TX_CED = 23
    RX_CED = 24
    TX_CNG = 25
    RX_CNG = 26
    NLP_OFF = 27
    NLP_ON = 28
    READ_OVERRUN = 29
    WRITE_UNDERRUN = 30
    PULSE_DIGIT = 1 << 16
    DTMF_DOWN = 1 << 17
    DTMF_UP = 1 << 18


_DIGIT_EVENTS: Final = EventKind.PULSE_DIGIT | EventKind.DTMF_DOWN | EventKind.DTMF_UP
_KNOWN_EVENTS: Final = frozenset(int(kind) for kind in EventKind)


@dataclass(frozen=True, slots=True)
class LineEvent:
    """One event of a port."""

    kind: EventKind | None
    """None for a code this driver does not know."""
    code: int
    """The code as the kernel gave it."""
    digit: str | None = None
    """The digit of a pulse or DTMF event."""

    @classmethod
    def of(cls, code: int) -> LineEvent:
        """Decode one GETEVENT code."""
        flag = code & _DIGIT_EVENTS
        if flag:
            digit = chr(code & 0x7F)
            known = flag in _KNOWN_EVENTS and digit.isprintable()
            return cls(EventKind(flag) if known else None, code, digit if known else None)
        return cls(EventKind(code) if code in _KNOWN_EVENTS else None, code)


PARAMS: Final = struct.Struct("=12i40s11iI")


@dataclass(frozen=True, slots=True)
class Params:
    """State and timing of a port (``struct dahdi_params``); times in milliseconds."""

    number: int
    span: int
    position: int
    signalling: int
    """0: not configured. Compare with ``Signalling``."""
    capabilities: int
    rx_off_hook: bool
    """FXS port: the handset is up. FXO port: battery is present."""
    rx_hook: int
    """0 on hook, 1 off hook, 2 start, 3 ring, 4 not known yet."""
    tx_hook: int
    """0 on hook, 1 off hook, 2 start or ringing, 3 battery dropped."""
    law: int
    name: str
    prewink_ms: int
    preflash_ms: int
    wink_ms: int
    flash_ms: int
    start_ms: int
    rx_wink_ms: int
    rx_flash_ms: int
    """An FXS port's open loop is a hang-up after this long."""
    debounce_ms: int
    pulse_break_ms: int
    pulse_make_ms: int
    pulse_after_ms: int
    alarms: int

    @property
    def kind(self) -> PortKind:
        """What plugs into this port, by how it signals or, unconfigured, by what it can."""
        return _kind(self.signalling or self.capabilities)

    @property
    def ringing_in(self) -> bool:
        """An FXO port: the exchange is ringing now."""
        return self.rx_hook == 3


def _kind(signalling: int) -> PortKind:
    if signalling & FXO_SIGNALLED:
        return PortKind.FXS
    if signalling & FXS_SIGNALLED:
        return PortKind.FXO
    return PortKind.OTHER


def read_params(raw: bytes) -> Params:
    v = PARAMS.unpack(raw)
    return Params(
        number=v[0],
        span=v[1],
        position=v[2],
        signalling=v[3],
        capabilities=v[4],
        rx_off_hook=bool(v[5]),
        rx_hook=v[9],
        tx_hook=v[8],
        law=v[10],
        name=c_text(v[12]),
        prewink_ms=v[13],
        preflash_ms=v[14],
        wink_ms=v[15],
        flash_ms=v[16],
        start_ms=v[17],
        rx_wink_ms=v[18],
        rx_flash_ms=v[19],
        debounce_ms=v[20],
        pulse_break_ms=v[21],
        pulse_make_ms=v[22],
        pulse_after_ms=v[23],
        alarms=v[24],
    )


@dataclass(frozen=True, slots=True)
class Buffers:
    """Depth of a port's queues (``struct dahdi_bufferinfo``): latency is ``count * block``."""

    count: int
    block: int
    """Samples in one buffer: what one read gives and one write takes."""
    tx_policy: int = 0
    """0 play at once, 1 when all buffers are full, 2 when half are."""
    rx_policy: int = 0


@dataclass(frozen=True, slots=True)
class Voltages:
    """Measured line voltages in volts; for a line test."""

    tip: float
    ring: float
    battery: float


@dataclass(frozen=True, slots=True)
class Span:
    """A card or one of its modules (``struct dahdi_spaninfo``)."""

    number: int
    name: str
    description: str
    kind: str
    alarms: Alarm
    channels: int
    irq_misses: int


# Where each timing lies in struct dahdi_params.
TIMINGS: Final = {
    "prewink_ms": 88,
    "preflash_ms": 92,
    "wink_ms": 96,
    "flash_ms": 100,
    "start_ms": 104,
    "rx_wink_ms": 108,
    "rx_flash_ms": 112,
    "debounce_ms": 116,
    "pulse_break_ms": 120,
    "pulse_make_ms": 124,
    "pulse_after_ms": 128,
}


# spanno, name, desc; alarms, levels, counters; more counters; irq misses, sync, channels
# configured and in all, spans, lbo, line config; four strings; irq, compatibility; type. Packed.
SPAN: Final = struct.Struct("=i20s40s7i5I7i40s40s40s40s2i6s")


def c_text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("ascii", "replace")
