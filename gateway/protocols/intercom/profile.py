"""Profile: one bus, described by a TOML file.

The keys are explained in ``docs/adapters/intercom.md``; a profile is read with `parse`.
"""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import ConfigError
from gateway.protocols.intercom import checksums

_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=60_000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]

PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::(\d+))?\}")
"""``{station:2}`` in a template: a value, and as how many hexadecimal digits it is written."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Means(StrEnum):
    """What a frame can mean to an adapter."""

    ALIVE = "alive"
    """Nothing but that the station is there."""
    CALL = "call"
    RINGING = "ringing"
    ANSWER = "answer"
    END = "end"
    FLOOR = "floor"
    """`value` 1: somebody at the station begins to speak, 0: stopped."""
    AUDIO = "audio"
    """`audio` names the field with the samples."""
    DIGIT = "digit"
    INPUT = "input"
    ALARM = "alarm"
    ALARM_CLEARED = "alarm_cleared"
    MESSAGE = "message"


class Line(_Part, frozen=True, kw_only=True):
    """How the serial port is set; the configuration of the adapter may say otherwise."""

    baud: Annotated[int, msgspec.Meta(ge=50, le=4_000_000)] = 9600
    data_bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["N", "E", "O"] = "N"
    stop_bits: Literal[1, 2] = 1
    turnaround_ms: _Milliseconds = 0.0
    """Silence on the line before we send."""
    echo: bool = False
    """The line returns our own octets; what differs is a collision."""
    backoff_ms: _Milliseconds = 20.0
    """Unit of the random wait after a collision; doubled up to 16 times of it."""


class Framing(_Part, frozen=True, kw_only=True):
    """Where a frame begins and ends. Octets are written in hexadecimal."""

    start: str = ""
    end: str = ""
    size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    """Octets in every frame; 0: not fixed."""
    length_at: int | None = None
    """Where the length field is, counted from the first octet of `start`."""
    length_size: Literal[1, 2] = 1
    length_add: int = 0
    """Octets of the frame that the length field does not count."""
    gap_ms: _Milliseconds = 0.0
    """Silence that ends a frame, when nothing else does."""
    stale_ms: _Milliseconds = 250.0
    """Silence after which half a frame is given up."""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    encoding: Literal["octets", "text", "hex"] = "octets"
    """``text``: lines that rules match with patterns; ``hex``: octets as pairs of digits."""
    quoted: bool = False
    """With ``hex``: a text in quotes stands for its octets."""
    plain: str = ""
    """With ``hex``: frames that begin with this are text, without a checksum."""

    @property
    def start_octets(self) -> bytes:
        """`start` as octets."""
        return bytes.fromhex(self.start)

    @property
    def end_octets(self) -> bytes:
        """`end` as octets."""
        return bytes.fromhex(self.end)

    def __post_init__(self) -> None:
        for name, text in (("start", self.start), ("end", self.end)):
            try:
                bytes.fromhex(text)
            except ValueError:
                raise ValueError(f"{name} = {text!r} is not hexadecimal, such as '0D 0A'") from None
        ways = (bool(self.size), self.length_at is not None, bool(self.gap_ms))
        if sum(ways) > 1 or not (any(ways) or self.end):
            raise ValueError("give one of size, length_at, end and gap_ms (end also checks others)")
        if self.size > self.maximum:
            raise ValueError(f"size {self.size} is more than maximum {self.maximum}")


class Checksum(_Part, frozen=True, kw_only=True):
    """What is summed and where the sum stands: before `end`, unless it is text."""

    kind: str = "none"
    begin: int = 0
    """First octet that is summed."""
    initial: int | None = None
    order: Literal["big", "little"] = "big"
    separator: str = ""
    """With the encoding ``hex``: what stands between the octets and the sum."""

    def __post_init__(self) -> None:
        if self.kind not in checksums.KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(checksums.KINDS)}")

    @property
    def size(self) -> int:
        """Octets of the sum."""
        return checksums.KINDS[self.kind][0]

    def of(self, data: bytes) -> int:
        """The sum of a frame's octets up to the checksum."""
        _, usual, compute = checksums.KINDS[self.kind]
        return compute(data[self.begin :], usual if self.initial is None else self.initial)


class Field(_Part, frozen=True, kw_only=True):
    """A value in a frame of octets; counted from `start`, or from the end when negative."""

    at: int
    size: Annotated[int, msgspec.Meta(ge=0, le=255)] = 1
    """0: up to the checksum."""
    kind: Literal["uint", "hex", "bcd", "ascii", "octets"] = "uint"
    """``hex`` and ``bcd`` give text; ``bcd`` stops at the first digit above 9."""
    order: Literal["big", "little"] = "big"
    mask: int = -1
    shift: int = 0


