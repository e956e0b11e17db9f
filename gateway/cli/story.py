"""An event or action in a line, for people."""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.cli import show

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UNSAID: Final = ("type", "trace", "call", "demanded_at", "raised_at", "leg", "endpoint")


def sentence(body: dict[str, Any] | None) -> str:
    """``Dial fxs/1#18 number=12``: kind, whom it concerns, and the facts; empty for None."""
    if body is None:
        return ""
    data = dict(body)
    kind = str(data.get("type", ""))
    place = data.get("endpoint", "")
    if isinstance(place, dict):
        data |= {key: place[key] for key in ("condition", "reason") if place.get(key)}
        place = place.get("id", "")
    subject = data.get("leg") or place
    facts = " ".join(
        f"{key}={value}"
        for key, value in data.items()
        if key not in _UNSAID and value not in (None, "")
    )
    text = data["text"] if kind == "Note" else facts
    parts = (kind, str(subject), text)
    return UUID.sub(lambda found: show.short(found[0]), " ".join(each for each in parts if each))
