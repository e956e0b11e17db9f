"""Modbus frames: requests to octets, octets to answers; no I/O and no clock.

PDUs and checksums are pymodbus's. Finding the answer in what a line delivers is ours, because a
serial line puts noise before it, and an answer that came too late must not be taken for the next
one. Source: Modbus Messaging on TCP/IP Implementation Guide V1.0b section 3.1.3 (MBAP header),
Modbus over Serial Line V1.02 section 2.5.1 (RTU).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Final

from pymodbus.framer.rtu import FramerRTU
from pymodbus.framer.socket import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from gateway.errors import PeerError

# What it would say of each spoilt frame we count instead.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "server device failure",
    5: "acknowledge: still at work",
    6: "server device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}
"""Modbus Application Protocol V1.1b3 section 7."""
OURS: Final = frozenset((1, 2, 3))
"""Exceptions that another try will not mend: the configuration asks for what is not there."""
UNREACHED: Final = frozenset((10, 11))
"""Exceptions of a gateway on the way, not of the device."""

_READS: Final[dict[str, type[ModbusPDU]]] = {
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
}
_MBAP: Final = struct.Struct(">HHHB")
_LONGEST_TCP: Final = 260
_KEPT: Final = 512


class _CoilWord(WriteSingleCoilRequest):
    """Function 5 with any value: some relay boards take the length of a pulse there."""

    word = 0

    def encode(self) -> bytes:
        return struct.pack(">HH", self.address, self.word)


def read(unit: int, table: str, address: int, count: int) -> ModbusPDU:
    """Read coils, discrete inputs, holding or input registers."""
    return _READS[table](dev_id=unit, address=address, count=count)


def write_coil(unit: int, address: int, word: int) -> ModbusPDU:
    """Write a coil: 0xFF00 is on, 0 is off, anything else is a maker's own."""
    request = _CoilWord(dev_id=unit, address=address)
    request.word = word
    return request


def write_registers(unit: int, address: int, words: list[int]) -> ModbusPDU:
    """Write one register with function 6, several with function 16."""
    if len(words) == 1:
        return WriteSingleRegisterRequest(dev_id=unit, address=address, registers=words)
    return WriteMultipleRegistersRequest(dev_id=unit, address=address, registers=words)


def answer_size(request: ModbusPDU) -> int:
    """Octets of the PDU that answers it, if it is no exception."""
    if request.function_code in (1, 2):
        return 2 + (request.count + 7) // 8
    if request.function_code in (3, 4):
        return 2 + 2 * request.count
    return 5


def check_answer(request: ModbusPDU, pdu: bytes) -> ModbusPDU:
    """Decode the answer to a request.

    Raises `PeerError` when it cannot be one; `status` is the exception code if it is one of those.
    """
    function = request.function_code
    if len(pdu) == 2 and pdu[0] == function | 0x80:
        text = EXCEPTIONS.get(pdu[1], f"exception {pdu[1]}")
        raise PeerError(text, status=pdu[1])
    if len(pdu) != answer_size(request) or pdu[0] != function:
        raise PeerError(f"the answer is none to function {function}: {pdu[:8].hex(' ')}")
    if function <= 4 and pdu[1] != len(pdu) - 2:
        raise PeerError(f"the answer holds {len(pdu) - 2} octets and says {pdu[1]}")
    if function in (5, 6) and pdu[1:] != request.encode():
        raise PeerError(f"the answer confirms something else: {pdu.hex(' ')}")
    if function == 16 and pdu[1:] != request.encode()[:4]:
        raise PeerError(f"the answer confirms something else: {pdu.hex(' ')}")
    found = DecodePDU(False).decode(pdu)
    if found is None:
        raise PeerError(f"the answer cannot be read: {pdu[:8].hex(' ')}")
    return found


