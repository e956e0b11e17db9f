"""G.711 against the ITU software tool library's vectors: every encoder input, every octet."""

from pathlib import Path

import numpy as np
import pytest

from gateway._codecs import g711

ALL_SAMPLES = np.arange(-32768, 32768).astype(np.int16)
ALL_OCTETS = bytes(range(256))


@pytest.mark.parametrize(
    ("law", "encode", "decode"),
    [("u", g711.encode_ulaw, g711.decode_ulaw), ("a", g711.encode_alaw, g711.decode_alaw)],
)
def test_itu_sweep(corpus, law, encode, decode) -> None:
    folder: Path = corpus("g711-stl")
    src = np.fromfile(folder / "sweep.src", "<i2")
    assert len(set(src.tolist())) > 60000
    codes = np.fromfile(folder / f"sweep-r.{law}", "<i2").astype(np.uint8).tobytes()
    assert encode(src) == codes
    expanded = np.fromfile(folder / f"sweep-r.{law}-{law}", "<i2")
    assert np.array_equal(np.frombuffer(decode(codes), np.int16), expanded)


@pytest.mark.parametrize(
    ("encode", "decode", "steps"),
    [(g711.encode_ulaw, g711.decode_ulaw, 255), (g711.encode_alaw, g711.decode_alaw, 256)],
)
def test_all_inputs(encode, decode, steps) -> None:
    values = np.frombuffer(decode(ALL_OCTETS), np.int16)
    assert len(set(values.tolist())) == steps  # mu-law has two zeros
    decoded = np.frombuffer(decode(encode(ALL_SAMPLES)), np.int16).astype(int)
    sent = ALL_SAMPLES.astype(int)
    # Sixteen steps to a segment: half a step is at most a 32nd of the sample.
    assert (np.abs(decoded - sent) <= np.abs(sent) / 32 + 16).all()
    assert (np.diff(decoded) >= 0).all()
    assert encode(values)[128:] == ALL_OCTETS[128:]


def test_direct_tables_are_decode_then_encode() -> None:
    assert g711.convert_ulaw_to_alaw(ALL_OCTETS) == g711.encode_alaw(g711.decode_ulaw(ALL_OCTETS))
    assert g711.convert_alaw_to_ulaw(ALL_OCTETS) == g711.encode_ulaw(g711.decode_alaw(ALL_OCTETS))


def test_odd_octets_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        g711.encode_ulaw(b"\0" * 3)
    assert g711.encode_ulaw(b"") == b""
