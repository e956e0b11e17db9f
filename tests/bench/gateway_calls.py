"""What a bridged call costs outside the SIP stack: events, switchboard, media, journal, records.

Usage: python -m tests.bench.gateway_calls [--calls 1000] [--open 100] [--rounds 7] [--save]
       [--profile FILE]

A whole gateway in this process, whose only adapter gives the events and opens the streams that a
SIP adapter does, and parses nothing. `open` calls stand at once; each is offered, rings, is
answered and ends in turns of the event loop of its own. Real engine, sockets, journal and records.

Prints a JSON line: milliseconds of CPU per call, by thread; collections of garbage per 1000 calls.
The audio's thread is not told: these calls last for no fixed time.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from gateway import logs
from gateway.adapters.base import Adapter
from gateway.cli.daemon import settle
from gateway.config import AdapterSection, Configuration, GatewaySection, MediaSection
from gateway.core.actions import Answer, Dial, Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.core.routes import Route
from gateway.media.streams import Codec, RtpSpec, StreamOptions
from gateway.runtime import Gateway
from tests.bench.machine import cost, keep, machine

_LOCAL = "127.0.2.20"


class Caller(Adapter):
    """Calls itself."""

    kind = "bench"

    class Config(msgspec.Struct, frozen=True):
        """Nothing."""

    def __init__(self, name: str, config: Any, host: Any) -> None:
        super().__init__(name, config, host)
        self.ended = 0
        self._dialled: dict[str, str] = {}
        self._called: deque[str] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def endpoints(self) -> Iterable[Endpoint]:
        for name in ("in", "out"):
            yield Endpoint(
                id=f"bench/{name}", capacity=None, condition=Condition.UP, takes_number=True
            )

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.host.ready()
        await self._loop.create_future()

    def _open(self, leg: str) -> Any:
        spec = RtpSpec(local_ip=_LOCAL, codec=Codec.PCMU, rate=8000)
        return self.host.open_stream(leg, spec, StreamOptions(country="de"))

    def _use(self, stream: Any) -> None:
        stream.update(
            RtpSpec(
                local_ip=_LOCAL,
                remote_ip="127.0.2.30",
                remote_port=9,
                codec=Codec.PCMU,
                payload_type=0,
                rate=8000,
                xr_metrics=True,
                telephone_event=101,
            )
        )
        stream.configure(StreamOptions(country="de"))

    def _later(self, what: Any, *args: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon(what, *args)

    def call(self) -> str:
        """An INVITE comes in."""
        host = self.host
        leg = host.new_leg("bench/in")
        self._use(self._open(leg))
        host.emit(
            LegOffered(
                leg=leg,
                endpoint="bench/in",
                called="1000",
                calling="4711",
                trace=host.new_trace(),
                demanded_at=host.now(),
            )
        )
        return leg

    def dial(self, action: Dial) -> None:
        self._later(self._ring, action.leg, self._open(action.leg))

    def _ring(self, leg: str, stream: Any) -> None:
        self.host.emit(LegRinging(leg=leg))
        self._later(self._answered, leg, stream)

    def _answered(self, leg: str, stream: Any) -> None:
        self._use(stream)
        self.host.emit(LegAnswered(leg=leg))

    def ring(self, action: Any) -> None:
        pass

    def answer(self, action: Answer) -> None:
        self.host.emit(LegAnswered(leg=action.leg))

    def bye(self, leg: str) -> None:
        """A BYE comes in."""
        self.host.emit(LegEnded(leg=leg, cause=Cause.NORMAL))

    def hangup(self, action: Hangup) -> None:
        self._later(self._gone, action)

    def _gone(self, action: Hangup) -> None:
        self.host.emit(LegEnded(leg=action.leg, cause=action.cause))
        self.ended += 1


async def _calls(adapter: Caller, n: int, at_once: int) -> None:
    standing: deque[str] = deque()
    goal = adapter.ended + n
    for number in range(n):
        if number % 10 == 0:
            # The audio's thread has to get to its commands.
            await asyncio.sleep(0.005)
        standing.append(adapter.call())
        # A datagram's turn each: the inbox, ringing, the answer, the end.
        for _ in range(6):
            await asyncio.sleep(0)
        if len(standing) > at_once:
            adapter.bye(standing.popleft())
            for _ in range(3):
                await asyncio.sleep(0)
    while standing:
        adapter.bye(standing.popleft())
        await asyncio.sleep(0)
    while adapter.ended < goal:  # noqa: ASYNC110 (an event would be part of the figure)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)


async def _round(adapter: Caller, n: int, at_once: int) -> dict[str, Any]:
    before, garbage = cost(os.getpid()), [each["collections"] for each in gc.get_stats()]
    began = time.thread_time()
    await _calls(adapter, n, at_once)
    loop = time.thread_time() - began
    after = cost(os.getpid())
    collections = [
        round(1000 * (each["collections"] - old) / n, 2)
        for each, old in zip(gc.get_stats(), garbage, strict=True)
    ]
    return {
        "loop_ms": round(1000 * loop / n, 3),
        "disk_ms": round(1000 * (after.threads["disk"] - before.threads["disk"]) / n, 3),
        "collections_per_1000": collections,
    }


async def _bench(home: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    logs.setup(level="warning")
    section = AdapterSection(name="bench", kind="bench", adapter=Caller, config=Caller.Config())
    gateway = Gateway(
        Configuration(
            file=home / "gateway.toml",
            gateway=GatewaySection(name="bench", data_dir=str(home / "data"), drain_s=0),
            media=MediaSection(realtime=False, ports=(20000, 60000), max_streams=8000),
            adapters={"bench": section},
            routes=(Route(name="through", source=("bench/in",), called="1000",
                          targets=("bench/out:1000",)),),
        )
    )  # fmt: skip
    settle()
    running = asyncio.create_task(gateway.run())
    adapter: Any = gateway.hosts["bench"].adapter
    while not gateway.hosts["bench"].up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        await _calls(adapter, 500, chosen.open)
        profile = cProfile.Profile() if chosen.profile else None
        if profile:
            profile.enable()
        rounds = [await _round(adapter, chosen.calls, chosen.open) for _ in range(chosen.rounds)]
        if profile:
            profile.disable()
            profile.dump_stats(chosen.profile)
    finally:
        gateway.stop()
        await running
    # Whatever else runs on the machine only adds to it.
    return min(rounds, key=lambda each: float(each["loop_ms"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--open", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="append to history")
    parser.add_argument("--profile", default="")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        found = machine() | asyncio.run(_bench(Path(home), chosen))
    print(json.dumps(found))
    if chosen.save and not chosen.profile:
        keep("gateway_calls", found)


if __name__ == "__main__":
    main()
