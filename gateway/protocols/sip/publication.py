"""Event state that others publish: the compositor's half of RFC 3903, and presence documents.

`Publications` keeps what was published until it runs out.  The owner authenticates, says whose
state it is, and decides what watchers are told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from xml.parsers import expat

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip.message import Header, Request

PIDF: Final = "application/pidf+xml"
_NS: Final = "urn:ietf:params:xml:ns:pidf"
_RPID: Final = "urn:ietf:params:xml:ns:pidf:rpid"
_MOST_OCTETS: Final = 16_384
_MOST_ELEMENTS: Final = 500
_MOST_TEXT: Final = 200
_MOST_ACTIVITIES: Final = 8
ACTIVITIES: Final = frozenset(
    (
        "appointment", "away", "breakfast", "busy", "dinner", "holiday", "in-transit",
        "looking-for-work", "lunch", "meal", "meeting", "on-the-phone", "other", "performance",
        "permanent-absence", "playing", "presentation", "shopping", "sleeping", "spectator",
        "steering", "travel", "tv", "unknown", "vacation", "working", "worship",
    )
)  # fmt: skip
"""Of RFC 4480 section 3.2."""


class Presence(msgspec.Struct, frozen=True):
    """What a presence document says of its entity."""

    is_open: bool | None = None
    """Whether it can be reached by any of its tuples; None: no tuple says."""
    note: str = ""
    activities: tuple[str, ...] = ()
    """Those of RFC 4480, as they came."""


def read_presence(body: bytes) -> Presence:
    """Read ``application/pidf+xml`` (RFC 3863) with its activities (RFC 4480).

    Raises `PeerError` (400) for what is none, too large, or declares entities of its own.
    """
    if len(body) > _MOST_OCTETS:
        raise PeerError(f"a presence document of {len(body)} octets", status=413)
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    # Entities could make a small document a huge one.
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise PeerError(f"a presence document that is no XML: {error}", status=400) from None
    if not reader.is_presence:
        raise PeerError("the document is no presence", status=400)
    return Presence(reader.is_open, reader.note, tuple(dict.fromkeys(reader.activities)))


def _no_doctype(*_: object) -> None:
    raise PeerError("a presence document with a DOCTYPE", status=400)


class _Reader:
    """What expat tells."""

    def __init__(self) -> None:
        self.is_presence = False
        self.is_open: bool | None = None
        self.note = ""
        self.activities: list[str] = []
        self._path: list[str] = []
        self._text = ""
        self._n = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._n += 1
        if self._n > _MOST_ELEMENTS:
            raise PeerError("a presence document of too many elements", status=413)
        if not self._path:
            self.is_presence = name == f"{_NS} presence"
        space, _, word = name.rpartition(" ")
        parent = self._path[-1] if self._path else ""
        if (
            parent == f"{_RPID} activities"
            and space == _RPID
            and word in ACTIVITIES
            and len(self.activities) < _MOST_ACTIVITIES
        ):
            self.activities.append(word)
        self._path.append(name)
        self._text = ""

    def text(self, data: str) -> None:
        if len(self._text) < _MOST_TEXT:
            self._text += data[:_MOST_TEXT]

    def end(self, name: str) -> None:
        self._path.pop()
        text, self._text = " ".join(self._text.split())[:_MOST_TEXT], ""
        if name == f"{_NS} basic" and text.lower() in ("open", "closed"):
            self.is_open = bool(self.is_open) or text.lower() == "open"
        elif name.endswith(" note") and text and not self.note:
            self.note = "".join(sign for sign in text if sign.isprintable())


class Publication(msgspec.Struct):
    """What one publisher says of an entity."""

    etag: str
    expires_at: float
    state: Presence


class Publications:
    """Published presence of any number of entities."""

    def __init__(
        self,
        new_tag: Callable[[], str],
        *,
        min_expires: int = 60,
        max_expires: int = 3600,
        max_each: int = 10,
    ) -> None:
        """`new_tag` makes entity tags that nobody can guess; `max_each` limits the publishers of
        one entity, of which the oldest is forgotten."""
        self._new_tag = new_tag
        self._min, self._max, self._max_each = min_expires, max_expires, max_each
        self._all: dict[str, list[Publication]] = {}

    def states(self, entity: str, now: float) -> list[Presence]:
        """What holds for an entity, what was said last at the end."""
        return [p.state for p in self._all.get(entity, ()) if p.expires_at > now]

    def expire(self, now: float) -> list[str]:
        """Forget what has run out; the entities whose state changed by that."""
        changed = []
        for entity, found in list(self._all.items()):
            live = [p for p in found if p.expires_at > now]
            if len(live) == len(found):
                continue
            changed.append(entity)
            if live:
                self._all[entity] = live
            else:
                del self._all[entity]
        return changed

    def process(self, entity: str, request: Request, now: float) -> tuple[int, list[Header]]:
        """Carry out an authorized PUBLISH; status and header fields of the response
        (RFC 3903 section 6)."""
        try:
            return self._process(entity, request, now)
        except PeerError as error:
            status = error.status or 400
            return status, [("Accept", PIDF)] if status == 415 else []

    def _process(self, entity: str, request: Request, now: float) -> tuple[int, list[Header]]:
        if (request.get("event") or "").partition(";")[0].strip().lower() != "presence":
            return 489, [("Allow-Events", "presence")]
        live = [p for p in self._all.get(entity, ()) if p.expires_at > now]
        wanted = (request.get("sip-if-match") or "").strip()
        known = next((p for p in live if p.etag == wanted), None)
        if wanted and known is None:
            return 412, []
        asked = request.number("expires", 2**31)
        expires = self._max if asked is None else min(asked, self._max)
        if 0 < expires < self._min:
            return 423, [("Min-Expires", str(self._min))]
        if request.body and request.content_type != PIDF:
            raise PeerError("not a presence document", status=415)
        if known is None and not request.body:
            raise PeerError("the first PUBLISH needs a document", status=400)
        state = known.state if known is not None else Presence()
        if request.body and expires:
            state = read_presence(request.body)
        etag = self._new_tag()
        # A refresh says nothing new: it keeps its place.
        at = live.index(known) if known is not None and not request.body else len(live)
        if expires:
            live.insert(at, Publication(etag, now + expires, state))
        if known is not None:
            live.remove(known)
        if live:
            self._all[entity] = live[-self._max_each :]
        else:
            self._all.pop(entity, None)
        return 200, [("SIP-ETag", etag), ("Expires", str(expires))]
