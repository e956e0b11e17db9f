"""Events for people: filters, secrets hidden, CloudEvents as JSON lines."""

from __future__ import annotations

import difflib
import fnmatch
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from gateway.control.questions import EventsQuery
from gateway.core.actions import Action, Command, SendDigits
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import DigitPressed, Event
from gateway.errors import UsageError
from gateway.journal import Reader

BATCH: Final = 500
TYPES: Final = sorted(each.__name__ for each in (*get_args(Event), *get_args(Action)))
"""What an event or action may be."""


class Filter:
    """Which envelopes a question wants. Raises `UsageError` for a type that there is not."""

    def __init__(self, query: EventsQuery) -> None:
        self._types = [text.strip() for text in query.type.split(",") if text.strip()]
        self._query = query
        for pattern in self._types:
            if not fnmatch.filter(TYPES, pattern):
                close = difflib.get_close_matches(pattern, TYPES, n=2)
                hint = f": did you mean {' or '.join(close)}?" if close else ""
                raise UsageError(f"nothing that happens is called {pattern}{hint}")

    def __call__(self, envelope: Envelope) -> bool:
        query, body = self._query, envelope.body
        if self._types:
            name = type(body).__name__
            if not any(fnmatch.fnmatch(name, pattern) for pattern in self._types):
                return False
        if query.adapter and query.adapter != envelope.adapter:
            return False
        if query.call and not _ends(envelope.call or getattr(body, "call", ""), query.call):
            return False
        if query.trace and not _ends(envelope.trace or getattr(body, "trace", ""), query.trace):
            return False
        if query.leg and getattr(body, "leg", None) != query.leg:
            return False
        return not query.endpoint or any(
            fnmatch.fnmatchcase(place, query.endpoint) for place in _places(body)
        )


def past(directory: Path, query: EventsQuery) -> Iterator[Envelope]:
    """The envelopes of the journal that are wanted, oldest first. Reads files: for a thread."""
    # Whole ids let the reader pass over other lines unparsed.
    whole = {
        name: value
        for name, value in (("trace", query.trace), ("call", query.call), ("leg", query.leg))
        if value and (name == "leg" or len(value) == 36)
    }
    reader = Reader(directory, since=query.since, until=query.until, **whole)
    found = filter(Filter(query), reader.poll())
    return iter(deque(found, query.last)) if query.last else found


def batch(envelopes: Iterator[Envelope], *, keep_digits: bool) -> tuple[list[bytes], str]:
    """Some lines of a history, and the id of the last; none at its end."""
    some = list(islice(envelopes, BATCH))
    return [line(each, keep_digits=keep_digits) for each in some], some[-1].id if some else ""


def line(envelope: Envelope, *, keep_digits: bool) -> bytes:
    """One envelope as a CloudEvent, without what nobody may read over a shoulder."""
    document = envelope.cloudevent()
    body, data = envelope.body, document["data"]
    if isinstance(body, Command) and body.code:
        data["code"] = "?"
    elif isinstance(body, DigitPressed) and not keep_digits:
        data["digit"] = "?"
    elif isinstance(body, SendDigits) and not keep_digits:
        data["digits"] = "?" * len(body.digits)
    return encode(document)


def dropped(n: int, box: str) -> bytes:
    """The line that says that the reader was too slow."""
    return encode(
        {
            "specversion": "1.0",
            "id": f"dropped-{n}",
            "source": f"//{box}",
            "type": "crosspoint.control.Dropped",
            "data": {"dropped": n},
        }
    )


def encode(document: dict[str, Any]) -> bytes:
    """A JSON line."""
    try:
        return msgspec.json.encode(document) + b"\n"
    except UnicodeEncodeError:
        # Lone surrogates come from octets of a peer that were no UTF-8.
        import json

        return json.dumps(document).encode() + b"\n"


def _ends(identity: str, wanted: str) -> bool:
    return bool(identity) and identity.endswith(wanted.lower())


def _places(body: object) -> Iterator[str]:
    place = getattr(body, "endpoint", None)
    if isinstance(place, Endpoint):
        yield place.id
    elif isinstance(place, str):
        yield place
    leg = getattr(body, "leg", None)
    if isinstance(leg, str):
        yield leg.rpartition("#")[0]
    for name in ("origin", "target"):
        text = getattr(body, name, None)
        if isinstance(text, str):
            yield text.partition(":")[0]
