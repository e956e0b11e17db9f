from typing import Literal, Self

from _typeshed import ReadableBuffer

def modulate(
    message: ReadableBuffer,
    standard: Literal["bell202", "v23"] = "bell202",
    *,
    sample_rate: int = 8000,
    level_dbm0: float = -13.5,
    seizure_bits: int = 300,
    mark_bits: int = 180,
    tail_bits: int = 20,
) -> bytes: ...

class FskReceiver:
    def __new__(
        cls, standard: Literal["bell202", "v23"] = "bell202", sample_rate: int = 8000
    ) -> Self: ...
    def push(self, pcm: ReadableBuffer) -> bytes: ...
    @property
    def has_carrier(self) -> bool: ...
    @property
    def n_framing(self) -> int: ...
