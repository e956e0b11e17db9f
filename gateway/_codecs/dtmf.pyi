from typing import NamedTuple, Self

from _typeshed import ReadableBuffer

class DtmfEvent(NamedTuple):
    digit: str
    is_end: bool
    start_sample: int
    n_samples: int
    level_dbm0: float

class DtmfReceiver:
    def __new__(cls) -> Self: ...
    def push(self, pcm: ReadableBuffer) -> list[DtmfEvent]: ...

def generate_dtmf(
    digit: str,
    n_samples: int,
    *,
    sample_rate: int = 8000,
    level_dbm0: float = -9.0,
    twist_db: float = 0.0,
) -> bytes: ...
