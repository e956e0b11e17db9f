"""G.722: the ITU's vectors, and libg722 (PyPI G722) as oracle on every lane and vector unit."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from G722 import G722
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._codecs import g722
from gateway.errors import UsageError

UNITS = sorted({g722.select_unit(u) for u in (0, 1, 2)})


@pytest.fixture(params=UNITS, ids=lambda u: ("baseline", "avx2", "avx512")[u])
def unit(request) -> Iterator[int]:
    assert g722.select_unit(request.param) == request.param
    yield request.param
    g722.select_unit()


def oracle_encode(pcm: np.ndarray, rate: int = 16000) -> bytes:
    return bytes(G722(rate, 64000).encode(pcm.tolist()))


def oracle_decode(payload: bytes, rate: int = 16000) -> bytes:
    return np.asarray(G722(rate, 64000).decode(payload), np.int16).tobytes()


def signal(kind: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(kind)
    t = np.arange(n)
    shapes = [
        lambda: rng.integers(-32768, 32768, n),
        lambda: np.where(t // (2 + kind) % 2, 32767, -32768),
        lambda: 32767 * np.sin(np.pi * 0.4 * t * t / n * (1 + kind / 32)),
        lambda: rng.normal(0, 3000, n) * np.sin(t / 900),
        lambda: np.zeros(n),
        lambda: 9000 * np.sin(2 * np.pi * t * (300 + 90 * kind) / 16000) + rng.normal(0, 50, n),
        lambda: np.full(n, -32768),
    ]
    return np.clip(shapes[kind % 7](), -32768, 32767).astype(np.int16)


def run(coder, method: str, streams: list[bytes], frame: int) -> list[bytes]:
    out = [b""] * len(streams)
    for at in range(0, len(streams[0]), frame):
        parts = getattr(coder, method)([s[at : at + frame] for s in streams])
        out = [o + p for o, p in zip(out, parts, strict=True)]
    return out


def test_every_lane_encodes_as_libg722(unit) -> None:
    pcm = [signal(lane, 320 * 12) for lane in range(32)]
    got = run(g722.G722Encoder(), "encode", [p.tobytes() for p in pcm], 640)
    assert got == [oracle_encode(p) for p in pcm]


def test_every_lane_decodes_as_libg722(unit) -> None:
    rng = np.random.default_rng(7)
    streams = [oracle_encode(signal(lane, 3200)) + rng.bytes(1600) for lane in range(32)]
    got = run(g722.G722Decoder(), "decode", streams, 160)
    assert got == [oracle_decode(s) for s in streams]


def test_the_lower_band_alone_is_libg722_at_8_khz(unit) -> None:
    pcm = [signal(lane, 160 * 12) for lane in range(32)]
    coded = run(g722.G722Encoder(narrow=True), "encode", [p.tobytes() for p in pcm], 320)
    assert coded == [oracle_encode(p, 8000) for p in pcm]
    streams = [c[:800] + np.random.default_rng(i).bytes(800) for i, c in enumerate(coded)]
    heard = run(g722.G722Decoder(narrow=True), "decode", streams, 160)
    assert heard == [oracle_decode(s, 8000) for s in streams]


def test_the_lower_band_alone_keeps_lanes_without_a_frame(unit) -> None:
    pcm = signal(3, 480)
    encoder, decoder = g722.G722Encoder(narrow=True), g722.G722Decoder(narrow=True)
    coded = heard = b""
    for at in range(0, 480, 160):
        frame = pcm[at : at + 160].tobytes()
        payloads = encoder.encode([None] * 17 + [frame])
        assert encoder.encode([frame])[0] is not None
        coded += payloads[17]
        heard += decoder.decode(payloads)[17]
    assert coded == oracle_encode(pcm, 8000)
    assert heard == oracle_decode(coded, 8000)


def test_what_is_coded_without_the_higher_band_is_heard_by_any_decoder() -> None:
    """In the middle of its band, where no filter takes anything away: nothing is added above it."""
    t = np.arange(8000)
    tone = np.round(8000 * np.sin(2 * np.pi * 1000 * t / 8000)).astype(np.int16)
    (coded,) = run(g722.G722Encoder(narrow=True), "encode", [tone.tobytes()], 320)
    wide = np.frombuffer(oracle_decode(coded), np.int16)[-8000:].astype(float)
    power = np.abs(np.fft.rfft(wide * np.hanning(8000))) ** 2  # 2 Hz a bin
    assert 490 <= power.argmax() <= 510
    assert np.sqrt(np.mean(wide**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.03)
    assert power[2500:].sum() < 1e-4 * power.sum()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_lanes_without_a_frame_keep_their_state(data) -> None:
    """Any lane count, mask and frame length in any order equals each stream on its own."""
    g722.select_unit(data.draw(st.sampled_from(UNITS)))
    lanes = data.draw(st.sampled_from([1, 2, 7, 16, 17, 32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    encoder, decoder = g722.G722Encoder(), g722.G722Decoder()
    sent, coded, decoded = ([b""] * lanes for _ in range(3))
    for _ in range(6):
        n = 16 * data.draw(st.sampled_from([1, 5, 10, 20, 30, 41, 120]))
        frames = [
            rng.integers(-32768, 32768, n).astype(np.int16).tobytes()
            if rng.random() < 0.5
            else None
            for _ in range(lanes)
        ]
        payloads = encoder.encode(frames)
        heard = decoder.decode(payloads)
        for lane, frame in enumerate(frames):
            if frame is None:
                assert payloads[lane] is None
                assert heard[lane] is None
                continue
            sent[lane] += frame
            coded[lane] += payloads[lane]
            decoded[lane] += heard[lane]
    g722.select_unit()
    for lane in range(lanes):
        assert coded[lane] == oracle_encode(np.frombuffer(sent[lane], np.int16))
        assert decoded[lane] == oracle_decode(coded[lane])


def test_reset_starts_one_lane_anew(unit) -> None:
    pcm = signal(0, 320).tobytes()
    encoder = g722.G722Encoder()
    first = encoder.encode([pcm, pcm])
    encoder.reset(0)
    again = encoder.encode([pcm, pcm])
    assert again[0] == first[0]
    assert again[1] != first[1]


def test_software_tool_library_vectors(unit, corpus) -> None:
    folder: Path = corpus("g722-stl")
    pcm, code = (folder / "inpsp.bin").read_bytes(), (folder / "canonical-64k.g722").read_bytes()
    assert run(g722.G722Encoder(), "encode", [pcm], 640) == [code]
    for mode, kbit in enumerate((64, 56, 48), 1):
        expected = (folder / f"outsp{mode}.bin").read_bytes()
        assert run(g722.G722Decoder(kbit), "decode", [code], 160) == [expected]


def band_words(path: Path) -> np.ndarray:
    """A digital test sequence from its last reset on: both its ends carry reset words."""
    return np.fromfile(path, "<u2")


def active(words: np.ndarray) -> slice:
    """The stretch between the leading and the trailing reset words."""
    live = np.flatnonzero((words & 1) == 0)
    assert (np.diff(live) == 1).all()
    return slice(live[0], live[-1] + 1)


@pytest.mark.parametrize(("source", "target"), [("bt1c1", "bt2r1"), ("bt1c2", "bt2r2")])
def test_itu_digital_sequences_encode(unit, corpus, source, target) -> None:
    folder: Path = corpus("g722-itu") / "le"
    words = band_words(folder / f"{source}.xmt")
    live = active(words)
    x = (words[live].astype(np.int16) >> 1).astype(np.int16)
    pad = -len(x) % 8
    pairs = np.repeat(np.pad(x, (0, pad)), 2).tobytes()  # the same sample to both bands
    (code,) = run(g722.G722Encoder(bands=True), "encode", [pairs], 640)
    expected = band_words(folder / f"{target}.cod")
    got = np.frombuffer(code, np.uint8)[: len(x)]
    assert np.array_equal(got, (expected[live] >> 8).astype(np.uint8))


@pytest.mark.parametrize("kbit", [64, 56, 48])
@pytest.mark.parametrize(("source", "n"), [("bt2r1", 1), ("bt2r2", 2), ("bt1d3", 3)])
def test_itu_digital_sequences_decode(unit, corpus, source, n, kbit) -> None:
    folder: Path = corpus("g722-itu") / "le"
    words = band_words(folder / f"{source}.cod")
    live = active(words)
    code = (words[live] >> 8).astype(np.uint8)
    padded = np.pad(code, (0, -len(code) % 8)).tobytes()
    (pcm,) = run(g722.G722Decoder(kbit, bands=True), "decode", [padded], 160)
    bands = np.frombuffer(pcm, np.int16)[: 2 * len(code)]
    mode = (72 - kbit) // 8
    for band, name in ((0, f"bt3l{n}.rc{mode}"), (1, f"bt3h{n}.rc0")):
        expected = band_words(folder / name)[live].astype(np.int16) >> 1
        assert np.array_equal(bands[band::2], expected)


class Codec(ctypes.Structure):
    """cp_codec of codec.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("numbers", ctypes.c_int32 * 6),
        ("decoder_bytes", ctypes.c_size_t),
        ("encoder_bytes", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("init_decoder", "init_encoder", "decode", "encode")),
    )


