from collections.abc import Callable
from typing import final, overload

@final
class Timer:
    """One deadline; `stop` forgets it."""

    @property
    def due(self) -> float: ...
    @property
    def action(self) -> Callable[..., object] | None: ...
    def stop(self) -> None: ...

@final
class Timers:
    """All deadlines of one agent."""

    def __len__(self) -> int:
        """Timers that are running."""

    @overload
    def start(self, due: float, action: Callable[[float], object], event: None = None) -> Timer:
        """Call ``action`` with ``now`` when ``due``, with ``event`` before it if that is given."""

    @overload
    def start(self, due: float, action: Callable[[str, float], object], event: str) -> Timer: ...
    def next_due(self) -> float | None: ...
    def run(self, now: float) -> int:
        """Fire what is due, in order; returns how many.

        Timers started while firing wait for the next call, so a retransmission that is overdue
        by hours (a suspended process) is sent once and not once per missed interval.
        """
