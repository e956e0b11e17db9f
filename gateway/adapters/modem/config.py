"""The section ``[adapters.<name>]`` of a modem adapter."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from gateway.core.events import Priority
from gateway.drivers.serial import Settings
from gateway.media.shaping import Shaping

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Modem(_Section, Shaping, frozen=True, kw_only=True):
    """``[adapters.<name>.modems.<modem>]``: a radio module."""

    port: str
    """The port for AT commands: a device, ``socket://host:port`` or ``rfc2217://host:port``."""
    audio: str
    """The port with its PCM: a device of this machine."""
    baud: Annotated[int, msgspec.Meta(ge=1200, le=4_000_000)] = 115200
    label: str = ""
    location: str = ""
    number: str = ""
    """Directory number: what others dial to reach it."""
    calls: str = ""
    """Number that calls from outside are for; empty: the route decides."""
    texts: str = ""
    """Number that text messages from outside are for; empty: the one that calls are for."""
    texts_an_hour: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 60
    """Texts of more are refused: each costs money, and whoever can send one could send many."""
    keys: Literal["audio", "module"] = "audio"
    """Who finds the keys that the far end presses; the gateway, too, if the module cannot."""
    fault_severity: Literal["none", "warning", "minor", "major", "critical"] = "major"
    """Of the alarm that a module which cannot make calls raises."""
    fault_after_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    """How long that may be so without an alarm: a reset and a change of cells are none."""
    priority: Literal["routine", "priority", "urgent", "emergency"] = "routine"
    """Of calls from outside."""
    audio_within_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = 0.5
    """No PCM so long after the answer: the module's audio is dead, and the module is reset."""

    def __post_init__(self) -> None:
        if not self.audio.startswith("/"):
            raise ValueError(f"audio = {self.audio!r}: write the path of the module's PCM port")
        if self.audio == self.port:
            raise ValueError("port and audio are the same: commands and PCM have a port each")

    @property
    def level(self) -> Priority:
        """`priority` as calls carry it."""
        return Priority[self.priority.upper()]

    @property
    def settings(self) -> Settings:
        """What the port is opened with: a module takes no commands while DTR and RTS are low."""
        return Settings(baud=self.baud, rts=True, dtr=True)


class Config(_Section, frozen=True, kw_only=True):
    """``[adapters.<name>]``."""

    reopen_s: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 2.0
    """How soon a module that was lost is tried again; each time later, up to a minute."""
    modems: dict[str, Modem]

    def __post_init__(self) -> None:
        if not self.modems:
            raise ValueError("there is no modem: write a section [adapters.<name>.modems.<modem>]")
        seen: dict[str, str] = {}
        for name, modem in self.modems.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r}: use letters, digits, '_' and '-'")
            for port in (modem.port, modem.audio):
                if port in seen:
                    raise ValueError(f"{name} and {seen[port]} have the same port {port}")
                seen[port] = name
