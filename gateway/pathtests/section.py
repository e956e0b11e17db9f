"""The sections ``[[tests]]``, and the limits that a test is judged by."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from gateway.core.endpoints import Target
from gateway.core.events import PathTestKind
from gateway.core.hours import Hours
from gateway.errors import UsageError
from gateway.media import signals
from gateway.protocols.calendar import Times

_Seconds = Annotated[float, msgspec.Meta(ge=0.5, le=30)]
_Db = Annotated[float, msgspec.Meta(ge=0, le=60)]
_Dbm0 = Annotated[float, msgspec.Meta(ge=-60, le=0)]
_Level = Annotated[float, msgspec.Meta(ge=-99, le=3)]

SECONDS: Final = {PathTestKind.TONE: 10.0, PathTestKind.LOOP: 2.0, PathTestKind.ACOUSTIC: 3.0}
"""How long is played where nothing else is said."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tests.limits]``: what is still good."""

    max_attenuation_db: _Db = 10.0
    """Loop: more is the wrong level."""
    max_gain_db: _Db = 3.0
    """Loop: louder than what was sent by more is the wrong level."""
    min_erl_db: _Db = 6.0
    """Loop of a two-wire port: echo return loss of its hybrid (ITU-T G.122)."""
    max_delay_ms: Annotated[float, msgspec.Meta(gt=0, le=1500)] = 1500.0
    min_snr_db: Annotated[float, msgspec.Meta(ge=-30, le=60)] = -30.0
    max_change_db: _Db = 6.0
    """Against the baseline, in all and in each band."""
    max_hum_dbm0: _Level = -45.0
    max_noise_dbm0: _Level = -40.0
    max_dc_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    """Of full scale."""


class ScheduledTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[tests]]``: a test of a path that is repeated."""

    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """What is tested: ``sip/help-3``, ``fxo/1:5551004``; or a shell pattern, ``fxs/*``."""
    kind: PathTestKind
    at: tuple[str, ...] = ()
    """When: ``Mon-Fri 03:00``, as bells are written, in the gateway's time zone."""
    every_s: Annotated[float, msgspec.Meta(ge=0, le=31 * 86400)] = 0.0
    """Or how often."""
    hours: str = ""
    """Only then, as routes' hours are written."""
    retry_s: Annotated[float, msgspec.Meta(ge=10, le=86400)] = 300.0
    """How long after it could not be carried out it is tried again."""
    listen: str = ""
    """Another endpoint whose microphone hears it."""
    seconds: _Seconds | None = None
    tone_hz: Annotated[float, msgspec.Meta(ge=100, le=3800)] = 1004.0
    """ITU-T O.6 for 1.544 Mbit/s networks; 1020 elsewhere."""
    level_dbm0: _Dbm0 = -10.0
    ring_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 30.0
    transmit: bool = False
    """A transmitter may be keyed for it."""
    expect: Literal["", "closed", "open", "hybrid"] = ""
    """Loop: what is there; empty: a two-wire port has a hybrid, all others are closed."""
    severity: Literal["warning", "minor", "major", "critical"] = "minor"
    """Of the alarm when it fails."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if bool(self.at) == bool(self.every_s):
            raise ValueError("give either at, such as ['Mon-Fri 03:00'], or every_s")
        if self.every_s and self.every_s < 60:
            raise ValueError(f"every_s {self.every_s:g}: at least 60, a test takes a while")
        try:
            Times(self.at)
            Hours(self.hours)
            if not self.pattern:
                Target.parse(self.endpoint)
            if self.listen:
                Target.parse(self.listen)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if self.listen and self.kind is not PathTestKind.ACOUSTIC:
            raise ValueError(f"listen: only an acoustic test is heard elsewhere, not a {self.kind}")
        if self.expect and self.kind is not PathTestKind.LOOP:
            raise ValueError(f"expect: only a loop test finds one, not a {self.kind}")

    @property
    def pattern(self) -> bool:
        """Whether the endpoint stands for several."""
        return any(sign in self.endpoint for sign in "*?[")

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return " ".join(filter(None, (self.endpoint, self.kind.value, self.listen)))


def signal_of(kind: PathTestKind, tone_hz: float) -> str:
    """What is played for a kind of test. Raises `UsageError` for a tone that cannot be."""
    if kind is not PathTestKind.TONE:
        return "noise" if kind is PathTestKind.LOOP else "sweep"
    signal = f"tone:{tone_hz:g}"
    signals.frequency(signal)
    return signal
