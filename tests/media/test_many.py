"""Two hundred calls at once: each hears its own frequency and nothing of the others."""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import g711_decode, g711_encode, sine

from gateway.media.engine import Engine
from gateway.media.streams import Codec, RtpSpec, StreamOptions

N = 200
SECONDS = 3.0
WINDOW = 4000
"""Half a second: two hertz to a line."""
FREQUENCIES = [300 + 14 * n for n in range(N)]
WAYS = ("relayed", "from A-law", "mixed")


def lines(pcm: np.ndarray) -> np.ndarray:
    """Level of each call's frequency in dB of full scale."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))) / (len(pcm) / 4) / 32768
    at = np.array(FREQUENCIES) * len(pcm) // 8000
    return 20 * np.log10(np.maximum(spectrum[at], 1e-9))


def heard(packets: list[tuple[float, bytes]]) -> np.ndarray:
    """The audio as it came, in order of its numbers."""
    found = {}
    for _, packet in packets:
        (number,) = struct.unpack_from("!H", packet, 2)
        if packet[1] & 0x7F == 0:
            found[number] = packet[12:]
    return g711_decode(b"".join(found[number] for number in sorted(found)), 0)


async def test_no_call_of_two_hundred_hears_another(tmp_path: Path) -> None:
    engine = Engine(max_streams=2 * N)
    await engine.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.quality.media",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        wish = {"streams": N, "near": "127.0.0.1", "far": "127.0.0.1"}
        process.stdin.write(json.dumps(wish).encode() + b"\n")
        ports = json.loads(await process.stdout.readline())
        plan, clean = [], []
        for n, hz in enumerate(FREQUENCIES):
            near, way = 8 if n % 3 == 1 else 0, WAYS[n % 3]
            octets = g711_encode(sine(hz, 1.0), near)
            file = tmp_path / f"{n}"
            file.write_bytes(octets * round(SECONDS))
            # As the far end's law has it: quantising a tone makes others.
            once = g711_decode(octets, near)
            clean.append(lines(g711_decode(g711_encode(once, 0), 0)[:WINDOW]))
            sides = []
            for port, pt in ((ports["near"][n], near), (ports["far"][n], 0)):
                spec = RtpSpec(
                    local_ip="127.0.0.1", remote_ip="127.0.0.1", remote_port=port,
                    codec=Codec.PCMA if pt else Codec.PCMU, payload_type=pt, rate=8000,
                )  # fmt: skip
                mixed = way == "mixed" and pt == 0
                options = StreamOptions(gain_out_db=-0.01) if mixed else StreamOptions()
                sides.append(engine.open(spec, options))
            engine.open_bridge(f"{n}")
            for stream in sides:
                engine.join(f"{n}", stream)
            due = [(0.02 * k + 0.0001 * n, k) for k in range(round(50 * SECONDS))]
            plan.append({"to": sides[0].local, "type": near, "file": str(file), "due": due})
        out = tmp_path / "out"
        process.stdin.write(json.dumps({"plan": plan, "out": str(out)}).encode() + b"\n")
        await process.stdin.drain()
        assert await asyncio.wait_for(process.wait(), 60.0) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await engine.stop()
    for n, packets in enumerate(pickle.loads(out.read_bytes())["heard"]):
        pcm = heard(packets)
        windows = [pcm[at : at + WINDOW] for at in range(0, len(pcm) - WINDOW + 1, WINDOW)]
        levels = [lines(window) for window in windows if np.abs(window).max() > 1000]
        assert len(levels) >= 3, f"call {n}: {len(pcm) / 8000:.1f} s heard"
        # What is there all the time: a stall of the sender is a click in one of them.
        found = np.median(levels, axis=0)
        assert found[n] == pytest.approx(clean[n][n], abs=1.0), WAYS[n % 3]
        others = np.delete(np.arange(N), n)
        strange = found[others] - np.maximum(found[n] - 50.0, clean[n][others] + 6.0)
        worst = int(others[strange.argmax()])
        assert strange.max() < 0, f"call {n} hears call {worst} at {found[worst]:.0f} dB"
