from typing import NamedTuple, Self

from _typeshed import ReadableBuffer

FRAME: int
LOST: int
PAUSE: int
EMPTY: int
WAITING: int
STORED: int
RESTARTED: int
DUPLICATE: int
LATE: int
TOO_LONG: int
STRAY: int

class JitterFrame(NamedTuple):
    kind: int
    payload: bytes | None
    timestamp: int
    seq: int
    payload_type: int
    marker: bool
    duration: int

class JitterStats(NamedTuple):
    n_received: int
    n_played: int
    n_lost: int
    n_late: int
    n_duplicate: int
    n_reordered: int
    n_overflow: int
    n_shrunk: int
    n_empty: int
    n_restarts: int
    n_stray: int
    n_too_long: int
    depth_ms: float
    target_ms: float
    jitter_ms: float
    ptime_ms: float

def size_of(n_slots: int = 64, slot_bytes: int = 960) -> int: ...

class JitterBuffer:
    def __new__(
        cls,
        *,
        clock_rate: int = 8000,
        min_ms: int = 20,
        max_ms: int = 200,
        n_slots: int = 64,
        slot_bytes: int = 960,
    ) -> Self: ...
    def reset(self) -> None: ...
    def put(
        self,
        seq: int,
        timestamp: int,
        payload: ReadableBuffer,
        now: float,
        *,
        ssrc: int = 1,
        payload_type: int = 0,
        marker: bool = False,
    ) -> int: ...
    def skip(self, seq: int, ssrc: int = 1) -> None: ...
    def get(self, now: float) -> JitterFrame: ...
    @property
    def stats(self) -> JitterStats: ...
