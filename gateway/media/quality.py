"""Voice quality of one direction as extended reports tell it (RFC 3611 section 4.7)."""

from __future__ import annotations

import msgspec

_UNKNOWN = 127


class VoipMetrics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What whoever receives a stream says of it. None: not measured, or not told."""

    loss_percent: float = 0.0
    """Packets that never came."""
    discard_percent: float = 0.0
    """Packets that came too late, or too early, to be played."""
    burst_percent: float = 0.0
    """Share lost or discarded within bursts (fewer than 16 good packets between two bad ones)."""
    burst_ms: int = 0
    """Mean length of a burst."""
    gap_percent: float = 0.0
    """Share lost or discarded between bursts."""
    gap_ms: int = 0
    round_trip_ms: int | None = None
    end_system_ms: int = 0
    """Delay within the receiver, its jitter buffer included."""
    signal_dbm0: int | None = None
    """Mean level of speech."""
    noise_dbm0: int | None = None
    echo_loss_db: int | None = None
    """Residual echo return loss."""
    r_factor: int | None = None
    """Transmission rating, 0 to 100, of the packets' path and the codec (ITU-T G.107). Ours is
    93.2 - Id - Ie,eff with G.113's figures for G.711 with concealment (Ie 0, Bpl 25.1); no other
    codec is rated."""
    mos_lq: float | None = None
    """Listening quality, 1 to 5: from the rating without delay (G.107 Annex B)."""
    mos_cq: float | None = None
    """Conversational quality: delay included."""
    buffer_ms: int = 0
    """Jitter buffer: now, and the deepest it may become."""
    buffer_max_ms: int = 0


def metrics(block: dict[str, int] | None) -> VoipMetrics | None:
    """A report block's fields in everyday units."""
    if block is None:
        return None

    def known(name: str) -> int | None:
        value = block[name]
        return None if value == _UNKNOWN else value

    def mos(name: str) -> float | None:
        value = block[name]
        return value / 10 if 10 <= value <= 50 else None

    return VoipMetrics(
        loss_percent=_percent(block["loss_rate"]),
        discard_percent=_percent(block["discard_rate"]),
        burst_percent=_percent(block["burst_density"]),
        burst_ms=block["burst_ms"],
        gap_percent=_percent(block["gap_density"]),
        gap_ms=block["gap_ms"],
        round_trip_ms=block["round_trip_ms"] or None,
        end_system_ms=block["end_system_ms"],
        signal_dbm0=known("signal_dbm0"),
        noise_dbm0=known("noise_dbm0"),
        echo_loss_db=known("echo_loss_db"),
        r_factor=known("r_factor"),
        mos_lq=mos("mos_lq"),
        mos_cq=mos("mos_cq"),
        buffer_ms=block["buffer_ms"],
        buffer_max_ms=block["buffer_max_ms"],
    )


def _percent(of_256: int) -> float:
    return of_256 * 100.0 / 256.0
