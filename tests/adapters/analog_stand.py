"""A virtual line card, an engine and the analog adapter on a `TestHost`, for the analog tests."""

from __future__ import annotations

import array
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.adapters.analog import Analog
from gateway.lab.linecard import LineCard
from gateway.media.engine import Engine
from gateway.testing import TestHost
from gateway.testing.audio import level_at

QUICK_FXO: dict[str, Any] = {
    "kind": "fxo",
    "dial_tone_s": 0.0,
    "dial_delay_s": 0.7,
    "guard_s": 0.3,
    "caller_id": "off",
}
"""An exchange line that wastes no time."""


@dataclass
class Stand:
    """What a test works with."""

    card: LineCard
    engine: Engine
    host: TestHost
    adapter: Analog


@contextlib.asynccontextmanager
async def stand(
    ports: Mapping[str, Any], *, fxs: int = 2, fxo: int = 2, **section: Any
) -> AsyncIterator[Stand]:
    """The adapter runs, on a card with so many ports (FXS first)."""
    engine = Engine(max_streams=16, ports=(31200, 31299), realtime=False)
    await engine.start()
    try:
        async with LineCard.start(fxs=fxs, fxo=fxo) as card:
            host = TestHost("analog", engine=engine)
            config = {"device_dir": str(card.directory), "ports": dict(ports), **section}
            adapter = host.make(Analog, config)
            assert isinstance(adapter, Analog)
            async with host.running():
                yield Stand(card, engine, host, adapter)
            assert host.refused == []
    finally:
        await engine.stop()


def samples(raw: bytes) -> array.array[int]:
    """Raw octets as samples."""
    return array.array("h", raw)


def loudest(raw: bytes, hz: float) -> float:
    """The level of a tone that comes and goes, in the 50 ms in which it is loudest."""
    heard = samples(raw)
    return max(level_at(heard[n : n + 400], hz) for n in range(0, len(heard) - 400, 200))


def write_raw(path: Path, raw: bytes) -> Path:
    """A file of raw samples for a foreign decoder."""
    path.write_bytes(raw)
    return path
