"""Modbus points: what bits and registers mean, and when a change of them is one.

Sans-IO: the time is passed in. Register contents follow the Modbus Application Protocol
Specification V1.1b3 section 4 (16-bit words, the most significant octet first); how numbers wider
than a word are laid out is each maker's own choice.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

Table = Literal["coil", "discrete", "holding", "input"]
NumberType = Literal["int16", "uint16", "int32", "uint32", "float32", "float64"]
Order = Literal["big", "little"]
State = Literal["normal", "alarm", "short", "open", "fault"]
"""Of a supervised loop; ``fault`` is a reading that no band holds."""

WORDS: Final[dict[str, int]] = {
    "int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "float64": 4
}  # fmt: skip
BIT_TABLES: Final = ("coil", "discrete")
MAXIMUM_BITS: Final = 2000
MAXIMUM_REGISTERS: Final = 125
_FORMAT: Final = {
    "int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f", "float64": ">d"
}  # fmt: skip

T = TypeVar("T")


def decode(
    words: Sequence[int], kind: str, *, word_order: str = "big", byte_order: str = "big"
) -> float:
    """The number in `WORDS[kind]` registers; a float may be infinite or not a number.

    Raises `ValueError` when the count of words is another or one is not 0 to 65535.
    """
    if len(words) != WORDS[kind]:
        raise ValueError(f"{kind} takes {WORDS[kind]} registers, not {len(words)}")
    ordered = reversed(words) if word_order == "little" else words
    octets = b""
    for word in ordered:
        if not 0 <= word <= 0xFFFF:
            raise ValueError(f"{word} is no 16-bit word")
        octets += word.to_bytes(2, "little" if byte_order == "little" else "big")
    return float(struct.unpack(_FORMAT[kind], octets)[0])


def encode(
    value: float, kind: str, *, word_order: str = "big", byte_order: str = "big"
) -> list[int]:
    """The registers that hold a number; integers are rounded.

    Raises `ValueError` when it does not fit.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number to write")
    try:
        octets = struct.pack(_FORMAT[kind], value if kind.startswith("float") else round(value))
    except (struct.error, OverflowError):
        raise ValueError(f"{value:g} does not fit into {kind}") from None
    words = [
        int.from_bytes(octets[at : at + 2], "little" if byte_order == "little" else "big")
        for at in range(0, len(octets), 2)
    ]
    return words[::-1] if word_order == "little" else words


