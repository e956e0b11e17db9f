"""``[adapters.page]``: zones that are paged over multicast, and bells."""

from __future__ import annotations

import ipaddress
import uuid
from enum import StrEnum
from typing import Annotated

import msgspec

from gateway.adapters.page import chimes
from gateway.core.events import Priority
from gateway.errors import UsageError
from gateway.media.streams import Codec
from gateway.protocols import paging
from gateway.protocols.calendar import Bell, Calendar, days_of

BELLS = "bells"
"""Local name of the endpoint of all bells."""
MUTE = "mute_today"
"""Output: 1 silences the timetable until midnight."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
_Gain = Annotated[float, msgspec.Meta(ge=-40, le=20)]
_CLASSES = tuple(member.name.lower() for member in Priority)


class Dialect(StrEnum):
    """What the receivers of a zone understand."""

    RTP = "rtp"
    """Plain RTP to a group: Snom, Yealink, Grandstream, Fanvil, Algo, CyberData, Barix."""
    POLY = "poly"
    """Poly group paging and push-to-talk."""
    SPA = "spa"
    """RTP with the control packets of Linksys and Cisco SPA telephones."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ClassOverride(_Section, frozen=True, kw_only=True):
    """``[adapters.page.zones.<zone>.classes.<priority>]``: what is different for these pages."""

    group: str = ""
    """Another group and port: receivers rank what they hear by address."""
    channel: Annotated[int, msgspec.Meta(ge=0, le=paging.POLY_CHANNELS)] = 0
    """Another Poly channel; 0: the zone's."""
    chime: str | None = None
    gain_db: _Gain = 0.0
    """In addition to the zone's."""


class Feedback(_Section, frozen=True, kw_only=True):
    """``[[adapters.page.zones.<zone>.feedback]]``: an input that proves that the zone plays."""

    endpoint: str
    input: str
    value: float = 1.0
    name: str = ""
    """What the receipt calls it; empty: ``endpoint/input``."""

    @property
    def label(self) -> str:
        """How the receipt calls it."""
        return self.name or f"{self.endpoint}/{self.input}"


class Zone(_Section, frozen=True, kw_only=True):
    """``[adapters.page.zones.<zone>]``: one zone."""

    dialect: Dialect = Dialect.RTP
    group: str = ""
    """Multicast address and port: ``239.0.1.1:5004``. Poly: 224.0.1.116:5001 if not given."""
    codec: Codec = Codec.PCMU
    """``PCMU``, ``PCMA`` or ``G722``."""
    interface: str = ""
    """Our address in the network to send into; empty: the adapter's."""
    link: str = ""
    """Name of that network's device, such as ``eth0``: without a link the zone is down."""
    ttl: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    """Routers to pass, 1: none; 0: the adapter's."""
    channel: Annotated[int, msgspec.Meta(ge=1, le=paging.POLY_CHANNELS)] = 26
    """Poly: 1 to 25 push-to-talk, 26 to 50 paging groups 1 to 25."""
    control: str = f"224.168.168.168:{paging.SPA_PORT}"
    """SPA: address and port of the control packets."""
    number: str = ""
    label: str = ""
    location: str = ""
    chime: str = ""
    """Before each page: a name, a script or a WAV file; see `gateway.adapters.page.chimes`."""
    gain_db: _Gain = 0.0
    max_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 600.0
    """A page that lasts longer is ended: somebody forgot to hang up."""
    classes: dict[str, ClassOverride] = {}
    """By priority: ``routine``, ``priority``, ``urgent``, ``emergency``."""
    members: dict[str, str] = {}
    """Address to name of receivers that send RTCP reports to the group."""
    feedback: tuple[Feedback, ...] = ()

    def __post_init__(self) -> None:
        if self.codec is Codec.L16:
            raise ValueError("codec is none of PCMU, PCMA, G722")
        if self.dialect is not Dialect.POLY and not self.group:
            raise ValueError("group is missing: a multicast address and port, 239.0.1.1:5004")
        for text in (self.group, *(each.group for each in self.classes.values())):
            if text:
                parse_group(text)
        if self.dialect is Dialect.SPA:
            parse_group(self.control)
        for name in self.classes:
            if name not in _CLASSES:
                raise ValueError(f"classes: {name!r} is none of {', '.join(_CLASSES)}")
        for chime in (self.chime, *(each.chime or "" for each in self.classes.values())):
            chimes.check(chime)
        for address in (self.interface, *self.members):
            if address:
                ipaddress.IPv4Address(address)

    def destination(self, priority: Priority = Priority.ROUTINE) -> tuple[str, int]:
        """Group and port of pages of a priority."""
        text = self.override(priority).group or self.group
        return parse_group(text) if text else (paging.POLY_GROUP, paging.POLY_PORT)

    def override(self, priority: Priority) -> ClassOverride:
        """What is different for a priority."""
        return self.classes.get(priority.name.lower(), ClassOverride())

    def destinations(self) -> set[tuple[str, int]]:
        """All groups that it is sent to."""
        return {self.destination(priority) for priority in Priority}


