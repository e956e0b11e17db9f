"""``[adapters.pyvoip]``: one account on somebody's PBX."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

from gateway.adapters.secrets import Secret
from gateway.media.shaping import Shaping

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
# The library writes these into its requests as they stand.
_Host = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
_User = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._~!*'()+-]+$")]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


class PyVoipSection(Shaping, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.pyvoip]``."""

    server: _Host
    """The PBX: a name or an IPv4 address."""
    port: _Port = 5060
    user: _User
    password: Secret
    line: _Name = "line"
    """Name of the endpoint: ``pyvoip/line``."""
    label: str = ""
    number: str = ""
    """Directory number of the account itself; needs `dials`."""
    dials: str = ""
    """What to dial at the PBX when a call to the endpoint carries no number."""
    calls: Annotated[int, msgspec.Meta(ge=1, le=20)] = 10
    """Calls at a time; the library needs two threads for each."""
    local_ip: str = ""
    """Our IPv4 address as the PBX sees it; empty: the one that the way to the PBX leaves from."""
    local_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """UDP port for SIP; 0 takes a free one and keeps it."""
    rtp_ports: tuple[_Port, _Port] = (15000, 15199)
    """First and last UDP port for audio; must not overlap with those of ``[media]``."""
    expires_s: Annotated[int, msgspec.Meta(ge=10, le=3600)] = 60
    """Lifetime of the registration, renewed 5 s before its end: how soon a lost PBX is noticed."""
    no_response_s: Annotated[float, msgspec.Meta(gt=0, le=32)] = 5.0
    """Give up on a PBX that answers nothing at all."""
    calls_per_process: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Take a new process for the library after so many calls, as soon as it has none."""
    memory_mb: Annotated[int, msgspec.Meta(ge=50)] = 150
    """Take a new one when it holds more memory: as soon as it has no call; at twice this, at
    once."""

    def __post_init__(self) -> None:
        if not self.password:
            raise ValueError("password is empty")
        if self.local_ip:
            try:
                ipaddress.IPv4Address(self.local_ip)
            except ValueError:
                raise ValueError(f"local_ip {self.local_ip!r} is no IPv4 address") from None
        low, high = self.rtp_ports
        if high - low + 1 < 2 * self.calls:
            raise ValueError(f"rtp_ports {low} to {high} are too few for {self.calls} calls")