class Debounce(Generic[T]):
    """A value that counts once it was seen, and only it, for `hold_s`.

    Driven by `sample`. `value` is None until the first one has held.
    """

    def __init__(self, hold_s: float = 0.0) -> None:
        self.value: T | None = None
        self.since = 0.0
        """When the present value was first seen."""
        self._hold_s = hold_s
        self._candidate: T | None = None
        self._began = 0.0

    def sample(self, value: T, now: float) -> bool:
        """Take a reading; whether `value` is another one now."""
        if value == self.value:
            self._candidate = None
            return False
        if value != self._candidate:
            self._candidate, self._began = value, now
        # The sum of two times is exact only up to rounding: a sample on the dot counts.
        if now - self._began < self._hold_s - 1e-6:
            return False
        self.value, self.since, self._candidate = value, self._began, None
        return True

    def forget(self) -> None:
        """The source was lost: the next reading is the first."""
        self.value = self._candidate = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of a measured value, in its unit."""

    hi: float | None = None
    hihi: float | None = None
    lo: float | None = None
    lolo: float | None = None
    hysteresis: float = 0.0
    """How far back inside a value must be before the alarm is over."""
    delay_s: float = 0.0
    """How long it must be outside, or back inside."""


class Level:
    """A measured value against its limits. Driven by `sample`; `active` are the limits passed."""

    def __init__(self, limits: Limits, deadband: float = 0.0) -> None:
        self.active: set[str] = set()
        self.told: float | None = None
        """The value last said to have changed."""
        self._limits, self._deadband = limits, deadband
        self._states: dict[str, Debounce[bool]] = {
            name: Debounce(limits.delay_s)
            for name in ("lolo", "lo", "hi", "hihi")
            if getattr(limits, name) is not None
        }

    def sample(self, value: float, now: float) -> tuple[bool, list[tuple[str, bool]]]:
        """Whether the value moved by more than the dead band, and which limits it passed
        (True) or came back from (False)."""
        moved = self.told is None or abs(value - self.told) > self._deadband
        crossed = []
        for name, state in self._states.items():
            if not state.sample(self._outside(name, value), now):
                continue
            if state.value and name not in self.active:
                self.active.add(name)
                crossed.append((name, True))
            elif not state.value and name in self.active:
                self.active.discard(name)
                crossed.append((name, False))
        if moved or crossed:
            self.told = value
        return moved or bool(crossed), crossed

    @property
    def inside(self) -> list[str]:
        """The limits that the value is known to keep."""
        return [name for name, state in self._states.items() if state.value is False]

    def forget(self) -> None:
        """The source was lost: the next reading is told; what is active stays so until then."""
        self.told = None
        for state in self._states.values():
            state.forget()

    def _outside(self, name: str, value: float) -> bool:
        limit: float = getattr(self._limits, name)
        back = self._limits.hysteresis if name in self.active else 0.0
        return value >= limit - back if name.startswith("hi") else value <= limit + back


class Bands(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the readings of a loop with end-of-line resistor mean: each from, below."""

    normal: tuple[float, float]
    alarm: tuple[float, float]
    short: tuple[float, float] | None = None
    open: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        taken: list[tuple[float, float, str]] = []
        for name in ("normal", "alarm", "short", "open"):
            band = getattr(self, name)
            if band is None:
                continue
            low, high = band
            if not low < high:
                raise ValueError(f"{name} = [{low:g}, {high:g}] is empty")
            for other_low, other_high, other in taken:
                if low < other_high and other_low < high:
                    raise ValueError(f"the bands {name} and {other} overlap")
            taken.append((low, high, name))

    def state(self, value: float) -> State:
        """Which band a reading is in."""
        names: tuple[Literal["normal", "alarm", "short", "open"], ...]
        names = ("normal", "alarm", "short", "open")
        for name in names:
            band = getattr(self, name)
            if band is not None and band[0] <= value < band[1]:
                return name
        return "fault"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What one point wants read."""

    name: str
    table: Table
    address: int
    count: int = 1
    poll_s: float = 0.1


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One request that serves several points."""

    table: Table
    address: int
    count: int
    poll_s: float
    spans: tuple[Span, ...]


def batches(spans: Iterable[Span], *, gap: int = 0, maximum: int = MAXIMUM_BITS) -> list[Batch]:
    """Gather spans of the same table and period into as few requests as they fit.

    gap: how many addresses that nobody wants may be read along; a device may refuse those.
    maximum: addresses a request; never more than the protocol allows.
    """
    found: list[Batch] = []
    ordered = sorted(spans, key=lambda s: (s.table, s.poll_s, s.address, s.count, s.name))
    for span in ordered:
        limit = min(maximum, MAXIMUM_BITS if span.table in BIT_TABLES else MAXIMUM_REGISTERS)
        if found:
            last = found[-1]
            end = max(last.address + last.count, span.address + span.count)
            if (
                (last.table, last.poll_s) == (span.table, span.poll_s)
                and span.address <= last.address + last.count + gap
                and end - last.address <= limit
            ):
                found[-1] = msgspec.structs.replace(
                    last, count=end - last.address, spans=(*last.spans, span)
                )
                continue
        found.append(
            Batch(
                table=span.table,
                address=span.address,
                count=span.count,
                poll_s=span.poll_s,
                spans=(span,),
            )
        )
    return found


class Liveness:
    """Whether a device answers. Driven by `answered` and `missed`."""

    def __init__(self, limit: int) -> None:
        self.alive: bool | None = None
        """None: not heard from yet."""
        self.n_missed = 0
        self._limit = limit

    def answered(self) -> bool:
        """An answer came; whether it was not alive before."""
        self.n_missed = 0
        came, self.alive = self.alive is not True, True
        return came

    def missed(self) -> bool:
        """An answer did not come; whether that was the one too many."""
        self.n_missed += 1
        if self.n_missed < self._limit or self.alive is False:
            return False
        self.alive = False
        return True
