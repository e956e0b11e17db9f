"""The dialogue with hamlib's rigctld, in its extended response mode (``man rigctld``).

A command is one line with ``+`` in front; the answer repeats the command's long name, gives values
as ``Name: value``, and ends with ``RPRT n``, 0 or a negative error number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.errors import PeerError

LONGEST: Final = 4096
"""Octets of one answer."""
_ERRORS: Final = {
    1: "invalid parameter", 2: "invalid configuration", 3: "out of memory", 4: "not implemented",
    5: "communication timed out", 6: "I/O error", 7: "internal error", 8: "protocol error",
    9: "command rejected", 10: "string truncated", 11: "not available", 12: "VFO not targetable",
    13: "bus error", 14: "bus busy", 15: "invalid argument", 16: "invalid VFO", 17: "out of range",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A complete answer; `values` by name in lower case."""

    command: str
    code: int
    values: dict[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A value as a whole number. Raises `PeerError` when it is missing or none."""
        self.check()
        try:
            return int(self.values[name.lower()])
        except (KeyError, ValueError):
            raise PeerError(f"rigctld: no {name} in the answer to {self.command}") from None

    def check(self) -> None:
        """Raises `PeerError` with hamlib's reason when the command failed."""
        if self.code:
            why = _ERRORS.get(-self.code, f"error {self.code}")
            raise PeerError(f"rigctld: {self.command}: {why}", status=self.code)


def command(name: str, *arguments: object) -> bytes:
    """A command line: ``command("set_ptt", 1)``."""
    return " ".join((f"+\\{name}", *map(str, arguments))).encode("ascii") + b"\n"


class Reader:
    """Octets in any portions to answers."""

    def __init__(self) -> None:
        self._held = b""
        self._lines: list[str] = []

    def feed(self, data: bytes) -> list[Answer]:
        """Answers that are now complete. Raises `PeerError` for what no rigctld says."""
        self._held += data
        found = []
        *lines, self._held = self._held.split(b"\n")
        for octets in lines:
            line = octets.decode("ascii", "replace").strip("\r\0 ")
            if not line.startswith("RPRT"):
                self._lines.append(line)
                continue
            try:
                code = int(line[4:])
            except ValueError:
                raise PeerError(f"rigctld: {line[:40]!r} is no result") from None
            found.append(_answer(self._lines, code))
            self._lines = []
        if len(self._held) > LONGEST or sum(map(len, self._lines)) > LONGEST:
            raise PeerError("rigctld: an answer without end")
        return found


def _answer(lines: list[str], code: int) -> Answer:
    pairs = [line.partition(":") for line in lines if ":" in line]
    if not pairs:
        return Answer("", code)
    values = {name.strip().lower(): value.strip() for name, _, value in pairs[1:]}
    return Answer(pairs[0][0].strip(), code, values)
