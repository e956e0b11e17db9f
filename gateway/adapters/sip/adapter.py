"""The SIP adapter: our own agent between sockets and the bus.

Phones register here with digest and call each other and everything else; trunks are other
exchanges, registered with or known by address.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.adapters.base import Adapter, Host
from gateway.adapters.sip.book import RETRY_AFTER_S
from gateway.adapters.sip.calls import Calls
from gateway.adapters.sip.config import SipSection
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.identity import (
    Caller,
    called_of,
    clean,
    from_value,
    half_of,
    number_of,
)
from gateway.adapters.sip.keying import doubts
from gateway.adapters.sip.mailboxes import Mailboxes
from gateway.adapters.sip.natting import moves
from gateway.adapters.sip.outbound import MOST_HOPS
from gateway.adapters.sip.phones import Phones
from gateway.adapters.sip.trunks import Trunks
from gateway.adapters.sip.watchers import Watchers
from gateway.adapters.sip.wires import Wires
from gateway.core.actions import (
    Answer,
    Dial,
    Hangup,
    Hold,
    Progress,
    ReportTransfer,
    Retrieve,
    Ring,
    SendDigits,
    SendMessage,
)
from gateway.core.endpoints import Endpoint
from gateway.core.events import MessageReceived
from gateway.core.ids import trace_of
from gateway.errors import DeviceError, UsageError
from gateway.protocols.sdp import Direction
from gateway.protocols.sip import events as sip
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.core import SipConfig
from gateway.protocols.sip.gate import Admit, Refuse, Verdict
from gateway.protocols.sip.message import Request
from gateway.protocols.sip.names import ACK
from gateway.protocols.sip.sessionid import session_id, session_id_of
from gateway.protocols.sip.transaction import Flow

_GOODBYE_S: Final = 1.0
"""How long far ends get to confirm BYE and the end of registrations when we stop."""
_SAVING_S: Final = 2.0
"""How long a stop waits for the disk."""
_BEAT_S: Final = 1.0
_TICK_S: Final = 0.02
_MOST_TEXTS: Final = 1000


class Sip(Adapter):
    """Phones and trunks over SIP."""

    kind = "sip"
    Config = SipSection

    def __init__(self, name: str, config: SipSection, host: Host) -> None:
        super().__init__(name, config, host)
        self._door = Door(config, host.count, host.log)
        self._phones = Phones(name, config, host)
        self._wires = Wires(config, host, self._pump)
        self._wires.admits, self._wires.trusts = self._door.admits, self._door.trusts
        self._door.names_at = self._wires.names_at
        self._trunks = Trunks(name, config, host, self._door, self._wires)
        self._calls = Calls(name, config, host, self._phones, self._trunks, self._wires)
        self._door.guessed = self._calls.guessed
        self._mailboxes = Mailboxes(name, config, host, self._trunks)
        self._watchers = Watchers(name, config, host, self._phones)
        self._watchers.pump = self._pump
        self._calls.referrals.picked_up = self._watchers.picked_up
        self._agent: SipAgent | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._texts: dict[int, str] = {}
        """Whom a text that waits for its answer is for."""
        self._pumping = False
        self._pump_due = False
        """It is to be pumped in the next turn of the loop."""
        self._closing: list[int] = []
        """Connections to be closed after what is queued for them."""
        self._stopping = False

    def endpoints(self) -> Iterable[Endpoint]:
        for user in self.config.phones:
            yield self._phones.endpoint(user)
        for trunk in self.config.trunks:
            yield self._trunks.endpoint(trunk)

    def doubts(self) -> Iterable[tuple[tuple[str, ...], str, str]]:
        return doubts(self.config)

    @property
    def ports(self) -> dict[str, int]:
        """Listening port by transport, once `run` has opened them."""
        return self._wires.ports

    def holds(self) -> Mapping[str, int]:
        agent = self._agent
        if agent is None:
            return {}
        core = agent.core
        return {
            "transactions": len(core.clients) + len(core.servers),
            "dialogs": len(core.dialogs),
            "sessions": len(core.sessions),
            "pending": len(core.pending) + len(core.invited) + len(core.kept),
            "subscriptions": len(core.subscriptions),
            "connections": len(core.connections),
        }

    async def run(self) -> None:
        self._stopping = False
        try:
            await self._wires.open()
            agent = SipAgent(
                SipConfig(
                    host=self.config.public_ip or "127.0.0.1",
                    ports=self._wires.ports,
                    session_expires=self.config.session_expires_s,
                    stream_over=self.config.tcp_above,
                    other_replaces=True,
                ),
                self._admit,
                self._wires.advertise,
            )
            self._agent = self._wires.agent = agent
            self._calls.use(agent)
            self._watchers.use(agent)
            now = self.host.now()
            self._phones.load(now)
            self._phones.announce_all(now)
            for trunk in self.config.trunks:
                self.host.create_task(
                    self._trunks.watch(trunk, agent, self._pump), name=f"trunk {trunk}"
                )
            if self.config.phones and self.config.max_subscriptions:
                self.host.create_task(self._watchers.follow(), name="lamps")
            self.host.ready()
            while True:
                self._phones.beat(agent, self.host.now())
                self._wires.keys.refresh()
                self._calls.beat(self.host.now())
                self._mailboxes.beat(agent, self.host.now())
                self._watchers.publishers.beat(self.host.now())
                self._pump()
                await asyncio.sleep(_BEAT_S)
        finally:
            await self._stop()

    def _admit(self, request: Request, flow: Flow, now: float) -> Verdict:
        if self._stopping and request.method != ACK:
            return Refuse(503, [("Retry-After", str(RETRY_AFTER_S))])
        verdict = self._door(request, flow, now)
        if flow.connection and isinstance(verdict, Admit) and verdict.identity:
            self._wires.proven(flow.connection)
        return verdict

    async def _stop(self) -> None:
        self._stopping = True
        agent = self._agent
        try:
            if agent is not None:
                self._calls.end_all()
                self._watchers.end_all(self.host.now())
                self._mailboxes.stop(agent, self.host.now())
                self._trunks.stop(agent, self.host.now())
                self._pump()
                await self._farewell(agent)
                await self._phones.save(self.host.now(), _SAVING_S)
        finally:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            self._agent = self._wires.agent = None
            self._calls.use(None)
            self._watchers.use(None)
            self._wires.close()

    async def _farewell(self, agent: SipAgent) -> None:
        """Wait for the answers to our goodbyes: a lost BYE leaves a far end in a dead call."""
        deadline = self.host.now() + _GOODBYE_S
        while self.host.now() < deadline:
            if not any(
                client.state in ("calling", "trying", "proceeding")
                for key, client in agent.core.clients.items()
                if key[1] in ("BYE", "REGISTER", "CANCEL")
            ):
                return
            await asyncio.sleep(0.01)

    # Driving the agent

    def _pump(self) -> None:
        """Carry out what the agent wants: events first, then octets, then the next alarm clock."""
        agent = self._agent
        self._pump_due = False
        if self._pumping or agent is None:
            return
        self._pumping = True
        try:
            events, sends = agent.core.events, agent.core.sends
            while True:
                if events:
                    self._take(events.popleft())
                elif sends:
                    self._wires.send(sends.popleft())
                else:
                    break
            # What is said last to a broken stream is still sent.
            while self._closing:
                self._wires.hang_up(self._closing.pop())
        finally:
            self._pumping = False
        if agent.counters:
            for name, n in agent.counters.items():
                self.host.count(name, n)
            agent.counters.clear()
        due = agent.next_timeout()
        if due is None:
            return
        # Several transactions end, and are repeated, in one tick; none of their times is finer.
        due = math.ceil(due / _TICK_S) * _TICK_S
        # A timer that fires early costs less than setting it anew for each message.
        if self._timer is None or due < self._due:
            if self._timer:
                self._timer.cancel()
            self._due = due
            wait = max(0.0, self._due - self.host.now())
            self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _pump_soon(self) -> None:
        """After an action: once for all that come of the same events."""
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _tick(self) -> None:
        self._timer = None
        if self._agent:
            self._agent.tick(self.host.now())
            self._pump()

    def _take(self, event: sip.Event) -> None:
        """One event; what goes wrong with it must not touch the other calls."""
        try:
            self._happened(event)
        except UsageError as error:
            # It crossed with another one of the same read: a CANCEL right behind its INVITE.
            self.host.count("too_late")
            self.host.log.debug("too late", type=type(event).__name__, why=str(error))
        except Exception as error:
            self.host.count("faults")
            self.host.log.error(
                "event failed", type=type(event).__name__, error=repr(error), exc_info=error
            )

    def _happened(self, event: sip.Event) -> None:
        match event:
            case sip.Invited():
                self._calls.invited(event)
            case sip.RequestReceived():
                self._requested(event)
            case sip.Registered() | sip.RegistrationFailed():
                self._trunks.took(event)
            case sip.ResponseReceived():
                if not self._answered(event) and not self._trunks.took(event):
                    self._phones.took(event, self.host.now())
            case sip.CloseConnection(connection=connection):
                self._closing.append(connection)
            case sip.Referred():
                self._calls.referred(event)
            case sip.Subscribed():
                self._watchers.refreshed(event, self.host.now())
            case sip.Notified():
                self._mailboxes.took(event)
            case sip.SubscriptionEnded():
                if not self._mailboxes.took(event):
                    self._watchers.ended(event)
            case _:
                self._calls.moved(event)

    # Actions

    def dial(self, action: Dial) -> None:
        self._calls.dial(action)
        self._pump_soon()

    def ring(self, action: Ring) -> None:
        self._calls.ring(action.leg)
        self._pump_soon()

    def progress(self, action: Progress) -> None:
        self._calls.progress(action.leg)
        self._pump_soon()

    def answer(self, action: Answer) -> None:
        self._calls.answer(action.leg)
        self._pump_soon()

    def hangup(self, action: Hangup) -> None:
        self._calls.hangup(action.leg, action.cause, action.detail)
        self._pump_soon()

    def hold(self, action: Hold) -> None:
        way = Direction.INACTIVE if action.silent else Direction.SENDONLY
        self._calls.hold(action.leg, way)
        self._pump_soon()

    def retrieve(self, action: Retrieve) -> None:
        self._calls.hold(action.leg, None)
        self._pump_soon()

    def report_transfer(self, action: ReportTransfer) -> None:
        self._calls.report_transfer(action)
        self._pump_soon()

    def send_digits(self, action: SendDigits) -> None:
        self._calls.send_digits(action.leg, action.digits)
        self._pump_soon()

    def safe_state(self) -> None:
        """A telephone network has no outputs that could do harm."""

    # Requests outside of calls

    def _requested(self, event: sip.RequestReceived) -> None:
        now, request, agent = self.host.now(), event.message, self._calls.agent
        if request.method == "REGISTER" and event.identity in self.config.phones:
            before = self._phones.addresses(event.identity, now)
            status, headers = self._phones.register(event.identity, request, event.flow, now)
            agent.respond(event.request, status, now, headers=headers)
            after = self._phones.addresses(event.identity, now)
            if changes := moves(before, after, event.flow):
                self._calls.rebound(event.identity, changes)
                self._watchers.rebound(event.identity, changes)
            self._watchers.registered(event.identity)
        elif request.method == "REGISTER":
            agent.respond(event.request, 403, now)
        elif request.method == "MESSAGE":
            self._message(event)
        elif request.method == "SUBSCRIBE":
            self._watchers.requested(event, now)
        elif request.method == "PUBLISH":
            self._watchers.publishers.requested(agent, event, now)
        else:
            agent.respond(event.request, 501, now)

    def _message(self, event: sip.RequestReceived) -> None:
        now, request, agent = self.host.now(), event.message, self._calls.agent
        sender = event.identity
        if not sender and event.session is not None:
            leg = self._calls.of_session(event.session)
            sender = leg.user if leg else ""
        if not sender:
            agent.respond(event.request, 403, now)
            return
        if request.content_type not in ("text/plain", ""):
            agent.respond(event.request, 415, now, headers=[("Accept", "text/plain")])
            return
        trunk = self.config.trunks.get(sender)
        recipient = called_of(request, trunk.user if trunk else "")
        if not self._calls.may_text(sender, recipient):
            self.host.count("messages_refused")
            status = 503 if sender in self.config.trunks else 403
            agent.respond(event.request, status, now)
            return
        agent.respond(event.request, 202, now)
        phone = self.config.phones.get(sender)
        hops = request.number("max-forwards")
        text = request.body.decode("utf-8", "replace")[:4096]
        self.host.emit(
            MessageReceived(
                endpoint=f"{self.name}/{sender}",
                sender=(phone.number if phone else "") or number_of(request.from_.uri),
                recipient=recipient,
                text="\n".join(clean(line, 4096) for line in text.splitlines()),
                # A text that somebody traces already goes on under that id (RFC 7989).
                trace=trace_of(session_id_of(request)) or self.host.new_trace(),
                hops=MOST_HOPS if hops is None else min(hops, MOST_HOPS),
            )
        )

    def send_message(self, action: SendMessage) -> None:
        user = action.endpoint.partition("/")[2]
        now, agent = self.host.now(), self._calls.agent
        caller = Caller(action.sender, "") if action.sender else None
        headers = [session_id(half_of(action.trace))] if action.trace else []
        if user in self.config.trunks:
            if not self._trunks.takes(user, "out"):
                self.host.count("messages_refused")
                limit = self.config.trunks[user].calls_per_s
                raise DeviceError(
                    f"{action.endpoint}: more than {limit:g} texts and calls a second"
                )
            host = self._trunks.host(user)
            token = agent.message(
                self._trunks.target(user, action.recipient),
                action.text,
                now,
                from_=from_value(host, caller) if caller else "",
                flow=next(iter(self._trunks.flows(user)), None),
                routes=self._trunks.routes(user),
                headers=headers,
                credentials=self._trunks.credentials(user),
                max_forwards=action.hops,
            )
            self._sent(token, action)
        else:
            bindings = self._phones.reachable(user, now)
            if not bindings:
                raise DeviceError(f"{action.endpoint} is not registered")
            for binding in bindings:
                host = self._wires.source_towards(binding.flow.host)
                token = agent.message(
                    binding.contact,
                    action.text,
                    now,
                    from_=from_value(host, caller) if caller else "",
                    flow=binding.flow,
                    routes=binding.path,
                    headers=headers,
                    max_forwards=action.hops,
                )
                self._sent(token, action)
        self._pump()

    def _sent(self, token: int, action: SendMessage) -> None:
        """Remember a text until its answer comes."""
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[token] = action.endpoint

    def _answered(self, event: sip.ResponseReceived) -> bool:
        """The answer to a text of ours; False when it is none."""
        endpoint = self._texts.pop(event.token, "")
        if endpoint and event.response.status >= 300:
            self.host.count("messages_failed")
            self.host.log.warning(
                "a text was not delivered", endpoint=endpoint, status=event.response.status
            )
        return bool(endpoint)
