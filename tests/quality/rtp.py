"""RTP to RTP: relayed, to the other law, and to and from G.722; beside rtpengine."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import statistics
import struct
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.quality.judge import (
    G722,
    PATTERNS,
    PCMA,
    PCMU,
    WEATHERS,
    Codec,
    Weather,
    chain,
    mos,
    repeated,
    shifts,
)
from tests.quality.report import Report
from tests.quality.speech import Material, resample
from tests.quality.systems import FAR, NEAR, Ours, Rtpengine, System

PAIRS = ((PCMU, PCMU), (PCMA, PCMU), (PCMU, G722), (G722, PCMU))
ADDED_MS = 5.0
CEILING_MOS = 0.05


@dataclass
class Heard:
    """One call through one system."""

    mos: float
    delays_ms: list[float] = field(default_factory=list)
    """Of each packet that came out: since that packet was sent that holds its last sample."""
    buffer_ms: float | None = None
    """What the system states, on average over the call."""


def _far_end(packets: list[tuple[float, bytes]], codec: Codec) -> tuple[np.ndarray, list[float]]:
    """What a plain telephone plays: packets by their times, each gap the packet before.

    Samples at the codec's rate, and when each 20 ms of them came (NaN: never).
    """
    audio = []
    for at, data in packets:
        _, kind, _, ts, _ = struct.unpack("!BBHII", data[:12])
        if kind & 0x7F == codec.payload_type and len(data) == 172:
            audio.append((at, ts, data[12:]))
    # A system may send silence of its own, on another grid, before and between what it passes on.
    grid = statistics.mode(ts % 160 for _, ts, _ in audio) if audio else 0
    first = audio[0][1] - (audio[0][1] - grid) % 160 if audio else 0
    rows: dict[int, tuple[float, bytes]] = {}
    for at, ts, payload in sorted(audio, key=lambda row: row[1] % 160 != grid):
        n = ((ts - first + (1 << 31)) % (1 << 32) - (1 << 31) + 80) // 160
        if 0 <= n < 20000:
            rows.setdefault(n, (at, payload))
    if not rows:
        return np.zeros(0, np.int16), []
    order = sorted(rows)
    pcm = codec.decode(b"".join(rows[n][1] for n in order))
    size = codec.n_samples
    frames = {n: pcm[k * size : k * size + size] for k, n in enumerate(order)}
    came = [rows[n][0] if n in rows else float("nan") for n in range(order[-1] + 1)]
    return repeated(frames, order[-1] + 1, size), came


def _delays(
    material: Material, heard: np.ndarray, came: list[float], sent: list[tuple[float, int]],
    codec_ms: float,
) -> list[float]:  # fmt: skip
    """Milliseconds between sending and coming out, less what the codecs themselves are late."""
    at = {n: t for t, n in sent}
    found = []
    for (begin, end), shift in zip(material.spans, shifts(material, heard), strict=True):
        lag = shift / 8000 - codec_ms / 1000
        for n in range(int(begin * 50), int(end * 50)):
            # The packet whose last sample this is: within half a sample of the next one's first.
            held = int(np.ceil(round(((n + 1) * 0.02 - lag) / 0.02, 2))) - 1
            if n < len(came) and held in at and not np.isnan(came[n]):
                found.append(1000 * (came[n] - at[held]))
    return found


async def _play(
    system: System, weathers: tuple[Weather, ...], octets: Path, codec: Codec, out: Path
) -> tuple[dict[str, Any], dict[int, list[int]]]:
    """A call for each weather, all at the same time: packets sent and heard, buffers stated."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.quality.media", limit=1 << 20,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    wish = {"streams": len(weathers), "near": NEAR, "far": FAR}
    process.stdin.write(json.dumps(wish).encode() + b"\n")
    ports = json.loads(await process.stdout.readline())
    to = await system.connect(ports["near"], ports["far"])
    n = octets.stat().st_size // 160
    plan = [
        {"to": to[i], "type": codec.payload_type, "file": str(octets), "due": weather.schedule(n)}
        for i, weather in enumerate(weathers)
    ]
    process.stdin.write(json.dumps({"plan": plan, "out": str(out)}).encode() + b"\n")
    await process.stdin.drain()
    stated: dict[int, list[int]] = {i: [] for i in range(len(weathers))}
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        await asyncio.wait({ended}, timeout=0.5)
        depths = {} if ended.done() else system.buffers()
        for i, port in enumerate(ports["near"]):
            if port in depths:
                stated[i].append(depths[port])
    return pickle.loads(out.read_bytes()), stated


def codec_delay_ms(material: Material, near: Codec, far: Codec) -> float:
    """How late the codecs themselves are: their filters."""
    return statistics.median(shifts(material, chain(material, near, far, Weather()))) / 8


