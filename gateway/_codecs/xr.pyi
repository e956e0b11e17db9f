from collections.abc import Iterable
from typing import Any, NamedTuple

from _typeshed import ReadableBuffer

class VoipMetrics(NamedTuple):
    ssrc: int
    loss_rate: int = 0
    discard_rate: int = 0
    burst_density: int = 0
    gap_density: int = 0
    burst_ms: int = 0
    gap_ms: int = 0
    round_trip_ms: int = 0
    end_system_ms: int = 0
    signal_dbm0: int = 0
    noise_dbm0: int = 0
    echo_loss_db: int = 0
    gmin: int = 0
    r_factor: int = 0
    external_r: int = 0
    mos_lq: int = 0
    mos_cq: int = 0
    config: int = 0
    buffer_ms: int = 0
    buffer_max_ms: int = 0
    buffer_abs_max_ms: int = 0

def parse_xr(body: ReadableBuffer, ssrc: int = 0) -> list[tuple[Any, ...]]: ...
def build_xr(
    ssrc: int,
    *,
    ntp: tuple[int, int] | None = None,
    dlrr: tuple[int, int, int] | None = None,
    metrics: VoipMetrics | None = None,
) -> bytes: ...
def bursts(events: Iterable[int], packet_ms: float = 20.0) -> VoipMetrics: ...
def e_model(
    ie: float, bpl: float, loss_percent: float, one_way_ms: float
) -> tuple[float, float]: ...
