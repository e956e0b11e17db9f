"""Foreign RTP: ffmpeg sends and receives, tshark reads what we send."""

# ruff: noqa: ASYNC221 (the foreign program is the oracle; nothing else waits for the loop)
from __future__ import annotations

import asyncio
import shutil
import subprocess

import numpy as np
import pytest
from peers import listen, pace, sine, talk, usual_level_at

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is missing"),
]
NAMES = {
    0: ("PCMU", "pcm_mulaw", 8000),
    8: ("PCMA", "pcm_alaw", 8000),
    9: ("G722", "g722", 16000),
    96: ("L16", "pcm_s16be", 16000),
    97: ("L16", "pcm_s16be", 8000),
}


@pytest.mark.parametrize("pt", NAMES)
async def test_ffmpeg_sends_and_we_hear(engine, peer, leg, pt):
    source, ear = peer(pt), peer(0 if pt else 8)
    sa, sb = leg(source), leg(ear)
    source.close()  # ffmpeg takes these ports
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    _, encoder, rate = NAMES[pt]
    process = await asyncio.create_subprocess_exec(
        "ffmpeg",
        "-v",
        "error",
        "-re",
        "-f",
        "lavfi",
        "-i",
        f"sine=frequency=1009:sample_rate={rate}:duration=3",
        "-ac",
        "1",
        "-c:a",
        encoder,
        "-f",
        "rtp",
        "-payload_type",
        str(pt),
        f"rtp://127.0.0.1:{sa.local[1]}?localrtpport={source.port}"
        f"&pkt_size={652 if pt == 96 else 332 if pt == 97 else 172}",
    )
    async with asyncio.timeout(60.0):
        # How long it takes to begin depends on what else the machine does.
        while process.returncode is None:
            await pace(0.5, listen(ear))
    await pace(0.3, listen(ear))
    heard = ear.pcm()
    heard = heard[np.flatnonzero(np.abs(heard) > 200)[0] :]
    assert usual_level_at(heard[:16000], 1009) > -17
    assert sa.stats().packets_lost == 0


@pytest.mark.parametrize("pt", NAMES)
async def test_we_send_and_ffmpeg_hears(engine, peer, leg, tmp_path, pt):
    mouth, sink = peer(8 if pt != 8 else 0), peer(pt)
    sa, sb = leg(mouth), leg(sink)
    sink.sock.close()
    sink.rtcp.close()
    name, _, rate = NAMES[pt]
    sdp, out = tmp_path / "x.sdp", tmp_path / "x.wav"
    sdp.write_text(
        "v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=audio {sink.port} RTP/AVP {pt}\na=rtpmap:{pt} {name}/{rate if pt >= 96 else 8000}\n"
    )
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    process = await asyncio.create_subprocess_exec(
        "ffmpeg",
        "-v",
        "error",
        "-protocol_whitelist",
        "file,udp,rtp",
        "-i",
        str(sdp),
        "-t",
        "2.5",
        "-y",
        str(out),
    )
    for _ in range(8):
        await pace(2.5, talk(mouth, sa.local, sine(1009, 1.0)))
        if process.returncode is not None:
            break
    if process.returncode is None:
        sa.close()
        process.terminate()
    await process.wait()
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(out), "-f", "s16le", "-"],
        capture_output=True,
        check=True,
    ).stdout
    pcm = np.frombuffer(raw, np.int16)
    assert len(pcm) > rate
    assert usual_level_at(pcm[-rate:], 1009, rate) == pytest.approx(-13, abs=0.7)


@pytest.mark.skipif(not shutil.which("text2pcap"), reason="text2pcap is missing")
async def test_tshark_reads_our_telephone_events(engine, peer, leg, tmp_path):
    a = peer(0)
    a.te_pt = 101
    stream = leg(a)
    stream.send_digits("19#")
    await pace(1.2, listen(a))
    import struct

    dump = []
    for p in a.packets:
        data = struct.pack("!BBHII", 0x80, p.marker << 7 | p.pt, p.seq, p.ts, p.ssrc) + p.payload
        dump.append("000000 " + " ".join(f"{b:02x}" for b in data))
    (tmp_path / "x.txt").write_text("\n".join(dump) + "\n")
    subprocess.run(
        ["text2pcap", "-q", "-u", "6000,6002", str(tmp_path / "x.txt"), str(tmp_path / "x.pcap")],
        check=True,
        capture_output=True,
    )
    out = subprocess.run(
        [
            "tshark",
            "-r",
            str(tmp_path / "x.pcap"),
            "-d",
            "udp.port==6002,rtp",
            "-o",
            "rtpevent.event_payload_type_value:101",
            "-Y",
            "rtpevent",
            "-T",
            "fields",
            "-e",
            "rtpevent.event_id",
            "-e",
            "rtpevent.end_of_event",
            "-e",
            "rtpevent.duration",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split("\t") for line in out.splitlines()]
    ends = [r[0] for r in rows if r[1] in ("1", "True")]
    assert ends == ["1"] * 3 + ["9"] * 3 + ["11"] * 3
    assert {r[2] for r in rows if r[1] in ("1", "True")} == {"800"}