async def _through(
    kind: type[Ours] | type[Rtpengine], material: Material, near: Codec, far: Codec, home: Path,
    weathers: tuple[Weather, ...],
) -> tuple[dict[str, Any], dict[int, list[int]]]:  # fmt: skip
    home.mkdir()
    octets = home / "octets"
    octets.write_bytes(near.encode(material.at(near.rate)))
    async with kind(home, near, far).running() as system:
        return await _play(system, weathers, octets, near, home / "out")


def _listen(
    material: Material, far: Codec, weathers: tuple[Weather, ...], codec_ms: float,
    found: dict[str, Any], stated: dict[int, list[int]],
) -> dict[Weather, Heard]:  # fmt: skip
    heard = {}
    for i, weather in enumerate(weathers):
        pcm, came = _far_end(found["heard"][i], far)
        pcm = resample(pcm, far.rate, 8000) if len(pcm) else pcm
        heard[weather] = Heard(
            mos(material, pcm) if len(pcm) else 1.0,
            _delays(material, pcm, came, found["sent"][i], codec_ms) if len(pcm) else [],
            statistics.mean(stated[i]) if stated[i] else None,
        )
    return heard


def _judge(
    report: Report, near: Codec, far: Codec, weather: Weather, ours: Heard, plain: float,
    ceiling: float, theirs: Heard | None,
) -> None:  # fmt: skip
    relayed = far in (PCMU, PCMA) and near in (PCMU, PCMA)
    name = f"{near.name} to {far.name}"
    delays = sorted(ours.delays_ms) or [float("nan")]
    p50, p99 = delays[len(delays) // 2], delays[int(0.99 * (len(delays) - 1))]
    row: dict[str, Any] = {
        "path": name, "weather": str(weather), "mos": round(ours.mos, 3),
        "repetition": round(plain, 3), "ceiling": round(ceiling, 3),
        "delay_p50_ms": round(p50, 2), "delay_p99_ms": round(p99, 2),
        "buffer_ms": None if relayed or ours.buffer_ms is None else round(ours.buffer_ms, 1),
    }  # fmt: skip
    if theirs is not None:
        late = sorted(theirs.delays_ms) or [float("nan")]
        row["rtpengine"] = round(theirs.mos, 3)
        row["rtpengine_delay_p50_ms"] = round(late[len(late) // 2], 2)
        row["rtpengine_delay_p99_ms"] = round(late[int(0.99 * (len(late) - 1))], 2)
    targets = []
    if relayed:
        # Gaps are passed on: nothing to conceal, and nothing may be added.
        targets.append(("as without a gateway", abs(ours.mos - plain) <= CEILING_MOS))
    elif weather.loss:
        targets.append(("above repetition", ours.mos > plain))
    elif not weather.jitter_ms:
        targets.append(("the codec's ceiling", ours.mos >= ceiling - CEILING_MOS))
    if weather == Weather():
        stated = row["buffer_ms"] or 0.0
        targets.append((f"added at most {ADDED_MS:g} ms (p99)", p99 - stated <= ADDED_MS))
    report.add("rtp", row, targets)


async def measure(report: Report, home: Path, *, quick: bool = False) -> None:
    """All pairs in all weathers."""
    material = Material(home)
    weathers = WEATHERS[:5] if quick else WEATHERS
    streams = tuple(
        replace(weather, pattern=k)
        for weather in weathers
        for k in range(PATTERNS if weather.burst else 1)
    )
    other = shutil.which("rtpengine") is not None
    if not other:
        report.say("rtpengine is not installed: no comparison (apt-get install rtpengine-daemon)")
    for near, far in PAIRS:
        late = codec_delay_ms(material, near, far)
        folder = home / f"{near.name}-{far.name}"
        folder.mkdir()
        common = (material, near, far)
        # At the same time, so that what else the machine does strikes both.
        runs = [_through(Ours, *common, folder / "ours", streams)]
        runs += [_through(Rtpengine, *common, folder / "theirs", streams)] * other
        ours, *theirs = [
            _listen(material, far, streams, late, *run) for run in await asyncio.gather(*runs)
        ]
        ceiling = mos(material, chain(*common, Weather()))
        plain: dict[Weather, float] = {}
        for weather in weathers:
            alike = [each for each in streams if replace(each, pattern=0) == weather]
            for each in (replace(w, jitter_ms=0) for w in alike):
                if each not in plain:
                    plain[each] = mos(material, chain(*common, each))
            repetition = statistics.mean(plain[replace(w, jitter_ms=0)] for w in alike)
            merged = [_mean([heard[w] for w in alike]) for heard in (ours, *theirs)]
            _judge(report, near, far, weather, merged[0], repetition, ceiling,
                   merged[1] if theirs else None)  # fmt: skip


def _mean(heard: list[Heard]) -> Heard:
    """Several calls in weather of the same kind."""
    buffers = [each.buffer_ms for each in heard if each.buffer_ms is not None]
    return Heard(
        statistics.mean(each.mos for each in heard),
        [delay for each in heard for delay in each.delays_ms],
        statistics.mean(buffers) if buffers else None,
    )