class BellSection(_Section, frozen=True, kw_only=True):
    """``[adapters.page.bells.<bell>]``: when it rings. A route says where and what."""

    times: tuple[str, ...] = ()
    """On ordinary days: ``Mon-Fri 08:00``, ``Sat,Sun 10:00:30``, ``12:00``."""
    on: dict[str, tuple[str, ...]] = {}
    """On days of a type, instead; ``holiday`` is one."""
    skip: tuple[str, ...] = ()
    """Days without this bell: ``2026-03-02`` or ``2026-03-02/2026-03-06``."""
    extra: tuple[str, ...] = ()
    """Single times, whatever the day: ``2026-03-07 10:00``."""
    gain_db: _Gain = 0.0
    """Volume in the zones of this adapter, in addition to the zone's."""
    late_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """How late it may still ring (after a restart); later it is missed."""
    max_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 120.0
    """After this the bell is over, whatever still plays."""


class CalendarSection(_Section, frozen=True, kw_only=True):
    """``[adapters.page.calendar]``: what kind of day it is."""

    time_zone: str = ""
    """``Europe/Berlin``; needed as soon as there is a bell."""
    holidays: tuple[str, ...] = ()
    """``2026-12-25`` or ``2026-12-24/2027-01-06``."""
    days: dict[str, str] = {}
    """Day or range to type of day: ``"2026-06-19" = "short"``."""
    clock: Annotated[str, msgspec.Meta(pattern="^(alarm|hold|ignore)$")] = "alarm"
    """When nothing keeps the clock right: ring and raise an alarm, hold the bells and raise an
    alarm, or ignore it."""


class PageSection(_Section, frozen=True, kw_only=True):
    """``[adapters.page]``."""

    interface: str = "0.0.0.0"
    """Our address in the network to send into; 0.0.0.0: as the routes say."""
    ttl: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1
    dscp: Annotated[int, msgspec.Meta(ge=0, le=63)] = 46
    serial: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{8}$")] | None = None
    """Poly: four octets that tell senders apart; default: of this box's MAC address."""
    zones: dict[_Name, Zone] = {}
    bells: dict[_Name, BellSection] = {}
    calendar: CalendarSection = CalendarSection()

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.interface)
        if BELLS in self.zones:
            raise ValueError(f"no zone can be called {BELLS!r}: that is the endpoint of all bells")
        if MUTE in self.bells:
            raise ValueError(f"no bell can be called {MUTE!r}: that is the output that mutes them")
        taken: dict[tuple[str, int, int], str] = {}
        for name, zone in self.zones.items():
            poly = zone.dialect is Dialect.POLY
            for group in zone.destinations():
                key = (*group, zone.channel if poly else 0)
                other = taken.setdefault(key, name)
                if other != name:
                    raise ValueError(f"zones {other!r} and {name!r} share the group {group[0]}")
        if self.bells:
            if not self.calendar.time_zone:
                raise ValueError("calendar.time_zone is missing: bells need one (Europe/Berlin)")
            try:
                self.timetable()
            except UsageError as error:
                raise ValueError(str(error)) from None
        for text in (*self.calendar.holidays, *self.calendar.days):
            try:
                days_of(text)
            except UsageError as error:
                raise ValueError(str(error)) from None

    def timetable(self) -> Calendar:
        """The bells' calendar. Raises `UsageError`."""
        section = self.calendar
        bells = []
        for name, bell in self.bells.items():
            try:
                bells.append(Bell(name, bell.times, on=bell.on, skip=bell.skip, extra=bell.extra))
            except UsageError as error:
                raise UsageError(f"bell {name!r}: {error}") from None
        return Calendar(section.time_zone, bells, holidays=section.holidays, days=section.days)

    @property
    def poly_serial(self) -> bytes:
        """What Poly telephones know us by."""
        if self.serial is not None:
            return bytes.fromhex(self.serial)
        return uuid.getnode().to_bytes(6, "big")[2:]


def parse_group(text: str) -> tuple[str, int]:
    """Address and port. Raises `ValueError` saying how to write them."""
    host, _, port = text.rpartition(":")
    try:
        group = ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(f"{text!r}: write it like 239.0.1.1:5004") from None
    # The odd port above the audio's is RTCP's.
    if not group.is_multicast or not port.isdigit() or not 1024 <= int(port) <= 65534:
        raise ValueError(f"{text!r}: a multicast address (224 to 239) and a port, 1024 to 65534")
    return str(group), int(port)