class TcpFrames:
    """Driven by `begin` and `feed`."""

    def __init__(self, count: Callable[[str, int], None]) -> None:
        self._count = count
        self._framer = FramerSocket(DecodePDU(False))
        self._number = 0
        self._rest = b""
        self._request: ModbusPDU | None = None

    def begin(self, request: ModbusPDU) -> bytes:
        """The octets of a request; what comes from now on is for it."""
        self._number = self._number % 0xFFFF + 1
        request.transaction_id = self._number
        self._request = request
        return self._framer.buildFrame(request)

    def feed(self, data: bytes) -> ModbusPDU | None:
        """Octets from the far end; the answer once it is whole.

        Raises `PeerError` as `check_answer` does, and with status -1 when the stream can no longer
        be followed.
        """
        self._rest += data
        while len(self._rest) >= _MBAP.size:
            number, protocol, length, unit = _MBAP.unpack_from(self._rest)
            if protocol or not 2 <= length <= _LONGEST_TCP - 6:
                self._count("modbus.garbage", 1)
                raise PeerError(f"this is no Modbus: {self._rest[:8].hex(' ')}", status=-1)
            if len(self._rest) < 6 + length:
                return None
            pdu, self._rest = self._rest[7 : 6 + length], self._rest[6 + length :]
            request = self._request
            if request is None or number != request.transaction_id or unit != request.dev_id:
                self._count("modbus.late_answers", 1)
                continue
            self._request = None
            return check_answer(request, pdu)
        return None


class RtuFrames:
    """Driven by `begin` and `feed`."""

    def __init__(self, count: Callable[[str, int], None], *, echo: bool = False) -> None:
        self._count, self._echo = count, echo
        self._framer = FramerRTU(DecodePDU(False))
        self._rest = b""
        self._sent = b""
        self._request: ModbusPDU | None = None

    def begin(self, request: ModbusPDU) -> bytes:
        """The octets of a request; what came before it is noise."""
        self._drop(len(self._rest))
        self._request = request
        frame = self._framer.buildFrame(request)
        self._sent = frame if self._echo else b""
        return frame

    def feed(self, data: bytes) -> ModbusPDU | None:
        """Octets from the line; the answer once it is whole and its checksum right.

        Raises `PeerError` as `check_answer` does.
        """
        self._rest += data
        if self._sent:
            at = self._rest.find(self._sent)
            if at < 0:
                self._drop(len(self._rest) - _KEPT)
                return None
            self._drop(at)
            self._rest = self._rest[len(self._sent) :]
            self._sent = b""
        request = self._request
        if request is None:
            self._drop(len(self._rest))
            return None
        found = find_frame(self._rest, request.dev_id, _answer_sizes(request))
        if found is None:
            self._drop(len(self._rest) - _KEPT)
            return None
        at, pdu = found
        self._drop(at)
        self._rest = self._rest[len(pdu) + 3 :]
        self._request = None
        return check_answer(request, pdu)

    def _drop(self, n_octets: int) -> None:
        if n_octets > 0:
            self._count("modbus.noise_octets", n_octets)
            self._rest = self._rest[n_octets:]


def _answer_sizes(request: ModbusPDU) -> Callable[[bytes], int]:
    function, size = request.function_code, answer_size(request)

    def sizes(frame: bytes) -> int:
        if frame[1] == function:
            return size
        return 2 if frame[1] == function | 0x80 else 0

    return sizes


def request_size(frame: bytes) -> int:
    """Octets of the PDU in an RTU request that begins here; 0: none that we serve."""
    if frame[1] in (1, 2, 3, 4, 5, 6):
        return 5
    if frame[1] in (15, 16):
        return 6 + frame[6] if len(frame) > 6 else 250
    return 0


def find_frame(data: bytes, unit: int, sizes: Callable[[bytes], int]) -> tuple[int, bytes] | None:
    """Where in `data` a whole RTU frame of this unit begins, and its PDU; None: nowhere yet.

    sizes: given the octets from a unit's address on (at least two), the length of its PDU or 0.
    """
    at = data.find(unit)
    while 0 <= at <= len(data) - 4:
        size = sizes(data[at : at + 8])
        end = at + 1 + size + 2
        if size and end <= len(data):
            body, check = data[at : end - 2], int.from_bytes(data[end - 2 : end], "big")
            if FramerRTU.check_CRC(body, check):
                return at, body[1:]
        at = data.find(unit, at + 1)
    return None


def exception(function: int, code: int) -> bytes:
    """The PDU that refuses a request."""
    answer = ExceptionResponse(function & 0x7F, code)
    return bytes((answer.function_code,)) + answer.encode()


def rtu(unit: int, pdu: bytes) -> bytes:
    """An RTU frame."""
    body = bytes((unit,)) + pdu
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def mbap(number: int, unit: int, pdu: bytes) -> bytes:
    """A frame of Modbus TCP."""
    return _MBAP.pack(number, 0, len(pdu) + 1, unit) + pdu
