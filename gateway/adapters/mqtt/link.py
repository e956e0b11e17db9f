"""The connection to the broker: one thread that owns the paho client.

The thread is ours and not paho's `loop_start`, for three reasons. Looking up a name, connecting
and the TLS handshake block, so they cannot be in the event loop. `loop_start` waits in select(2),
which fails for good once the process has more than 1024 descriptors open, as a gateway with many
audio streams has. And a new client for each connection leaves no half-finished protocol state
behind after garbage. Because only this thread touches the client, there are no locks around it;
everything else comes in through a queue and a wake-up byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.adapters.mqtt.spool import Message, Spool
from gateway.core.ids import trace_of

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 60.0
HELD_S = 30.0
GOODBYE_S = 1.5
INBOX_MAXIMUM = 10_000
OUTBOX_MAXIMUM = 1_000
STOPPED = "stopped"
WINDOW = 20
"""Unconfirmed messages under way; what a broker sees twice after a break is at most this."""


class Inbound(msgspec.Struct, frozen=True):
    """A message from the broker."""

    topic: str
    payload: bytes
    retain: bool
    trace: str
    session: int
    place: int
    """Position in the row of acknowledgements owed to the broker."""
    complete: bool = False
    """Nothing that was published for us since the last session is missing before it."""


class Outbound(msgspec.Struct, frozen=True):
    """A message that makes sense only now: never stored."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    trace: str = ""
    content: str = ""
    expires_s: int = 0


