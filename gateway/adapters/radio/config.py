"""The section ``[adapters.<name>]`` of a radio adapter."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from gateway.adapters.secrets import Secret
from gateway.media.shaping import GainControl, NoiseGate

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]
_Hz = Annotated[float, msgspec.Meta(ge=50, le=3500)]
_Dbm0 = Annotated[float, msgspec.Meta(ge=-60, le=3)]
_Pin = Annotated[int, msgspec.Meta(ge=1, le=8)]
_Rate = Literal[8000, 16000]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _By(_Section, frozen=True, kw_only=True, tag_field="by"):
    pass


# How the transmitter is keyed


class SerialKey(_By, frozen=True, kw_only=True, tag="serial"):
    """An output of a serial port."""

    device: str
    line: Literal["rts", "dtr"] = "rts"
    inverted: bool = False


class GpioKey(_By, frozen=True, kw_only=True, tag="gpio"):
    """A line of a GPIO chip."""

    chip: str = "gpiochip0"
    line: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    inverted: bool = False


class Cm108Key(_By, frozen=True, kw_only=True, tag="cm108"):
    """A GPIO pin of a USB sound chip."""

    device: str
    """``/dev/hidraw...``"""
    pin: _Pin = 3
    inverted: bool = False


class RigctldKey(_By, frozen=True, kw_only=True, tag="rigctld"):
    """hamlib's rigctld."""

    host: str = "127.0.0.1"
    port: _Port = 4532


class PtyKey(_By, frozen=True, kw_only=True, tag="pty"):
    """The squelch PTY of an SvxLink receiver."""

    path: str


Key = SerialKey | GpioKey | Cm108Key | RigctldKey | PtyKey

# How a carrier is detected


class SerialCarrier(_By, frozen=True, kw_only=True, tag="serial"):
    """An input of a serial port."""

    device: str
    line: Literal["cts", "dsr", "dcd", "ri"] = "cts"
    inverted: bool = False


class GpioCarrier(_By, frozen=True, kw_only=True, tag="gpio"):
    """A line of a GPIO chip."""

    chip: str = "gpiochip0"
    line: Annotated[int, msgspec.Meta(ge=0, le=1023)]
    inverted: bool = False


class Cm108Carrier(_By, frozen=True, kw_only=True, tag="cm108"):
    """A button or pin of a USB sound chip; low is a carrier."""

    device: str
    source: Annotated[str, msgspec.Meta(pattern="^(volume-down|volume-up|gpio[1-8])$")] = (
        "volume-down"
    )
    inverted: bool = False


class RigctldCarrier(_By, frozen=True, kw_only=True, tag="rigctld"):
    """hamlib's rigctld, asked `every_ms`."""

    host: str = "127.0.0.1"
    port: _Port = 4532
    every_ms: Annotated[int, msgspec.Meta(ge=20, le=2000)] = 50


class PtyCarrier(_By, frozen=True, kw_only=True, tag="pty"):
    """The PTT PTY of an SvxLink transmitter."""

    path: str


class VoxCarrier(_By, frozen=True, kw_only=True, tag="vox"):
    """The level of what is received, for a receiver without a carrier output."""

    dbm0: _Dbm0 = -30.0
    hang_ms: _Milliseconds = 500


Carrier = SerialCarrier | GpioCarrier | Cm108Carrier | RigctldCarrier | PtyCarrier | VoxCarrier

# Where the audio is


class UdpAudio(_By, frozen=True, kw_only=True, tag="udp"):
    """Raw 16-bit little-endian samples in datagrams, as SvxLink's ``udp:`` devices speak."""

    listen: str
    """``address:port`` on which received audio arrives."""
    send: str
    """``address:port`` to which transmitted audio goes."""
    rate: _Rate = 16000
    idle_silence: bool = True
    """Send silence while nothing is transmitted: SvxLink looks at its squelch only then."""


class CommandAudio(_By, frozen=True, kw_only=True, tag="command"):
    """Two programs: one writes received samples, the other reads what is transmitted."""

    record: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    play: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    rate: _Rate = 16000
    idle_silence: bool = True


class AlsaAudio(_By, frozen=True, kw_only=True, tag="alsa"):
    """A sound device, through ALSA's arecord and aplay."""

    device: str = "default"
    """``plughw:CARD=Device``"""
    rate: _Rate = 16000


Audio = UdpAudio | CommandAudio | AlsaAudio


class Reflector(_Section, frozen=True, kw_only=True):
    """A node of an SvxReflector: audio and keying over the network."""

    host: str
    port: _Port = 5300
    callsign: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    password: Secret
    bitrate: Annotated[int, msgspec.Meta(ge=6000, le=64000)] = 20000
    """Of Opus, in bit/s."""


