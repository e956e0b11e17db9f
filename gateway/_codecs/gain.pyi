from typing import Self

from _typeshed import ReadableBuffer

class Shaper:
    def __new__(
        cls,
        *,
        target: float = 0.0,
        most: float = 1.0,
        attack: float = 1.0,
        release: float = 1.0,
        gate: float = 0.0,
        hold_frames: int = 0,
    ) -> Self: ...
    def frame(self, pcm: ReadableBuffer) -> bytes: ...
    @property
    def gain(self) -> float: ...
