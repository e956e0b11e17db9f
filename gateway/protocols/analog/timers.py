"""Named deadlines of one port."""

from __future__ import annotations


class Timers:
    """Deadlines by name; each is set again, cancelled, or taken once when due."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def start(self, name: str, at: float) -> None:
        """Set or move a deadline."""
        self._due[name] = at

    def stop(self, *names: str) -> None:
        """Cancel; unknown names are ignored."""
        for name in names:
            self._due.pop(name, None)

    def clear(self) -> None:
        """Cancel all."""
        self._due.clear()

    def running(self, name: str) -> bool:
        """Whether this one is set."""
        return name in self._due

    def next(self) -> float | None:
        """The earliest deadline."""
        return min(self._due.values(), default=None)

    def take(self, now: float) -> tuple[str, float] | None:
        """The earliest that is due, with its time; it is then gone."""
        due = [(at, name) for name, at in self._due.items() if at <= now]
        if not due:
            return None
        at, name = min(due)
        del self._due[name]
        return name, at