def test_plain_code_of_other_machines(program, tmp_path: Path) -> None:
    """The source without any of this machine's vector instructions, as another one compiles it."""
    folder = Path(__file__).parents[2] / "gateway" / "_codecs"
    library = tmp_path / "plain.so"
    flags = ["-O2", "-fno-strict-aliasing", "-shared", "-fPIC", "-DCP_G722_PLAIN", "-o", library]
    compiler = program(os.environ.get("CC", "gcc"))
    subprocess.run([compiler, *flags, folder / "g722_impl.c"], check=True)
    codec = Codec.in_dll(ctypes.CDLL(str(library)), "cp_g722_64")
    pointer, mask, count = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32
    start = ctypes.CFUNCTYPE(None, pointer, mask)(codec.init_encoder)
    run_type = ctypes.CFUNCTYPE(count, pointer, pointer, pointer, mask, count)
    pcm = np.stack([signal(lane, 1920) for lane in range(32)])
    code, heard = np.zeros((32, 960), np.uint8), np.zeros((32, 1920), np.int16)
    for coder, source, target in ((codec.encode, pcm, code), (codec.decode, code, heard)):
        memory = np.zeros(codec.encoder_bytes + 64, np.uint8)
        group = memory.ctypes.data + -memory.ctypes.data % 64
        start(group, 0xFFFFFFFF)
        rows = [(ctypes.c_void_p * 32)(*(row.ctypes.data for row in x)) for x in (source, target)]
        assert run_type(coder)(group, rows[0], rows[1], 0xFFFFFFFF, 1920) in (960, 1920)
    for lane in range(32):
        assert code[lane].tobytes() == oracle_encode(pcm[lane])
        assert heard[lane].tobytes() == oracle_decode(code[lane].tobytes())


def test_bad_batches_are_refused() -> None:
    encoder, decoder = g722.G722Encoder(), g722.G722Decoder()
    for frames in ([b"\0" * 30], [b""], [b"\0" * 32 * 121], [b"\0" * 640, b"\0" * 320]):
        with pytest.raises(UsageError):
            encoder.encode(frames)
    for frames in ([b"\0" * 7], [b""], [b"\0" * 968], [b"\0" * 160] * 33):
        with pytest.raises(UsageError):
            decoder.decode(frames)
    with pytest.raises(UsageError):
        g722.G722Decoder(32)
    with pytest.raises(UsageError):
        g722.G722Decoder(56, narrow=True)
    with pytest.raises(UsageError):
        g722.G722Encoder(narrow=True).encode([b"\0" * 30])
    with pytest.raises(UsageError):
        encoder.reset(32)
    assert encoder.encode([None, None]) == [None, None]
