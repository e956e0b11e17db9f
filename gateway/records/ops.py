"""What the recorder asks the store to do; plain data, so that it can be spilled to a file."""

from __future__ import annotations

import msgspec

from gateway.records.tables import CallRecord, LegRecord, StreamRecord


class PutLeg(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Store a leg that is over."""

    record: LegRecord
    replace: bool = True
    """False: leave the row alone if there is one."""

    @property
    def key(self) -> tuple[str, str]:
        """A later operation of the same key makes an earlier one needless."""
        return "leg", self.record.id


class PutStream(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Store the last counters of a leg's stream."""

    record: StreamRecord

    @property
    def key(self) -> tuple[str, str]:
        """See `PutLeg.key`."""
        return "stream", self.record.id


class PutCall(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Store a call that is over."""

    record: CallRecord
    replace: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """See `PutLeg.key`."""
        return "call", self.record.id


class PutOpen(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Save the state of a call that is not over."""

    id: str
    box: str
    run: str
    """Which run of the gateway the call lives in."""
    data: str

    @property
    def key(self) -> tuple[str, str]:
        """See `PutLeg.key`."""
        return "open", self.id


class Forget(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """Delete that state."""

    id: str

    @property
    def key(self) -> tuple[str, str]:
        """See `PutLeg.key`."""
        return "open", self.id


class Beat(msgspec.Struct, frozen=True, tag=True, kw_only=True, gc=False):
    """The box lived at this moment."""

    box: str
    run: str
    at: float
    mono: float

    @property
    def key(self) -> tuple[str, str]:
        """See `PutLeg.key`."""
        return "beat", self.box


StoreOp = PutLeg | PutStream | PutCall | PutOpen | Forget | Beat


class Unfinished(msgspec.Struct, kw_only=True):
    """What earlier runs of a box left behind."""

    run: str = ""
    """The run that made the last checkpoint."""

    at: float = 0.0
    """Wall clock of its last checkpoint; 0 when there was none."""
    mono: float = 0.0
    calls: dict[str, str] = {}
    """Saved states of calls, by `PutOpen.id`."""
