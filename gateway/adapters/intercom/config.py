"""The section ``[adapters.<name>]`` of an intercom adapter, and where profiles come from."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.adapters.secrets import Secret
from gateway.core.events import Priority
from gateway.drivers.serial import Settings
from gateway.errors import ConfigError
from gateway.media.shaping import Shaping
from gateway.protocols.intercom.profile import Line, Profile, parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_ENDPOINT = re.compile(r"[a-z][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._+-]*")
_RTP = re.compile(r"rtp://(?:\[(?P<v6>[0-9a-fA-F:]+)\]|(?P<host>[^:/\s]+)):(?P<port>\d{1,5})")
BUS = "bus"
"""The endpoint that stands for the line itself."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def shipped() -> list[str]:
    """Names of the profiles that come with the product."""
    folder = resources.files("gateway.protocols.intercom") / "profiles"
    return sorted(each.name.removesuffix(".toml") for each in folder.iterdir())


@lru_cache(maxsize=32)
def profile(name: str) -> Profile:
    """A shipped profile by name, or one's own by its path. Raises `ConfigError`."""
    if name.endswith(".toml"):
        try:
            return parse(Path(name).read_text(), name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read profile {name}: {error}", key="profile") from None
    if name not in shipped():
        raise ConfigError(
            f"there is no profile {name!r}",
            key="profile",
            remedy=f"known: {', '.join(shipped())}; or the path of a file that ends in .toml",
        )
    folder = resources.files("gateway.protocols.intercom") / "profiles"
    return parse((folder / f"{name}.toml").read_text(), f"{name}.toml")


class Station(_Section, Shaping, frozen=True, kw_only=True):
    """A place on the bus: a call point, a door, a station of an exchange."""

    address: str | int
    label: str = ""
    location: str = ""
    number: str = ""
    """Directory number: what others dial to reach it."""
    calls: str = ""
    """Number that its call button calls, when the bus says none."""
    priority: Literal["routine", "priority", "urgent", "emergency"] = "routine"
    duplex: Literal["half", "switched", "full"] = "half"
    """``switched``: the talk key turns the direction round; everybody else hears and speaks as on
    a telephone, without asking for the floor."""
    audio: str = ""
    """``bus``: in the bus's frames; an endpoint of another adapter (``fxs/1``), a path or
    ``rtp://host:port``: the control is on the bus, speech on that port, device or socket; ``none``:
    elsewhere altogether. Empty: ``bus`` if it can."""
    audio_local_ip: str = "127.0.0.1"
    """With ``rtp://``: our address."""
    audio_local_codec: Literal["PCMU", "PCMA"] = "PCMU"
    via: str = ""
    """The exchange's number of the port that carries the speech, for ``{number}``."""

    def __post_init__(self) -> None:
        if self.audio not in ("", "bus", "none") and self.audio[:1] != "/" and not self.borrowed:
            found = _RTP.fullmatch(self.audio)
            if found is None or not 0 < int(found["port"]) < 65536:
                raise ValueError(
                    f"audio = {self.audio!r}: write bus, none, an endpoint such as fxs/1, "
                    "rtp://host:port or a path"
                )

    @property
    def at(self) -> str:
        """The address as frames give it."""
        return str(self.address)

    @property
    def level(self) -> Priority:
        """`priority` as calls carry it."""
        return Priority[self.priority.upper()]

    @property
    def borrowed(self) -> str:
        """The other adapter's endpoint that speech goes through; empty when it does not."""
        return self.audio if _ENDPOINT.fullmatch(self.audio) else ""

    @property
    def remote(self) -> tuple[str, int] | None:
        """Where speech goes with ``rtp://``."""
        found = _RTP.fullmatch(self.audio)
        return (found["v6"] or found["host"], int(found["port"])) if found else None


class Zone(_Section, frozen=True, kw_only=True):
    """A group of stations that is only spoken to: an address that all of them listen to."""

    address: str | int
    label: str = ""
    location: str = ""
    number: str = ""

    @property
    def at(self) -> str:
        """The address as frames give it."""
        return str(self.address)


class Config(_Section, frozen=True, kw_only=True):
    """A bus, and who is on it."""

    port: str
    """A device, ``socket://host:port`` or ``rfc2217://host:port``."""
    profile: str = "callpoint"
    baud: Annotated[int, msgspec.Meta(ge=0, le=4_000_000)] = 0
    """0: as the profile says."""
    parity: Literal["", "N", "E", "O"] = ""
    data_bits: Literal[0, 5, 6, 7, 8] = 0
    stop_bits: Literal[0, 1, 2] = 0
    echo: bool | None = None
    """Whether the line returns our own octets; None: as the profile says."""
    rs485: bool = False
    """The port's driver switches the transmitter by RTS."""
    rts_before_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    rts_after_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    password: Secret = Secret()
    """OpenWebNet's: digits for OPEN, any text for HMAC."""
    numbers: tuple[str, ...] = ()
    """Numbers on the exchange that are the gateway: only calls to these are taken in; none: all."""
    reopen_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 2.0
    """How often a line that was lost is tried again."""
    stations: dict[str, Station] = {}
    zones: dict[str, Zone] = {}

    def __post_init__(self) -> None:
        bus = profile(self.profile)
        places: dict[str, Station | Zone] = {**self.stations, **self.zones}
        for name in places:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r}: use letters, digits, '_' and '-'")
        for name in sorted(self.stations.keys() & self.zones.keys()):
            raise ValueError(f"{name!r} is both a station and a zone")
        if BUS in places:
            raise ValueError(f"{BUS!r} is the line itself: call the station something else")
        seen: dict[str, str] = {}
        for name, place in places.items():
            legal = bus.address if isinstance(place, Station) else bus.zone_address
            if not re.fullmatch(legal, place.at):
                raise ValueError(f"{name}: address {place.at!r} is not one of {self.profile}")
            if place.at in seen:
                raise ValueError(f"{name} and {seen[place.at]} have the same address {place.at}")
            seen[place.at] = name
        if self.zones and not (bus.audio and bus.audio.page):
            raise ValueError(f"the profile {self.profile} has no command for zones")
        for name, station in self.stations.items():
            self._check_audio(name, station, bus)

    def _check_audio(self, name: str, station: Station, bus: Profile) -> None:
        if station.audio == "bus" and bus.audio is None:
            raise ValueError(f"{name}: the profile {self.profile} carries no audio on the bus")
        if self.speech_of(station) != "bus" or station.duplex != "full" or bus.audio is None:
            return
        rate = self.line(bus).baud
        if not bus.audio.full_baud or rate < bus.audio.full_baud:
            raise ValueError(
                f"{name}: full duplex needs a line of {bus.audio.full_baud} Bd, "
                f"not {rate} (use duplex = 'switched' or a faster line)"
            )

    def speech_of(self, station: Station) -> str:
        """Where a station's speech is: ``bus``, ``none``, an endpoint, a path or a URL."""
        return station.audio or ("bus" if profile(self.profile).audio else "none")

    def line(self, bus: Profile) -> Line:
        """The line as the profile says, unless this section says otherwise."""
        return msgspec.structs.replace(
            bus.line,
            baud=self.baud or bus.line.baud,
            parity=self.parity or bus.line.parity,
            data_bits=self.data_bits or bus.line.data_bits,
            stop_bits=self.stop_bits or bus.line.stop_bits,
            echo=bus.line.echo if self.echo is None else self.echo,
        )

    def settings(self, line: Line) -> Settings:
        """What the port is opened with."""
        return Settings(
            baud=line.baud,
            data_bits=line.data_bits,
            parity=line.parity,
            stop_bits=line.stop_bits,
            rs485=self.rs485,
            rts_before_s=self.rts_before_ms / 1000,
            rts_after_s=self.rts_after_ms / 1000,
        )
