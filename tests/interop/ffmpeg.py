"""FFmpeg as a caller's audio: RTP from any address, of any sound, at any pace."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.interop.peers import Program, need

SUITE = "AES_CM_128_HMAC_SHA1_80"
KEYS = ((697, 1209), (770, 1336), (852, 1477), (941, 1336))
"""Frequencies of the keys that `keys` presses: 1, 5, 9 and 0."""
_SOUNDS = {
    # Bursts of a tone with pauses, on a floor of noise: as lively as speech.
    "speech": ("synth 0.6 sine 500 vol 0.25", "synth 0.4 whitenoise vol 0.004"),
    "digital silence": ("trim 0 30",),
    "noise": ("synth 1 whitenoise vol 0.0003",),
    "clipped": ("synth 1 sine 500 gain 12",),
    "low": ("synth 0.6 sine 500 vol 0.003", "synth 0.4 sine 500 vol 0.0015"),
    "keys": (
        *(f"synth 0.15 sine {low} synth sine mix {high} vol 0.3 pad 0 0.35" for low, high in KEYS),
        "synth 0.6 sine 500 vol 0.25", "synth 0.4 whitenoise vol 0.004",
    ),
}  # fmt: skip


def sound(home: Path, name: str) -> Path:
    """A WAV file (8 kHz, 16 bits, one channel) with a sound of `_SOUNDS`, made by SoX."""
    need("sox")
    home.mkdir(parents=True, exist_ok=True)
    out = home / f"{name.replace(' ', '-')}.wav"
    parts = []
    for n, effects in enumerate(_SOUNDS[name]):
        parts.append(str(out.with_suffix(f".{n}.wav")))
        _sox("-n", "-r", "8000", "-b", "16", "-c", "1", parts[-1], *effects.split())
    _sox(*parts, str(out))
    return out


def _sox(*arguments: str) -> None:
    command = ["sox", "-D", "-V1", *arguments]
    subprocess.run(command, check=True, timeout=20, capture_output=True)


def rtp(
    home: Path,
    heard: Path,
    source: tuple[str, int],
    to: tuple[str, int],
    seconds: float,
    *,
    codec: str = "pcm_mulaw",
    pace: float = 1.0,
    n_samples: int = 160,
    pauses: str = "",
    key: str = "",
    bare: bool = False,
) -> Program:
    """Sends a sound over and over, in packets of 20 ms; what is not sent leaves no gap in the
    sequence numbers.

    pace: seconds of audio in each second. n_samples: so many of them are sent at once. pauses: an
    expression of the time `t`, true while there is something to say. key: of SRTP (RFC 4568).
    bare: the octets alone, which are no RTP.
    """
    need("ffmpeg")
    filters = f"amovie={heard}:loop=0,asetpts=N/SR/TB,asetnsamples={n_samples}:p=0"
    # Behind the input: what is selected there is read, and so paced, by what is left.
    chosen = ("-af", f"aselect='{pauses}'") if pauses else ()
    ports = f"localport={source[1]}&localrtcpport={source[1] + 1}"
    ends = f"{to[0]}:{to[1]}?localaddr={source[0]}"
    sealed = ("-srtp_out_suite", SUITE, "-srtp_out_params", key) if key else ()
    where = f"srtp://{ends}&{ports}&pkt_size=188" if key else f"rtp://{ends}&{ports}&pkt_size=172"
    if bare:
        where = f"udp://{ends}&localport={source[1]}&pkt_size=160"
    command = [
        "ffmpeg", "-loglevel", "error", "-readrate", str(pace), "-f", "lavfi", "-i", filters,
        "-t", f"{seconds:.2f}", *chosen, "-c:a", codec,
        "-f", "mulaw" if bare else "rtp", *sealed, where,
    ]  # fmt: skip
    return Program(command, home)
