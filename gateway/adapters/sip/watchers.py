"""Watchers: phones that subscribe to the state of others (RFC 6665).

A lamp shows any endpoint of any network: what happens there is read off the bus, and only while
somebody watches. Which calls, not with whom: that is nobody's business.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.sip.config import Phone, SipSection
from gateway.adapters.sip.natting import rebind
from gateway.adapters.sip.phones import Phones
from gateway.adapters.sip.publishers import Publishers
from gateway.core.actions import Dial
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    EndpointChanged,
    EndpointRemoved,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    Quality,
)
from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import RequestReceived, Subscribed, SubscriptionEnded
from gateway.protocols.sip.headers import parse_params
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.packages import (
    CONTENT_TYPES,
    DIALOG,
    PRESENCE,
    REG,
    SUMMARY,
    ContactState,
    DialogState,
    dialog_info,
    message_summary,
    presence,
    registration_info,
)
from gateway.protocols.sip.publication import Presence
from gateway.protocols.sip.transaction import Flow

ALLOW_EVENTS: Final[Header] = ("Allow-Events", ", ".join(CONTENT_TYPES))
# Changes that come together make one NOTIFY.
_GATHER_S: Final = 0.05
_DEFAULT_S: Final = 3600


class Watch(msgspec.Struct):
    """One subscription of a phone."""

    token: int
    package: str
    user: str
    """The phone that watches."""
    endpoint: str
    entity: str
    """What it asked for, as a SIP URI."""
    version: int = 0


class _Line(msgspec.Struct):
    """A leg as lamps show it; ids of ours name it for whoever may pick it up."""

    initiator: bool
    state: str
    call_id: str
    local_tag: str
    remote_tag: str


class Watchers:
    """Subscriptions of the phones of one adapter. Driven by the agent's events, the bus and
    `registered`; the caller pumps the agent afterwards, `follow` by itself."""

    def __init__(self, name: str, config: SipSection, host: Host, phones: Phones) -> None:
        self._name, self._config, self._host, self._phones = name, config, host, phones
        self._agent: SipAgent | None = None
        self.publishers = Publishers(
            config, host, lambda user: self._changed(f"{name}/{user}", PRESENCE)
        )
        self.pump: Callable[[], None] = lambda: None
        """Carries out what the agent wants."""
        self._watches: dict[int, Watch] = {}
        self._per_user: Counter[str] = Counter()
        self._lines: dict[str, dict[str, _Line]] = {}
        """By endpoint and leg, while the bus is followed."""
        self._waiting: dict[str, int] = {}
        """Messages by mailbox."""
        self._mailboxes = {phone.mailbox for phone in config.phones.values() if phone.mailbox}
        self._wanted = asyncio.Event()
        self._following = False
        self._dirty: set[int] = set()
        self._flush: asyncio.TimerHandle | None = None

    def use(self, agent: SipAgent | None) -> None:
        """Serve with an agent; None: tell everybody that it is over."""
        if agent is None and self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._agent = agent
        self._watches.clear()
        self._per_user.clear()
        self._dirty.clear()

    def end_all(self, now: float) -> None:
        """Tell everybody to come again later (RFC 6665 section 4.2.2)."""
        for watch in list(self._watches.values()):
            if self._agent:
                self._agent.notify(
                    watch.token, "", b"", now, state="terminated", reason="deactivated"
                )

    # Subscriptions

    def requested(self, event: RequestReceived, now: float) -> None:
        """A SUBSCRIBE outside of any dialog."""
        agent, request = self._agent, event.message
        if agent is None:
            return
        asked = request.number("expires", 2**31)
        expires = _DEFAULT_S if asked is None else asked
        most = min(expires, self._config.max_expires_s)
        try:
            status, watch = self._judge(request, event.identity)
            if watch is not None:
                watch.token = agent.accept_subscription(event.request, most, now)
        except PeerError as error:
            status, watch = error.status or 400, None
        except UsageError:
            # All the room for subscriptions is taken.
            status, watch = 503, None
        if watch is None:
            self._host.count("watchers_refused")
            headers = [ALLOW_EVENTS] if status == 489 else []
            if status == 503:
                headers.append(("Retry-After", "60"))
            agent.respond(event.request, status, now, headers=headers)
            return
        if expires == 0:
            # It asks once (RFC 6665 section 4.4.3).
            self._tell(watch, now, last=True)
            return
        self._watches[watch.token] = watch
        self._per_user[watch.user] += 1
        self._want()
        self._tell(watch, now)

    def _judge(self, request: Request, user: str) -> tuple[int, Watch | None]:
        """What to answer, and what is watched if it may be."""
        package = (request.get("event") or "").partition(";")[0].strip().lower()
        phone = self._config.phones.get(user)
        if package not in CONTENT_TYPES:
            return 489, None
        if phone is None:
            return 403, None
        accepted = {value.partition(";")[0].strip().lower() for value in request.values("accept")}
        if accepted and not accepted & {CONTENT_TYPES[package], "*/*", "application/*"}:
            return 406, None
        wanted = request.uri.user.partition(";")[0]
        endpoint = self._find(wanted)
        if endpoint is None:
            return 404, None
        own = f"{self._name}/{user}" == endpoint.id
        if package in (SUMMARY, REG) and not own:
            return 403, None
        if not own and not _any(phone.watches, endpoint.id):
            return 403, None
        if self._per_user[user] >= self._config.max_subscriptions:
            return 503, None
        entity = request.uri.text.partition(";")[0].partition("?")[0]
        return 200, Watch(0, package, user, endpoint.id, entity)

    def _find(self, wanted: str) -> Endpoint | None:
        """The endpoint that a name stands for: its id, a phone of ours, or a number."""
        places = self._host.directory()
        for match in (
            lambda place: place.id == wanted,
            lambda place: place.id == f"{self._name}/{wanted}",
            lambda place: bool(wanted) and place.number == wanted,
        ):
            found = next(filter(match, places), None)
            if found:
                return found
        return None

    def refreshed(self, event: Subscribed, now: float) -> None:
        """Each refresh is answered with the state (RFC 6665 section 4.2.1.3)."""
        watch = self._watches.get(event.token)
        if watch:
            self._tell(watch, now)

    def ended(self, event: SubscriptionEnded) -> None:
        """A subscription is over, whoever ended it."""
        watch = self._watches.pop(event.token, None)
        if watch:
            self._dirty.discard(watch.token)
            self._per_user[watch.user] -= 1
            if not self._per_user[watch.user]:
                del self._per_user[watch.user]

    def rebound(self, user: str, changes: list[tuple[Flow, Flow]]) -> None:
        """A phone registered anew from behind another port of its NAT."""
        assert self._agent is not None
        tokens = [watch.token for watch in self._watches.values() if watch.user == user]
        rebind(self._agent, tokens, changes)

    def _published(self, endpoint: str, now: float) -> Presence:
        adapter, _, user = endpoint.partition("/")
        return self.publishers.told(user, now) if adapter == self._name else Presence()

    def registered(self, user: str) -> None:
        """The bindings of a phone changed."""
        self._changed(f"{self._name}/{user}", REG)

    # What is told

    def _tell(self, watch: Watch, now: float, *, last: bool = False) -> None:
        assert self._agent is not None
        body = self._body(watch, now)
        watch.version += 1
        state, reason = ("terminated", "timeout") if last else ("active", "")
        self._agent.notify(
            watch.token, CONTENT_TYPES[watch.package], body, now, state=state, reason=reason
        )

    def _body(self, watch: Watch, now: float) -> bytes:
        phone = self._config.phones[watch.user]
        place = next((p for p in self._host.directory() if p.id == watch.endpoint), None)
        match watch.package:
            case "dialog":
                return dialog_info(watch.entity, watch.version, self._dialogs(watch, phone))
            case "message-summary":
                return message_summary(watch.entity, self._waiting.get(phone.mailbox, 0))
            case "presence":
                reachable = place is not None and place.condition is Condition.UP
                busy = any(line.state != "terminated" for line in self._of(watch.endpoint).values())
                told = self._published(watch.endpoint, now)
                activities = dict.fromkeys((*(["on-the-phone"] if busy else ()), *told.activities))
                return presence(
                    watch.entity,
                    reachable=reachable and told.is_open is not False,
                    notes=[note for note in ("On the phone" if busy else "", told.note) if note],
                    activities=list(activities),
                )
            case _:
                bindings = self._phones.bindings(watch.user, now)
                contacts = [
                    ContactState(f"c{n}", binding.contact, max(0, int(binding.expires_at - now)))
                    for n, binding in enumerate(bindings, 1)
                ]
                return registration_info(watch.entity, watch.version, contacts)

    def _dialogs(self, watch: Watch, phone: Phone) -> list[DialogState]:
        """The lines of an endpoint; named by our ids for whoever may pick up."""
        told = []
        for leg, line in self._of(watch.endpoint).items():
            ids = ("", "", "")
            if _rings(line) and _any(phone.picks_up, watch.endpoint):
                ids = (line.call_id, line.local_tag, line.remote_tag)
            told.append(DialogState(leg, line.state, line.initiator, *ids))
        return told

    def picked_up(self, replaces: str, user: str) -> str:
        """The leg that a Replaces header names by ids of ours, if that phone may pick it up and it
        still rings; else empty."""
        phone = self._config.phones.get(user)
        call_id, semi, rest = replaces.partition(";")
        try:
            params = parse_params(semi + rest) if semi else {}
        except PeerError:
            return ""
        tags = {params.get("to-tag", ""), params.get("from-tag", "")}
        for endpoint, lines in self._lines.items():
            for leg, line in lines.items():
                if call_id.strip() == line.call_id and tags == {line.local_tag, line.remote_tag}:
                    may = phone is not None and _any(phone.picks_up, endpoint)
                    return leg if may and _rings(line) else ""
        return ""

    # What happens

    def _want(self) -> None:
        """Follow the bus from now on. What has begun already is taken for a call."""
        if self._following or not (self._watches or self._mailboxes):
            return
        self._following = True
        self._seed()
        self._wanted.set()

    async def follow(self) -> None:
        """Read the bus while somebody watches; until cancelled."""
        self._following = False
        self._wanted.clear()
        self._want()
        while True:
            await self._wanted.wait()
            feed = self._host.subscribe()
            self._seed()
            missed = 0
            try:
                async for envelope in feed:
                    self._take(envelope)
                    if feed.dropped != missed:
                        missed = feed.dropped
                        self._seed()
                    if not self._watches and not self._mailboxes:
                        break
            finally:
                feed.close()
            self._following = False
            self._wanted.clear()
            self._lines.clear()

    def _seed(self) -> None:
        """Take the legs that are open now; which state those are in that we did not see begin
        nobody can say, but they are in use."""
        still = set(self._host.open_legs())
        for endpoint, lines in list(self._lines.items()):
            for leg in [leg for leg in lines if leg not in still]:
                self._over(endpoint, leg)
        for leg in still:
            endpoint = leg.rpartition("#")[0]
            if leg not in self._of(endpoint):
                self._begin(endpoint, leg, initiator=True, state="confirmed")

    def _of(self, endpoint: str) -> dict[str, _Line]:
        return self._lines.get(endpoint, {})

    def _take(self, envelope: Envelope) -> None:
        body = envelope.event if envelope.event is not None else envelope.action
        match body:
            case LegOffered(leg=leg, endpoint=endpoint):
                self._begin(endpoint, leg, initiator=True, state="trying")
            case Dial(leg=leg, endpoint=endpoint):
                self._begin(endpoint, leg, initiator=False, state="trying")
            case LegRinging(leg=leg):
                self._move(leg, "early")
            case LegAnswered(leg=leg):
                self._move(leg, "confirmed")
            case LegEnded(leg=leg):
                self._over(leg.rpartition("#")[0], leg)
            case EndpointChanged(endpoint=place):
                self._changed(place.id, PRESENCE)
            case EndpointRemoved(endpoint=name):
                self._changed(name, PRESENCE)
            case InputChanged(quality=Quality.GOOD):
                self._input(f"{body.endpoint}:{body.input}", body.value)
            case _:
                pass

    def _begin(self, endpoint: str, leg: str, *, initiator: bool, state: str) -> None:
        ids = [os.urandom(8).hex() for _ in range(3)]
        self._lines.setdefault(endpoint, {})[leg] = _Line(initiator, state, *ids)
        self._changed(endpoint, DIALOG, PRESENCE)

    def _move(self, leg: str, state: str) -> None:
        endpoint = leg.rpartition("#")[0]
        line = self._of(endpoint).get(leg)
        if line is not None and line.state != state:
            line.state = state
            self._changed(endpoint, DIALOG)

    def _over(self, endpoint: str, leg: str) -> None:
        lines = self._of(endpoint)
        line = lines.get(leg)
        if line is None:
            return
        if any(watch.endpoint == endpoint for watch in self._watches.values()):
            # Shown once more: some telephones keep a lamp lit until they are told.
            line.state = "terminated"
            self._changed(endpoint, DIALOG, PRESENCE)
        else:
            self._forget(endpoint, leg)

    def _forget(self, endpoint: str, leg: str) -> None:
        lines = self._lines[endpoint]
        del lines[leg]
        if not lines:
            del self._lines[endpoint]

    def _input(self, mailbox: str, value: float) -> None:
        if mailbox not in self._mailboxes or value != value:
            return
        self._waiting[mailbox] = max(0, min(int(value), 999_999))
        for user, phone in self._config.phones.items():
            if phone.mailbox == mailbox:
                self._changed(f"{self._name}/{user}", SUMMARY)

    def _changed(self, endpoint: str, *packages: str) -> None:
        for watch in self._watches.values():
            if watch.endpoint == endpoint and watch.package in packages:
                self._dirty.add(watch.token)
        if self._dirty and self._flush is None:
            loop = asyncio.get_running_loop()
            self._flush = loop.call_later(_GATHER_S, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        dirty, self._dirty = self._dirty, set()
        now = self._host.now()
        for token in dirty:
            watch = self._watches.get(token)
            if watch is None or self._agent is None:
                continue
            try:
                self._tell(watch, now)
            except UsageError:
                # It ended meanwhile; the agent's event says so.
                self._host.count("too_late")
        for endpoint, lines in list(self._lines.items()):
            for leg in [leg for leg, line in lines.items() if line.state == "terminated"]:
                self._forget(endpoint, leg)
        self.pump()


def _any(patterns: tuple[str, ...], endpoint: str) -> bool:
    return any(fnmatchcase(endpoint, pattern) for pattern in patterns)


def _rings(line: _Line) -> bool:
    """Whether it can be picked up."""
    return not line.initiator and line.state in ("trying", "early")
