from typing import Self

from _typeshed import ReadableBuffer

class Resampler:
    def __new__(cls, from_hz: int, to_hz: int) -> Self: ...
    def convert(self, pcm: ReadableBuffer) -> bytes: ...