class Usrp(_Section, frozen=True, kw_only=True):
    """A USRP channel of AllStar or DVSwitch: audio and keying over the network."""

    host: str
    port: _Port = 34001
    listen: str = "127.0.0.1:32001"
    talkgroup: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 0


class Tone(_Section, frozen=True, kw_only=True):
    """A short tone."""

    hz: _Hz = 800.0
    ms: Annotated[int, msgspec.Meta(ge=20, le=2000)] = 100
    dbm0: _Dbm0 = -15.0


class Radio(_Section, frozen=True, kw_only=True):
    """``radios.<name>``: one radio; an endpoint."""

    label: str = ""
    location: str = ""
    number: str = ""
    """Directory number."""
    calls: str = ""
    """Number to call when somebody speaks on the air and no call is up; empty: nobody."""
    idle_s: _Seconds = 60.0
    """End a call that began on the air after so long a silence of both sides; 0: never."""
    transmit: bool = False
    """Nothing is ever keyed without this. Set it when antenna, licence and times are right."""
    key: Key | None = None
    carrier: Carrier | None = None
    audio: Audio | None = None
    reflector: Reflector | None = None
    usrp: Usrp | None = None
    lead_in_ms: _Milliseconds | None = None
    """Carrier before the first word; what is said meanwhile is kept and sent after it. 200 for
    a key line, 0 for a network: like the four times below that are not given."""
    tail_ms: _Milliseconds = 0
    """Carrier after the last word; give it the delay of a sound card."""
    time_out_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 180.0
    """Longest transmission."""
    penalty_s: _Seconds = 5.0
    """Pause that is forced after it, from when the speaker has let go."""
    reset_s: _Seconds = 0.0
    """A shorter pause does not begin the time-out anew."""
    lease_ms: Annotated[int, msgspec.Meta(ge=100, le=1000)] = 200
    """The guard releases the line when the gateway is silent for so long."""
    debounce_ms: _Milliseconds | None = None
    hang_ms: _Milliseconds | None = None
    """A shorter gap in the carrier does not end an over."""
    squelch_tail_ms: Annotated[int, msgspec.Meta(ge=0, le=500)] | None = None
    """Noise to be cut off before the carrier detector notices that the signal ended."""
    turnaround_ms: _Milliseconds | None = None
    """After transmitting, a carrier does not count for so long."""
    full_duplex: bool = False
    """It hears while it transmits: a carrier counts then too."""
    courtesy: Tone | None = None
    """Transmitted after each over of ours."""
    go_ahead: Tone | None = None
    """What the telephone hears when the radio has finished."""
    gain_in_db: Annotated[float, msgspec.Meta(ge=-40, le=40)] = 0.0
    gain_out_db: Annotated[float, msgspec.Meta(ge=-40, le=40)] = 0.0
    agc: GainControl | None = None
    """Automatic gain control of what is heard on the air."""
    gate: NoiseGate | None = None
    """Noise gate of what is heard on the air."""
    detect_dtmf: bool = False
    """DTMF on the air becomes digits of the call."""

    def __post_init__(self) -> None:
        if self.hang_ms is None and isinstance(self.carrier, VoxCarrier):
            msgspec.structs.force_setattr(self, "hang_ms", 0)
        for name, wired in (("lead_in_ms", 200), ("debounce_ms", 30), ("hang_ms", 200),
                            ("squelch_tail_ms", 100), ("turnaround_ms", 200)):  # fmt: skip
            if getattr(self, name) is None:
                # A network says exactly when an over begins and ends.
                msgspec.structs.force_setattr(self, name, wired if self.audio else 0)
        networks = [each for each in (self.audio, self.reflector, self.usrp) if each is not None]
        if len(networks) != 1:
            raise ValueError("give audio, reflector or usrp, one of them")
        if self.audio is None and (self.key or self.carrier):
            raise ValueError("reflector and usrp key by themselves: leave out key and carrier")
        if self.transmit and self.audio is not None and self.key is None:
            raise ValueError("transmit = true needs a key line")
        if self.calls and self.audio is not None and self.carrier is None:
            raise ValueError("calls needs a carrier: nobody else says that somebody speaks")
        for text in (
            *((self.audio.listen, self.audio.send) if isinstance(self.audio, UdpAudio) else ()),
            *((self.usrp.listen,) if self.usrp else ()),
        ):
            address(text)


class Config(_Section, frozen=True, kw_only=True):
    """Radios."""

    radios: dict[str, Radio] = {}

    def __post_init__(self) -> None:
        for name in self.radios:
            if not _NAME.match(name):
                raise ValueError(f"{name!r}: use letters, digits, '_' and '-'")


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not address:port")
    return host.strip("[]"), int(port)
