"""What may be done to the audio of one leg: echo cancelling, automatic gain, a noise gate.

Plain data: adapters take the types into their configuration, streams into their options.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec

from gateway.errors import UsageError
from gateway.media import _engine

ECHO_TAILS_MS = (16, 32, 64, 128)
FRAME_MS = 20
_FULL_SCALE_DBM0 = 3.14
_FULL_SCALE_MEAN_SQUARE = 32768.0**2 / 2


class EchoCanceller(msgspec.Struct, frozen=True, kw_only=True):
    """Takes what we send into a two-wire line out of what comes back (ITU-T G.168); 8 kHz only."""

    tail_ms: int = 32
    """Length of the echo behind its delay, which is looked for up to half a second: 16, 32, 64 or
    128."""
    suppress: bool = True
    """What is left is replaced by noise as quiet as the line's while only we speak (the
    non-linear processor of G.168)."""


class GainControl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Automatic gain control: quiet and loud talkers are brought to one level."""

    target_dbm0: Annotated[float, msgspec.Meta(ge=-40, le=-6)] = -18.0
    """Level of loud syllables behind it."""
    max_gain_db: Annotated[float, msgspec.Meta(gt=0, le=30)] = 12.0
    """So much is added at most, or taken away."""
    attack_ms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 40
    """Time in which most of a rise of the level is followed; peaks never leave the scale."""
    release_ms: Annotated[int, msgspec.Meta(ge=20, le=20000)] = 1500
    """The same when it falls; pauses do not count."""


class NoiseGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Silence instead of what is quieter than speech."""

    dbm0: Annotated[float, msgspec.Meta(ge=-70, le=-20)] = -45.0
    """It opens for 5 ms of this level, before the gain control."""
    hold_ms: Annotated[int, msgspec.Meta(ge=0, le=5000)] = 300
    """It stays open so long behind them."""


class Shaping(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of a telephone, trunk or port whose audio may be shaped; its section inherits them."""

    gain_in_db: Annotated[float, msgspec.Meta(ge=-24, le=24)] = 0.0
    """Of what comes from there."""
    gain_out_db: Annotated[float, msgspec.Meta(ge=-24, le=24)] = 0.0
    agc: GainControl | None = None
    """Automatic gain control of what comes from there."""
    gate: NoiseGate | None = None
    """Noise gate of what comes from there."""

    @property
    def shaping(self) -> dict[str, Any]:
        """As `gateway.media.streams.StreamOptions` takes them."""
        return {name: getattr(self, name) for name in Shaping.__struct_fields__}


def mean_square(dbm0: float) -> float:
    """Of samples with this level."""
    return float(10 ** ((dbm0 - _FULL_SCALE_DBM0) / 10) * _FULL_SCALE_MEAN_SQUARE)


def level_dbm0(squares: float, n_samples: int) -> float:
    """Of so many samples with this sum of squares; -99 for none."""
    if n_samples <= 0 or squares <= 0:
        return -99.0
    mean = squares / n_samples / _FULL_SCALE_MEAN_SQUARE
    return max(-99.0, 10.0 * math.log10(mean) + _FULL_SCALE_DBM0)


def canceller(wanted: EchoCanceller | None, rate: int) -> _engine.Echo | None:
    """A new canceller for the worker. `UsageError` for a tail or a rate that it does not have."""
    if wanted is None:
        return None
    if wanted.tail_ms not in ECHO_TAILS_MS:
        raise UsageError(f"echo.tail_ms {wanted.tail_ms}; use one of {ECHO_TAILS_MS}")
    if rate != 8000:
        raise UsageError(f"echo: the stream is at {rate} Hz; a line's echo is cancelled at 8000 Hz")
    return _engine.Echo(wanted.tail_ms, wanted.suppress)


def gain(agc: GainControl | None, gate: NoiseGate | None) -> dict[str, Any]:
    """Both as the worker takes them. `UsageError` names what is out of range."""
    told: dict[str, Any] = {}
    for name, part in (("agc", agc), ("gate", gate)):
        try:
            if part is not None:
                msgspec.convert(msgspec.structs.asdict(part), type(part))
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from None
    if agc is not None:
        told |= {
            "target": mean_square(agc.target_dbm0),
            "most": 10 ** (agc.max_gain_db / 20),
            "attack": min(1.0, FRAME_MS / agc.attack_ms),
            "release": min(1.0, FRAME_MS / agc.release_ms),
        }
    if gate is not None:
        told |= {"gate": mean_square(gate.dbm0), "hold_frames": round(gate.hold_ms / FRAME_MS)}
    return told
