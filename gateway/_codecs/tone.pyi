from collections.abc import Iterable
from typing import NamedTuple, Self

from _typeshed import ReadableBuffer

class ToneStep(NamedTuple):
    freqs_hz: tuple[float, ...] = ()
    duration_ms: int = 0
    level_dbm0: float = -13.0
    is_am: bool = False

class TonePattern(NamedTuple):
    id: int
    freqs_hz: tuple[float, ...]
    cadence_ms: tuple[int, ...] = ()
    n_cycles: int = 2
    min_ms: int = 400

class ToneEvent(NamedTuple):
    id: int
    at_sample: int
    level_dbm0: float

class ToneGenerator:
    def __new__(
        cls,
        steps: Iterable[ToneStep],
        repeat_from: int | None = 0,
        sample_rate: int = 8000,
    ) -> Self: ...
    @property
    def is_over(self) -> bool: ...
    def read(self, n_samples: int) -> bytes: ...

class ToneDetector:
    def __new__(cls, patterns: Iterable[TonePattern], min_dbm0: float = -40.0) -> Self: ...
    def push(self, pcm: ReadableBuffer) -> list[ToneEvent]: ...
