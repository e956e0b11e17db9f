"""Frames: against pymodbus's server side, and against everything that is no frame."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.modbus import frames
from gateway.adapters.modbus.frames import RtuFrames, TcpFrames
from gateway.errors import PeerError

COUNT: Counter[str] = Counter()


def count(name: str, n: int = 1) -> None:
    COUNT[name] += n


def test_the_examples_of_the_specification() -> None:
    """Modbus Application Protocol V1.1b3 sections 6.1 to 6.12, as RTU and TCP frames."""
    for request, pdu in (
        (frames.read(1, "coil", 0x13, 0x13), "01 0013 0013"),
        (frames.read(1, "discrete", 0xC4, 0x16), "02 00C4 0016"),
        (frames.read(1, "holding", 0x6B, 3), "03 006B 0003"),
        (frames.read(1, "input", 8, 1), "04 0008 0001"),
        (frames.write_coil(1, 0xAC, 0xFF00), "05 00AC FF00"),
        (frames.write_registers(1, 1, [3]), "06 0001 0003"),
        (frames.write_registers(1, 1, [0x0A, 0x0102]), "10 0001 0002 04 000A 0102"),
    ):
        tcp = TcpFrames(count).begin(request)
        assert tcp[7:] == bytes.fromhex(pdu)
        rtu = RtuFrames(count).begin(request)
        assert rtu[1:-2] == bytes.fromhex(pdu)
    # Serial Line V1.02 appendix B: the check octets of 02 07 are 41 12.
    assert frames.rtu(2, b"\x07") == bytes.fromhex("0207 4112")
    # Some boards take the length of a pulse where on and off are.
    assert RtuFrames(count).begin(frames.write_coil(1, 0x200, 7))[1:-2].hex() == "0502000007"


def test_an_answer_is_found_behind_noise_and_an_echo() -> None:
    request = frames.read(7, "holding", 5, 1)
    line = RtuFrames(count, echo=True)
    sent = line.begin(request)
    answer = frames.rtu(7, b"\x03\x02\x12\x34")
    assert line.feed(b"\xff" + sent[:3]) is None
    assert line.feed(sent[3:] + b"\x00\x07\x03" + answer[:4]) is None
    found = line.feed(answer[4:])
    assert found is not None
    assert list(found.registers) == [0x1234]


def test_exceptions_have_names() -> None:
    line = RtuFrames(count)
    line.begin(frames.read(7, "holding", 5, 1))
    with pytest.raises(PeerError, match="illegal data address") as refused:
        line.feed(frames.rtu(7, b"\x83\x02"))
    assert refused.value.status == 2


@pytest.mark.parametrize("pdu", ["0302123456", "030412345678", "0402 1234", "03", "0303 1234"])
def test_an_answer_to_something_else_is_refused(pdu: str) -> None:
    tcp = TcpFrames(count)
    request = frames.read(1, "holding", 5, 1)
    tcp.begin(request)
    with pytest.raises(PeerError):
        tcp.feed(frames.mbap(request.transaction_id, 1, bytes.fromhex(pdu)))


def test_a_write_that_is_confirmed_for_another_coil_is_refused() -> None:
    tcp = TcpFrames(count)
    request = frames.write_coil(1, 5, 0xFF00)
    tcp.begin(request)
    with pytest.raises(PeerError, match="confirms something else"):
        tcp.feed(frames.mbap(request.transaction_id, 1, bytes.fromhex("05 0006 FF00")))


_requests = st.one_of(
    st.builds(
        frames.read,
        st.integers(1, 247),
        st.sampled_from(("coil", "discrete", "holding", "input")),
        st.integers(0, 65535),
        st.integers(1, 125),
    ),
    st.builds(
        frames.write_registers,
        st.integers(1, 247),
        st.integers(0, 65535),
        st.lists(st.integers(0, 65535), min_size=1, max_size=4),
    ),
)


@given(_requests, st.lists(st.binary(max_size=300), max_size=8))
def test_garbage_is_refused_or_waited_through(request_: object, chunks: list[bytes]) -> None:
    for line in (TcpFrames(count), RtuFrames(count), RtuFrames(count, echo=True)):
        line.begin(request_)  # type: ignore[arg-type]
        for chunk in chunks:
            try:
                line.feed(chunk)
            except PeerError:
                break


@given(_requests, st.binary(max_size=60))
def test_garbage_with_a_right_frame_around_it_is_refused(request_: object, pdu: bytes) -> None:
    tcp, rtu = TcpFrames(count), RtuFrames(count)
    for line, wrap in ((tcp, True), (rtu, False)):
        line.begin(request_)  # type: ignore[arg-type]
        data = bytes((request_.function_code,)) + pdu  # type: ignore[attr-defined]
        unit = request_.dev_id  # type: ignore[attr-defined]
        number = request_.transaction_id  # type: ignore[attr-defined]
        try:
            found = line.feed(frames.mbap(number, unit, data) if wrap else frames.rtu(unit, data))
        except PeerError:
            continue
        assert found is None or len(data) == frames.answer_size(request_)  # type: ignore[arg-type]


@given(st.binary(max_size=20), st.integers(1, 125), st.integers(1, 247))
def test_a_whole_answer_is_always_found(noise: bytes, n_registers: int, unit: int) -> None:
    line = RtuFrames(count)
    line.begin(frames.read(unit, "input", 0, n_registers))
    answer = bytes((4, 2 * n_registers)) + bytes(range(2 * n_registers))
    found = line.feed(noise + frames.rtu(unit, answer))
    assert found is not None
    assert len(found.registers) == n_registers