class Want(msgspec.Struct, frozen=True):
    """A subscription. Commands are taken with QoS 0, so that the broker stores none for us."""

    topic: str
    command: bool = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection needs, with all secrets read."""

    host: str
    port: int
    version: int
    client_id: str
    keepalive_s: int
    connect_timeout_s: float
    session_s: int
    user: str
    password: str
    tls: ssl.SSLContext | None
    status_topic: str
    message_limit: int
    wants: tuple[Want, ...]

    def __repr__(self) -> str:
        return f"Settings({self.host}:{self.port})"


def pause_s(trouble_s: float, chance: random.Random) -> float:
    """How long to wait before the next try, in seconds, after so many seconds of trouble.

    At most an eighth of the trouble, so that after a short outage we are soon back; between
    `BACKOFF_MIN_S` and `BACKOFF_MAX_S`, and never the same for two boxes.
    """
    longest = min(max(trouble_s / 8, 2 * BACKOFF_MIN_S), BACKOFF_MAX_S)
    return chance.uniform(BACKOFF_MIN_S, longest)


class _Client(paho.Client):
    """paho collects a whole packet before it says how long it is: up to 256 MiB. Here what is
    beyond `keep` bytes is read and forgotten, so a huge message costs its time and nothing more.
    """

    keep = 1 << 20

    def _sock_recv(self, bufsize: int) -> bytes:
        packet = self._in_packet["packet"]
        if len(packet) > self.keep:
            del packet[self.keep :]
        return super()._sock_recv(min(bufsize, 65536))


class Link:
    """Driven by `start`, `publish`, `acknowledge`, `stop` (event loop) and by the broker.

    The callbacks: `receive` in the network thread, everything else in the event loop.
    `backlog` says how many received messages wait for the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool | None,
        *,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[[Inbound], None],
        backlog: Callable[[], int],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        on_count: Callable[[str, int], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._settings, self._spool, self._loop = settings, spool, loop
        self._receive, self._backlog = receive, backlog
        self._on_up, self._on_down = on_up, on_down
        self._on_count, self._on_trouble = on_count, on_trouble
        self._outbox: deque[Outbound] = deque()
        self._acked: deque[tuple[int, int]] = deque()
        self._tally: Counter[str] = Counter()
        self._tally_lock = threading.Lock()
        self._stop = threading.Event()
        self._goodbye: Sequence[Outbound] = ()
        self._session = 0
        self._random = random.Random()
        self.up = False
        """Connected and subscribed, as known to the event loop."""
        self.closed = asyncio.Event()
        """The thread has ended."""

    # Event loop

    def start(self) -> None:
        """Start the thread."""
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        threading.Thread(target=self._main, name="mqtt-network", daemon=True).start()

    def publish(self, message: Outbound) -> bool:
        """Hand a message over; False when there is no connection or too much is waiting."""
        if not self.up or len(self._outbox) >= OUTBOX_MAXIMUM:
            self.count("mqtt.unsent")
            return False
        self._outbox.append(message)
        self.wake()
        return True

    def acknowledge(self, message: Inbound) -> None:
        """The message was dealt with: the broker may forget it."""
        self._acked.append((message.session, message.place))
        self.wake()

    def wake(self) -> None:
        """There is something to do. From any thread."""
        with contextlib.suppress(OSError):
            self._wake_w.send(b"x")

    def stop(self, goodbye: Sequence[Outbound]) -> None:
        """Publish these last messages, disconnect, end the thread; `closed` is set then."""
        self._goodbye = goodbye
        self._stop.set()
        self.wake()

    # Any thread

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter; handed to the event loop in lumps, so a flood costs it nothing."""
        with self._tally_lock:
            idle = not self._tally
            self._tally[name] += n
        if idle:
            self._post(self._flush)

    def _flush(self) -> None:
        with self._tally_lock:
            tally, self._tally = self._tally, Counter()
        for name, n in tally.items():
            self._on_count(name, n)

    def _post(self, work: Callable[..., None], *arguments: Any) -> None:
        # The event loop may have been closed by a program that ends without stopping us.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *arguments)

    # Network thread

    def _main(self) -> None:
        try:
            self._serve()
        finally:
            self._wake_r.close()
            self._wake_w.close()
            self._post(self._ended)

    def _serve(self) -> None:
        since = time.monotonic()
        while not self._stop.is_set():
            self._session += 1
            began = time.monotonic()
            reason = self._run_session()
            self._post(self._went_down, reason)
            if self._stop.is_set():
                break
            self.count("mqtt.disconnects")
            now = time.monotonic()
            # Only a connection that held ends the trouble: a broker that takes us and throws us
            # out at once must not be called every second by every box of a site.
            if now - began > HELD_S:
                since = now
            self._stop.wait(pause_s(now - since, self._random))

    def _ended(self) -> None:
        self._flush()
        self.closed.set()

    def _went_up(self) -> None:
        self.up = True
        self._on_up()

    def _went_down(self, reason: str) -> None:
        self.up = False
        self._outbox.clear()
        self._on_down(reason)

    def _run_session(self) -> str:
        """One connection from beginning to end; returns why it ended."""
        session = _Session(self, self._settings, self._session)
        try:
            return session.run()
        except (OSError, ValueError) as error:
            return f"{self._settings.host}:{self._settings.port}: {error}"
        except Exception as error:
            # paho raises whatever its unpacking runs into when a broker sends garbage.
            self.count("mqtt.protocol_errors")
            return f"the broker sent garbage ({type(error).__name__})"
        finally:
            session.close()


def _properties(kind: int) -> Properties:
    return Properties(kind)  # type: ignore[no-untyped-call]


class _Session:
    """One connection; lives in the network thread."""

    def __init__(self, link: Link, settings: Settings, number: int) -> None:
        self.link, self.settings, self.number = link, settings, number
        self.reason = ""
        self.connected = False
        self.kept = False
        """The broker has kept our session: what was published meanwhile with QoS 1 comes now."""
        self.subscribing: set[int] = set()
        self.ready = False
        self.owed: deque[list[int]] = deque()
        """Packet ids to acknowledge, in order of arrival: [packet id, dealt with]."""
        self.first = 0
        """Position of the first of `owed`."""
        self.flying: dict[int, tuple[int, float]] = {}
        """Packet id to number in the spool and time of sending."""
        self.unconfirmed: set[int] = set()
        self.leaving = False
        self.fetched: deque[Message] = deque()
        self.last = 0
        self.look = True
        """There may be something new in the spool."""
        v5 = settings.version == 5
        self.client = client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if v5 else settings.session_s == 0,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        # Topic and packet id precede the payload; 128 KiB is more than they can be.
        client.keep = settings.message_limit + 131_072
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages_set(0)
        if settings.user:
            client.username_pw_set(settings.user, settings.password or None)
        if settings.tls is not None:
            client.tls_set_context(settings.tls)
        client.will_set(settings.status_topic, b"offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        # With this callback set paho queues packets and leaves the writing to our loop.
        client.on_socket_register_write = lambda *_: None
        client.on_socket_open = self._on_socket_open

    def close(self) -> None:
        for callback in ("on_connect", "on_disconnect", "on_message", "on_publish"):
            setattr(self.client, callback, None)
        sock = self.client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def run(self) -> str:
        settings, client = self.settings, self.client
        arguments: dict[str, Any] = {}
        if settings.version == 5:
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = settings.session_s
            properties.MaximumPacketSize = settings.message_limit + 65_536
            arguments = {"clean_start": settings.session_s == 0, "properties": properties}
        client.connect(settings.host, settings.port, settings.keepalive_s, **arguments)
        deadline = time.monotonic() + settings.connect_timeout_s
        with selectors.DefaultSelector() as selector:
            sock = client.socket()
            assert sock is not None
            selector.register(self.link._wake_r, selectors.EVENT_READ)
            selector.register(sock, selectors.EVENT_READ)
            while client.socket() is not None and not self.reason:
                if self.link._stop.is_set():
                    return self._say_goodbye(selector)
                if not self.connected and time.monotonic() > deadline:
                    return "the broker accepts connections but does not answer (no CONNACK)"
                self._turn(selector, sock, 0.5)
                self._check_confirmations()
        return self.reason or "the connection was lost"

    def _turn(self, selector: selectors.BaseSelector, sock: Any, timeout: float) -> None:
        client = self.client
        interest = 0
        if self.link._backlog() < INBOX_MAXIMUM:
            interest |= selectors.EVENT_READ
        else:
            # The event loop is behind: leave the rest in the kernel and with the broker.
            timeout = min(timeout, 0.05)
        if client.want_write():
            interest |= selectors.EVENT_WRITE
        pending = getattr(sock, "pending", None)
        if pending is not None and pending() > 0:
            timeout = 0.0
        if interest:
            selector.modify(sock, interest)
        events = {key.fileobj: mask for key, mask in selector.select(timeout)}
        if self.link._wake_r in events:
            with contextlib.suppress(BlockingIOError):
                self.link._wake_r.recv(65536)
            self.look = True
        if events.get(sock, 0) & selectors.EVENT_READ or timeout == 0.0:
            client.loop_read()
        if self.connected:
            self._send()
        if client.socket() is not None:
            if client.want_write():
                client.loop_write()
            client.loop_misc()

    def _send(self) -> None:
        client, link = self.client, self.link
        while link._acked:
            session, place = link._acked.popleft()
            index = place - self.first
            if session == self.number and 0 <= index < len(self.owed):
                self.owed[index][1] = 1
        # The order of acknowledgements is the order of arrival (MQTT 5.0 section 4.6).
        while self.owed and self.owed[0][1]:
            packet, _ = self.owed.popleft()
            self.first += 1
            if packet:
                client.ack(packet, 1)
        client.loop_write()
        while link._outbox and not client.want_write():
            self._publish(link._outbox.popleft())
            client.loop_write()
        if link._spool is None or self.leaving or client.socket() is None:
            return
        while len(self.flying) < WINDOW and not client.want_write():
            if not self.fetched and self.look:
                self.fetched.extend(link._spool.fetch(self.last, 50))
                self.look = len(self.fetched) == 50
            if not self.fetched:
                return
            message = self.fetched.popleft()
            self.last = message.number
            sent = self._publish(
                Outbound(message.topic, message.payload, 1, False, message.trace, message.content)
            )
            if sent is not None:
                self.flying[sent] = (message.number, time.monotonic())
            client.loop_write()

    def _publish(self, message: Outbound) -> int | None:
        properties = None
        if self.settings.version == 5:
            properties = _properties(PacketTypes.PUBLISH)
            if message.content:
                properties.ContentType = message.content
                properties.PayloadFormatIndicator = 1
            if message.trace:
                properties.UserProperty = ("trace", message.trace)
            if message.expires_s:
                properties.MessageExpiryInterval = message.expires_s
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        )
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return None
        if message.qos:
            self.unconfirmed.add(info.mid)
        return info.mid

    def _check_confirmations(self) -> None:
        if self.flying:
            _, sent = next(iter(self.flying.values()))
            if time.monotonic() - sent > 3 * self.settings.keepalive_s:
                self.reason = "the broker confirms nothing any more (no PUBACK)"

    def _say_goodbye(self, selector: selectors.BaseSelector) -> str:
        """Send the last messages, give the broker a moment to confirm them, disconnect."""
        client, link = self.client, self.link
        sock = client.socket()
        if not self.connected or sock is None:
            return STOPPED
        self.leaving = True
        self._send()
        for message in link._goodbye:
            self._publish(message)
        deadline = time.monotonic() + GOODBYE_S
        while client.socket() is not None and time.monotonic() < deadline:
            self._turn(selector, sock, 0.05)
            if not self.unconfirmed and not client.want_write():
                break
        client.disconnect()
        with contextlib.suppress(OSError):
            client.loop_write()
        return STOPPED

    # paho's callbacks

    def _on_socket_open(self, _client: Any, _data: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Half-open: what the far end does not confirm in this time breaks the connection.
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self.settings.keepalive_s * 1000
        )

    def _on_connect(
        self, client: paho.Client, _data: Any, flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        if code.is_failure:
            self.reason = f"the broker refused us: {code}"
            return
        self.connected = True
        self.kept = bool(flags.session_present)
        client.publish(self.settings.status_topic, b"online", qos=1, retain=True)
        wants = self.settings.wants
        for begin in range(0, len(wants), 8):
            chunk = wants[begin : begin + 8]
            if self.settings.version == 5:
                # Keep the retain flag as published: a command with that flag is nobody's
                # momentary wish.
                _, packet = client.subscribe(
                    [
                        (w.topic, SubscribeOptions(0 if w.command else 1, False, w.command))
                        for w in chunk
                    ]
                )
            else:
                _, packet = client.subscribe([(w.topic, 0 if w.command else 1) for w in chunk])
            if packet is not None:
                self.subscribing.add(packet)
        if not self.subscribing:
            self._post_ready()

    def _on_subscribe(
        self, _client: Any, _data: Any, packet: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        refused = sum(code.is_failure for code in codes)
        if refused:
            self.link.count("mqtt.subscriptions_refused", refused)
            self.link._post(
                self.link._on_trouble, f"the broker refused {refused} of {len(codes)} topics"
            )
        self.subscribing.discard(packet)
        if not self.subscribing and not self.ready:
            self._post_ready()

    def _post_ready(self) -> None:
        self.ready = True
        self.link._post(self.link._went_up)

    def _on_disconnect(
        self, _client: Any, _data: Any, flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.reason = self.reason or f"the broker disconnected us: {code}"
        else:
            self.reason = self.reason or f"the connection was lost: {code}"

    def _on_publish(
        self, _client: Any, _data: Any, packet: int, code: ReasonCode, _properties: Any
    ) -> None:
        self.unconfirmed.discard(packet)
        number, _ = self.flying.pop(packet, (0, 0.0))
        if code.is_failure:
            self.link.count("mqtt.publish_refused")
            self.link._post(self.link._on_trouble, f"the broker refused a message of ours: {code}")
        if number and self.link._spool is not None:
            # A refusal (an access rule, most often) would come again: waiting would only keep
            # everything behind it from being sent.
            self.link._spool.done(number)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        place = self.first + len(self.owed)
        entry = [message.mid if message.qos else 0, 0]
        self.owed.append(entry)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        if not topic or len(message.payload) > self.settings.message_limit:
            self.link.count("mqtt.oversized" if topic else "mqtt.bad_payload")
            entry[1] = 1
            return
        trace = ""
        for name, value in getattr(message.properties, "UserProperty", ()):
            if name == "trace":
                trace = trace_of(value) or value
        self.link._receive(
            Inbound(
                topic,
                bytes(message.payload),
                message.retain,
                trace,
                self.number,
                place,
                self.kept and message.qos > 0,
            )
        )
