"""A running engine and peers on loopback."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

from peers import Peer

from gateway.media.engine import Engine, OpenStream
from gateway.media.streams import Codec, MediaEvent, RtpSpec, StreamOptions
from tests._codecs.conftest import program

__all__ = ["program"]

CODECS = {
    0: (Codec.PCMU, 8000),
    8: (Codec.PCMA, 8000),
    9: (Codec.G722, 16000),
    96: (Codec.L16, 16000),
    97: (Codec.L16, 8000),
}


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """A started engine."""
    it = Engine(max_streams=64)
    await it.start()
    yield it
    await it.stop()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Makes peers and closes them."""
    made: list[Peer] = []

    def make(pt: int = 0, ip: str = "127.0.0.1") -> Peer:
        made.append(Peer(pt, ip))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def leg(engine: Engine) -> Callable[..., OpenStream]:
    """Opens a stream towards a peer; its events are in `.events`."""

    def make(peer: Peer, options: StreamOptions = StreamOptions(), **fields) -> OpenStream:  # noqa: B008
        codec, rate = CODECS[peer.pt]
        spec = {
            "local_ip": peer.ip,
            "remote_ip": peer.ip,
            "remote_port": peer.port,
            "codec": codec,
            "rate": rate,
            "payload_type": peer.pt,
            "telephone_event": peer.te_pt,
            **fields,
        }
        events: list[MediaEvent] = []
        stream = engine.open(RtpSpec(**spec), options, events.append)
        stream.events = events  # type: ignore[attr-defined]
        return stream

    return make
