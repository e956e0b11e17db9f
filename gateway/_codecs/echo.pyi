from typing import Self

from _typeshed import ReadableBuffer

BLOCK: int
MOST_TAPS: int

class Canceller:
    def __new__(cls, taps: int) -> Self: ...
    def cancel(self, sent: ReadableBuffer, received: ReadableBuffer) -> bytes: ...
    def forget(self) -> None: ...
