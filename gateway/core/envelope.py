"""What an event or action wears outside the switchboard: CloudEvents 1.0 attributes.

The journal stores envelopes, publishers send them, `gateway events` shows them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.core.actions import Action
from gateway.core.endpoints import Endpoint
from gateway.core.events import Event


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event or action with when, where and which trace."""

    id: str
    """UUIDv7: sorts by time, unique over all boxes."""
    box: str
    """Name of this gateway box."""
    at: float
    """Wall clock, seconds since 1970 (UTC)."""
    mono: float
    """Monotonic clock of the running gateway, as passed to the switchboard."""
    trace: str = ""
    call: str = ""
    adapter: str = ""
    """Who emitted the event, or carries out the action."""
    event: Event | None = None
    action: Action | None = None
    """Exactly one of `event` and `action` is set."""

    @property
    def body(self) -> Event | Action:
        """The event or the action."""
        body = self.event if self.event is not None else self.action
        assert body is not None, "an envelope carries an event or an action"
        return body

    @property
    def subject(self) -> str:
        """Leg, endpoint or adapter that the body speaks of."""
        for name in ("leg", "endpoint", "adapter", "bridge", "call"):
            value: object = getattr(self.body, name, None)
            if isinstance(value, Endpoint):
                return value.id
            if isinstance(value, str) and value:
                return value
        return ""

    def cloudevent(self) -> dict[str, Any]:
        """The structured-mode JSON object of CloudEvents 1.0 (JSON format 1.0.2)."""
        kind = "event" if self.event is not None else "action"
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": f"//{self.box}/{self.adapter}" if self.adapter else f"//{self.box}",
            "type": f"crosspoint.{kind}.{type(self.body).__name__}",
            "time": datetime.fromtimestamp(self.at, UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": msgspec.to_builtins(self.body),
        }
        document["data"].pop("type", None)
        if self.subject:
            document["subject"] = self.subject
        # Extension attribute names are lower-case letters and digits only.
        if self.trace:
            document["trace"] = self.trace
        if self.call:
            document["call"] = self.call
        return document


decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
"""An envelope of its JSON. Raises `msgspec.MsgspecError`, `UnicodeDecodeError`."""
# Made once, while modules are imported: msgspec looks a type up when it is first decoded, and two
# threads that do so at the same time crash the process.
