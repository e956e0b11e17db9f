"""Mqtt: the adapter.

Received messages are decoded in the network thread, applied in the event loop, and only then
confirmed to the broker: an alarm that the gateway did not take in is delivered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TypeVar, cast

import msgspec

from gateway.adapters.base import Adapter, Host, Subscription
from gateway.adapters.mqtt.config import Availability, Panel
from gateway.adapters.mqtt.config import Config as MqttConfig
from gateway.adapters.mqtt.faces import Faces
from gateway.adapters.mqtt.link import STOPPED, Inbound, Link, Outbound, Settings, Want
from gateway.adapters.mqtt.places import (
    HostedPanel,
    Line,
    PanelPlace,
    Place,
    device_endpoint,
    panel_endpoint,
)
from gateway.adapters.mqtt.spool import Message, Spool
from gateway.core.actions import AcknowledgeAlarm, Command, Hangup, SetOutput
from gateway.core.endpoints import Endpoint
from gateway.core.events import (
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    CommandFinished,
    Event,
)
from gateway.errors import DeviceError, PeerError, Unsupported
from gateway.protocols import alarms
from gateway.protocols.alarms import Meaning, TopicFilter
from gateway.protocols.packets import publish

BATCH = 200
COMPLAINT_EVERY_S = 60.0
COMPLAINTS_MAXIMUM = 1000
STOP_S = 4.0

T = TypeVar("T")
Read = Callable[[bytes, dict[str, str]], list[Meaning]]


class Route(msgspec.Struct, frozen=True):
    """Whose messages come by a topic, and how they are read."""

    filter: TopicFilter
    place: Place
    read: Read


class Mqtt(Adapter):
    """Alarm panels and devices behind an MQTT broker, and the gateway's events for others."""

    kind = "mqtt"
    Config = MqttConfig
    config: MqttConfig

    def __init__(self, name: str, config: MqttConfig, host: Host) -> None:
        super().__init__(name, config, host)
        self._line = Line(host, self._publish, time.time)
        self._link: Link | None = None
        self._spool: Spool | None = None
        self._places: dict[str, Place] = {}
        self._secret = {panel.command_topic for panel in config.panels.values()}
        self._furnish()

    # Contract

    def endpoints(self) -> Iterable[Endpoint]:
        return [place.endpoint for place in self._places.values()]

    async def run(self) -> None:
        self._furnish()
        loop = asyncio.get_running_loop()
        settings = await _aside(self._settings)
        spool = Spool(
            self.host.data_dir / "spool.sqlite",
            self.config.events.maximum,
            on_ready=self._spool_ready,
            on_count=self._count_from_thread,
        )
        self._loop = loop
        self._inbox: deque[tuple[Inbound, list[tuple[Place | None, Meaning]]]] = deque()
        self._draining = False
        self._complained: dict[str, float] = {}
        self._lost_since: float | None = None
        self._acknowledged: deque[bytes] = deque(maxlen=100)
        feed = self.host.subscribe()
        link = Link(
            settings,
            spool,
            loop=loop,
            receive=self._receive,
            backlog=lambda: len(self._inbox),
            on_up=self._went_up,
            on_down=self._went_down,
            on_count=self.host.count,
            on_trouble=lambda what: self._complain("broker", what),
        )
        self._link = link
        try:
            try:
                await _aside(spool.open)
                kept = await _aside(spool.kept)
            except (OSError, sqlite3.Error) as error:
                raise DeviceError(
                    f"{self.host.data_dir / 'spool.sqlite'}: {error}"
                    " (the directory must be writable)"
                ) from None
            self._spool = spool
            self._remember(kept)
            follower = self.host.create_task(self._follow(feed), name="events to the broker")
            link.start()
            try:
                await link.closed.wait()
                raise DeviceError("the network thread has ended")
            finally:
                # What is queued still gets to the disk.
                feed.close()
                await asyncio.wait({follower}, timeout=1.0)
                await self._leave(link)
        finally:
            feed.close()
            self._link = self._spool = None
            for place in self._places.values():
                place.stop()
            self._faces.stop()
            await _aside(spool.close)

    def safe_state(self) -> None:
        for place in self._places.values():
            for switch in place.outputs.values():
                message = switch.rest()
                if self._link is not None and not self._link.publish(message):
                    switch.owe()

    def hangup(self, action: Hangup) -> None:
        """Nothing here ever has a leg (A07)."""

    def set_output(self, action: SetOutput) -> None:
        place = self._place(action.endpoint)
        switch = place.outputs.get(action.output)
        if switch is None:
            raise Unsupported(
                f"{action.endpoint} has no output {action.output!r};"
                f" it has: {', '.join(place.outputs) or 'none'}"
            )
        switch.set(action.value, action.pulse_ms)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        place = self._place(action.endpoint)
        topic = self._ack_topic(place)
        if not topic:
            raise Unsupported(f"{action.endpoint} has no ack_topic")
        payload = alarms.encode_acknowledgement(
            action.alarm, action.by, action.trace, self._line.wall()
        )
        if self._spool is None:
            raise DeviceError(f"{self.name} does not run: {action.alarm} is not acknowledged")
        self._acknowledged.append(payload)
        self._spool.put(Message(topic, payload, action.trace, alarm=True))

    def command(self, action: Command) -> None:
        place = self._place(action.endpoint)
        config = place.config
        if not isinstance(config, Panel) or action.verb not in config.verbs:
            raise Unsupported(f"{action.endpoint} does not do {action.verb}")

        def done(ok: bool, detail: str) -> None:
            self.host.emit(CommandFinished(command=action.command, ok=ok, detail=detail))

        if self._link is None:
            done(False, f"{self.name} does not run")
        elif isinstance(place, HostedPanel):
            if action.code and config.codes.pins and not config.codes.who(action.code):
                done(False, "wrong code")
                return
            done(*place.obey(action.verb, action.trace))
            self._faces.show(place)
        elif isinstance(place, PanelPlace):
            if not config.command_topic:
                raise Unsupported(f"{action.endpoint} has no command_topic")
            place.command(
                action.verb,
                code=action.code,
                by=action.by,
                trace=action.trace,
                command=action.command,
                done=done,
            )

    # Setting up

    def _furnish(self) -> None:
        self._places = {}
        self._routes: list[Route] = []
        config = self.config
        for local, panel in config.panels.items():
            endpoint = panel_endpoint(self.name, local, panel)
            place: Place
            if panel.hosted:
                place = HostedPanel(endpoint, panel, config, self._line)
            else:
                place = PanelPlace(endpoint, panel, config, self._line)
                self._routes.append(
                    Route(TopicFilter(panel.state_topic), place, _reads_state(panel))
                )
            self._furnish_common(local, place, panel.availability)
        for local, device in config.devices.items():
            endpoint = device_endpoint(self.name, local, device)
            place = Place(endpoint, device, config, self._line)
            for topic in device.topics:
                rules = alarms.Rules(topic.alarms, topic.inputs, json=topic.format == "json")
                self._routes.append(Route(TopicFilter(topic.topic), place, rules.read))
            self._furnish_common(local, place, device.availability)
        self._faces = Faces(self.name, config, self._places, self._line, self._keep)

    def _furnish_common(self, local: str, place: Place, availability: Availability | None) -> None:
        self._places[place.endpoint.id] = place
        if availability is not None:
            self._routes.append(
                Route(TopicFilter(availability.topic), place, _reads_available(availability))
            )
        topic = self._ack_topic(place)
        if topic:
            self._routes.append(Route(TopicFilter(topic), place, _reads_acknowledged))

    def _settings(self) -> Settings:
        config = self.config
        wants = {
            route.filter.subscription: Want(route.filter.subscription) for route in self._routes
        }
        for topic in self._faces.commands:
            wants[topic] = Want(topic, command=True)
        if config.homeassistant is not None:
            wants[self._faces.birth_topic] = Want(self._faces.birth_topic)
        return Settings(
            host=config.host,
            port=config.port or (8883 if config.tls else 1883),
            version=5 if config.version == "5" else 4,
            client_id=config.client_id or f"{config.box_name}-{self.name}",
            keepalive_s=config.keepalive_s,
            connect_timeout_s=config.connect_timeout_s,
            session_s=config.session_s,
            user=config.user,
            password=config.password.reveal(),
            tls=config.tls.context() if config.tls else None,
            status_topic=f"{config.base_topic}/status",
            message_limit=config.message_limit,
            wants=tuple(wants.values()),
        )

    def _remember(self, kept: dict[str, str]) -> None:
        for place in self._places.values():
            if isinstance(place, HostedPanel):
                place.restore(kept.get(f"panel.{place.endpoint.id}", ""))
        self._faces.remember(kept.get("discovery", ""))

    def _keep(self, name: str, value: str) -> None:
        if self._spool is not None:
            self._spool.keep(name, value)

    async def _leave(self, link: Link) -> None:
        last = self._safe_messages()
        last.append(Outbound(f"{self.config.base_topic}/status", b"offline", retain=True))
        link.stop(last)
        # A name that cannot be looked up may hold the thread longer than we want to wait; it
        # ends by itself then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(link.closed.wait(), STOP_S)

    def _safe_messages(self) -> list[Outbound]:
        return [
            switch.rest()
            for place in self._places.values()
            for switch in place.outputs.values()
            if switch.pulsing or not switch.config.keep
        ]

    # Towards the broker

    def _publish(self, message: Outbound) -> bool:
        self._trace_wire("", message, outward=True)
        return self._link is not None and self._link.publish(message)

    async def _follow(self, feed: Subscription) -> None:
        config = self.config
        base = config.base_topic
        missed = 0
        async for envelope in feed:
            event = envelope.event
            if event is None:
                continue
            if feed.dropped > missed:
                self.host.count("mqtt.events_missed", feed.dropped - missed)
                missed = feed.dropped
            self._mirror(event)
            name = type(event).__name__
            if config.events.wants(name) and self._spool is not None:
                self._spool.put(
                    Message(
                        f"{base}/event/{name}",
                        msgspec.json.encode(envelope.cloudevent()),
                        envelope.trace,
                        "application/cloudevents+json",
                        isinstance(event, AlarmRaised | AlarmCleared | AlarmAcknowledged),
                    )
                )

    def _mirror(self, event: Event) -> None:
        if not isinstance(event, AlarmRaised | AlarmCleared):
            return
        for place in self._places.values():
            if (
                isinstance(place, HostedPanel)
                and event.endpoint != place.endpoint.id
                and any(fnmatchcase(event.endpoint, p) for p in place.config.mirror)
            ):
                place.mirror(event.endpoint, event.alarm, isinstance(event, AlarmRaised))
                self._faces.show(place)

    def _spool_ready(self) -> None:
        if self._link is not None:
            self._link.wake()

    def _count_from_thread(self, name: str, n: int) -> None:
        if self._link is not None:
            self._link.count(name, n)

    # From the broker

    def _receive(self, message: Inbound) -> None:
        """Network thread: find out what a message means."""
        found: list[tuple[Place | None, Meaning]] = []
        trouble = ""
        mine = message.topic in self._faces.commands or message.topic == self._faces.birth_topic
        for route in self._routes:
            captures = route.filter.match(message.topic)
            if captures is None:
                continue
            try:
                meanings = route.read(message.payload, captures)
            except PeerError as error:
                trouble = str(error)
                continue
            found.extend((route.place, meaning) for meaning in meanings)
        if trouble:
            assert self._link is not None
            self._link.count("mqtt.bad_payload")
            self._loop.call_soon_threadsafe(self._complain, message.topic, trouble)
        if not found and not mine:
            # Nothing to be done: confirm it in its turn.
            self._loop.call_soon_threadsafe(self._confirm, message)
            return
        self._inbox.append((message, found))
        if not self._draining:
            self._draining = True
            self._loop.call_soon_threadsafe(self._drain)

    def _confirm(self, message: Inbound) -> None:
        if self._link is not None:
            self._link.acknowledge(message)

    def _drain(self) -> None:
        self._draining = False
        for _ in range(BATCH):
            if not self._inbox:
                return
            message, found = self._inbox.popleft()
            try:
                self._apply(message, found)
            finally:
                self._confirm(message)
        # Everything else in the gateway gets its turn in between.
        self._draining = True
        self._loop.call_soon(self._drain)

    def _apply(self, message: Inbound, found: list[tuple[Place | None, Meaning]]) -> None:
        try:
            self._faces.receive(message)
        except PeerError as error:
            self.host.count("mqtt.bad_payload")
            self._complain(message.topic, str(error))
        for place, meaning in found:
            if place is None:
                continue
            self._trace_wire(place.endpoint.id, message, outward=False)
            if isinstance(meaning, alarms.Acknowledged):
                if message.payload in self._acknowledged:
                    # Our own, come back from the broker.
                    continue
                if message.retain:
                    self.host.count("mqtt.retained_ignored")
                    continue
            standing = message.retain or (message.complete and isinstance(meaning, alarms.State))
            place.hear(meaning, message.trace, standing=standing)
            self._faces.show(place)

    def _trace_wire(self, about: str, message: Inbound | Outbound, *, outward: bool) -> None:
        # A command may hold the code of a panel.
        secret = message.topic in self._secret or message.topic in self._faces.commands
        payload = b"(hidden)" if secret else message.payload
        self.host.wire(
            about,
            publish(message.topic, payload),
            kind="mqtt",
            outward=outward,
            key=message.trace,
            words=f"{message.topic} {payload.decode('utf-8', 'replace')}",
        )

    def _complain(self, topic: str, what: str) -> None:
        now = self.host.now()
        last = self._complained.get(topic)
        if last is not None and now - last < COMPLAINT_EVERY_S:
            return
        if len(self._complained) >= COMPLAINTS_MAXIMUM:
            self._complained.clear()
        self._complained[topic] = now
        self.host.log.warning("message not understood", topic=topic[:200], why=what)

    def _went_up(self) -> None:
        config = self.config
        self.host.ready()
        if self._lost_since is not None:
            self.host.log.info(
                "broker is back",
                broker=config.host,
                away_s=round(self.host.now() - self._lost_since, 1),
            )
        self._lost_since = None
        for place in self._places.values():
            place.link_changed(True, "")
        self._faces.went_up()

    def _went_down(self, reason: str) -> None:
        if self._lost_since is None and reason != STOPPED:
            self._lost_since = self.host.now()
            self.host.log.warning("broker lost", broker=self.config.host, reason=reason)
        for place in self._places.values():
            place.link_changed(False, reason)

    def _place(self, endpoint: str) -> Place:
        try:
            return self._places[endpoint]
        except KeyError:
            raise Unsupported(f"{endpoint} is not an endpoint of {self.name}") from None

    def _ack_topic(self, place: Place) -> str:
        if place.config.ack_topic or not isinstance(place, HostedPanel):
            return place.config.ack_topic
        return f"{self.config.base_topic}/panel/{place.local}/ack"


async def _aside(work: Callable[[], T]) -> T:
    """Do what blocks in a thread that ends with it: a pool's threads would stay behind (A04)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if not done.done():
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(cast(T, result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=run, name="mqtt-aside", daemon=True).start()
    return await done


def _reads_state(panel: Panel) -> Read:
    def read(payload: bytes, captures: dict[str, str]) -> list[Meaning]:
        return [alarms.State(alarms.decode_state(payload, panel.state_path, panel.states))]

    return read


def _reads_available(config: Availability) -> Read:
    def read(payload: bytes, captures: dict[str, str]) -> list[Meaning]:
        online = alarms.decode_available(payload, config.online, config.offline)
        return [alarms.Available(online)]

    return read


def _reads_acknowledged(payload: bytes, captures: dict[str, str]) -> list[Meaning]:
    return [alarms.decode_acknowledgement(payload)]
