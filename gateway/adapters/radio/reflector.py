"""A node of an SvxReflector: the session on the event loop, the audio in the pump's thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

from gateway.adapters.radio.config import Reflector
from gateway.adapters.radio.links import AHEAD
from gateway.adapters.radio.opus import Decoder, Encoder
from gateway.errors import DeviceError, PeerError
from gateway.protocols.radio.svxreflector import UDP_HEARTBEAT_S, Datagram, Session, State, Udp

LOGIN_S: Final = 5.0
LOST_S: Final = 0.5
"""The reflector itself gives a talker more; Opus pauses do not exist in SvxLink's audio."""
_READS: Final = 32


class ReflectorLink:
    """A login at a reflector. `login` first, then the pump's calls; `serve` keeps it alive."""

    rate = 16000

    def __init__(self, config: Reflector) -> None:
        self.carrier: bool | None = False
        self.refused = 0
        self.told: Callable[[bytes | str, bool], None] = lambda data, outward: None
        """Gets what is said over the connection, and whether we said it."""
        self._config = config
        self._encoder = Encoder(self.rate, config.bitrate)
        self._decoder = Decoder(self.rate)
        self._session: Session | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._udp: socket.socket | None = None
        self._client_id = 0
        self._sequence = 0
        self._beat_at = 0.0
        self._heard_at = 0.0

    @property
    def talker(self) -> str:
        """Callsign of who speaks on the reflector."""
        return self._session.talker if self._session else ""

    async def login(self) -> None:
        """Connect and log in. Raises `DeviceError` and `PeerError`."""
        config = self._config
        where = f"reflector {config.host}:{config.port}"
        try:
            async with asyncio.timeout(LOGIN_S):
                self._streams = await asyncio.open_connection(config.host, config.port)
                now = time.monotonic()
                self._session = Session(config.callsign, config.password.reveal(), now)
                while self._session.state is not State.UP:
                    await self._step()
        except TimeoutError:
            raise DeviceError(f"{where} does not answer") from None
        except OSError as error:
            raise DeviceError(f"{where}: {error.strerror or error}") from error
        if "OPUS" not in self._session.codecs:
            raise PeerError(f"{where} has no OPUS, only {', '.join(self._session.codecs)}")
        self._client_id = self._session.client_id
        peer = self._streams[1].get_extra_info("peername")[:2]
        self._udp = socket.socket(
            socket.AF_INET6 if ":" in peer[0] else socket.AF_INET, socket.SOCK_DGRAM
        )
        self._udp.setblocking(False)
        self._udp.connect(peer)

    async def serve(self) -> str:
        """Until the reflector is gone; why."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._step()
                assert self._session is not None
                self._session.poll(time.monotonic())
                self._flush()
        except (OSError, PeerError, DeviceError) as error:
            return str(error)

    async def _step(self) -> None:
        assert self._session is not None
        assert self._streams is not None
        self._flush()
        data = await self._streams[0].read(65536)
        if not data:
            raise DeviceError("the reflector closed the connection")
        self._tell(data, outward=False)
        self._session.receive(data, time.monotonic())
        self._flush()

    def _tell(self, data: bytes, *, outward: bool) -> None:
        assert self._session is not None
        # The answer to a challenge can be tried against every password, at leisure.
        self.told(data if self._session.state is State.UP else "(logging in)", outward)

    def _flush(self) -> None:
        assert self._session is not None
        assert self._streams is not None
        writer = self._streams[1]
        if octets := self._session.outgoing():
            self._tell(octets, outward=True)
            writer.write(octets)

    # What the pump's thread calls

    def read(self) -> bytes:
        found = []
        now = time.monotonic()
        assert self._udp is not None
        for _ in range(_READS):
            try:
                data = self._udp.recv(65536)
            except BlockingIOError:
                break
            except ConnectionError:
                continue
            try:
                message = Datagram.parse(data)
            except PeerError:
                self.refused += 1
                continue
            if message.kind is Udp.AUDIO:
                samples = self._decoder.decode(message.audio)
                if samples is None:
                    self.refused += 1
                    continue
                found.append(samples)
                self.carrier, self._heard_at = True, now
            elif message.kind is Udp.FLUSH:
                self.carrier = False
                self._send(Udp.ALL_FLUSHED)
        if self.carrier and now - self._heard_at > LOST_S:
            self.carrier = False
        return b"".join(found)

    def write(self, frame: bytes) -> None:
        self._send(Udp.AUDIO, self._encoder.encode(frame))

    def idle(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= UDP_HEARTBEAT_S:
            self._send(Udp.HEARTBEAT)

    def over(self) -> None:
        self._send(Udp.FLUSH)

    def release(self) -> bytes:
        return Datagram(Udp.FLUSH, self._client_id, self._sequence + AHEAD).pack()

    def released(self) -> None:
        self._sequence += 2 * AHEAD

    def fileno(self) -> int:
        return self._udp.fileno() if self._udp else -1

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        self._encoder.close()
        self._decoder.close()

    def _send(self, kind: Udp, audio: bytes = b"") -> None:
        assert self._udp is not None
        message = Datagram(kind, self._client_id, self._sequence, audio)
        self._sequence = self._sequence + 1 & 0xFFFF
        self._beat_at = time.monotonic()
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._udp.send(message.pack())
