from typing import Self

class Framer:
    def __new__(
        cls,
        in_fd: int,
        out_fd: int,
        prefix: bytes,
        *,
        frame_bytes: int,
        step: int,
        count: int = 0,
    ) -> Self: ...
    def forward(self, on: bool) -> None: ...
    def counts(self) -> tuple[int, int, int, int]: ...
    def close(self) -> None: ...