class Rule(_Part, frozen=True, kw_only=True):
    """What a frame means. All that match count; texts may hold ``{field}``."""

    name: str
    means: Means | None = None
    """None: a frame of the bus itself, such as an acknowledgement."""
    when: dict[str, int | str | tuple[int | str, ...]] = {}
    """Values that fields must have."""
    unless: dict[str, int | str] = {}
    """Values that they must not have."""
    pattern: str = ""
    """For text: a regular expression for the whole frame; its groups are fields."""
    station: str = ""
    """Empty: the profile's `station`."""
    called: str = ""
    calling: str = ""
    input: str = ""
    value: str = ""
    digit: str = ""
    alarm: str = ""
    text: str = ""
    audio: str = ""
    once: str = ""
    """A frame with the same text here within 2 s is a repetition and means nothing again."""
    answers: str = ""
    """Completes only a command whose sequence reads like this."""
    reply: str = ""
    """The command with which such a frame is acknowledged."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"rule {self.name}: pattern: {error}") from None


class Command(_Part, frozen=True, kw_only=True):
    """A frame that we send: `send` without start, length, checksum and end."""

    send: str
    """Hexadecimal with ``{station:2}`` and the like; with the encoding ``text`` the text."""
    plain: bool = False
    """With the encoding ``hex``: `send` is text and gets no checksum."""
    done: tuple[str, ...] = ()
    """Rules that complete it; empty: nothing is waited for."""
    refused: tuple[str, ...] = ()
    reply_ms: _Milliseconds = 100.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    quiet: bool = False
    """No reply is a matter of liveness alone: a poll, audio."""


class Output(_Part, frozen=True, kw_only=True):
    """A relay of a station: the commands that switch it."""

    on: str
    off: str = ""
    """Empty: it returns by itself."""
    value: dict[str, str | int] = {}
    """Values for the commands' templates."""
    pulse_ms: int = 0
    """Default length; 0: it stays."""


class Poll(_Part, frozen=True, kw_only=True):
    """A command sent again and again."""

    command: str
    every_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)]
    each: bool = True
    """To every station; otherwise once, as a sign of life of ours that any frame replaces."""


class Step(_Part, frozen=True, kw_only=True):
    """A step of what must be said when the line has been opened. Raw octets."""

    send: str = ""
    expect: str = ""
    within_s: _Seconds = 2.0


class Audio(_Part, frozen=True, kw_only=True):
    """Speech on the bus itself."""

    codec: Literal["PCMU", "PCMA"] = "PCMU"
    send: str
    """Command with a block of 20 ms, 160 octets, as ``{audio}``."""
    listen: str = ""
    """Command of 20 ms without one: it asks for the station's."""
    page: str = ""
    """Command for zones, which nobody answers; empty: zones cannot be paged."""
    full_baud: int = 0
    """Least line rate for a full duplex station; 0: the bus carries none."""


class Profile(_Part, frozen=True, kw_only=True):
    """A bus."""

    title: str
    source: str = ""
    station: str = "{station}"
    """Template of a frame's station, compared with the addresses of the configuration."""
    address: str = r".+"
    """Regular expression of a station's legal address."""
    zone_address: str = r".+"
    """The same of a zone's."""
    login: Literal["", "openwebnet"] = ""
    line: Line = Line()
    framing: Framing
    checksum: Checksum = Checksum()
    fields: dict[str, Field] = {}
    rules: tuple[Rule, ...] = ()
    commands: dict[str, Command] = {}
    call: str = ""
    """Command that lets a station ring; empty: stations cannot be called."""
    talk: str = ""
    """Command that connects it."""
    end: str = ""
    """Command that ends a call."""
    digits: str = ""
    """Command that sends digits, as ``{digits}``."""
    outputs: dict[str, Output] = {}
    polls: tuple[Poll, ...] = ()
    setup: tuple[Step, ...] = ()
    audio: Audio | None = None
    silent_s: _Seconds = 0.0
    """A station not heard of for so long is down; 0: stations say nothing by themselves."""
    flood_per_s: Annotated[float, msgspec.Meta(gt=0)] = 150.0
    """Frames of one station; more are ignored."""

    def __post_init__(self) -> None:
        known = set(self.commands)
        used = {
            self.call, self.talk, self.end, self.digits,
            *(o.on for o in self.outputs.values()), *(o.off for o in self.outputs.values()),
            *(p.command for p in self.polls), *(r.reply for r in self.rules),
        }  # fmt: skip
        if self.audio:
            used |= {self.audio.send, self.audio.listen, self.audio.page}
        for name in sorted(used - known - {""}):
            raise ValueError(f"there is no command {name!r}; known: {', '.join(sorted(known))}")
        rules = {rule.name for rule in self.rules}
        for name, command in self.commands.items():
            for wanted in (*command.done, *command.refused):
                if wanted not in rules:
                    raise ValueError(f"command {name}: there is no rule {wanted!r}")
        for rule in self.rules:
            for field in (*rule.when, *rule.unless):
                if field not in self.fields and field != "length":
                    raise ValueError(f"rule {rule.name}: there is no field {field!r}")
        re.compile(self.address)
        re.compile(self.zone_address)


def parse(text: str, name: str) -> Profile:
    """Read a profile. Raises `ConfigError` naming the file, the key and what is wrong there."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
        return msgspec.convert(document, Profile, strict=True)
    except (ValueError, re.error) as error:
        raise ConfigError(str(error), file=name, remedy="see docs/adapters/intercom.md") from None
