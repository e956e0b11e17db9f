from collections.abc import Sequence
from typing import NamedTuple, Self

from _typeshed import ReadableBuffer

class RtpPacket(NamedTuple):
    payload_type: int
    marker: bool
    seq: int
    timestamp: int
    ssrc: int
    csrcs: tuple[int, ...] = ()
    extension_profile: int | None = None
    extension: bytes = b""
    payload: bytes = b""

class DtmfPayload(NamedTuple):
    event: int
    end: bool
    volume: int
    duration: int

class ReportBlock(NamedTuple):
    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_seq: int
    jitter: int
    last_sr: int
    delay_since_sr: int

class SenderInfo(NamedTuple):
    ntp_sec: int
    ntp_frac: int
    rtp_timestamp: int
    n_packets: int
    n_octets: int

class RtcpPacket(NamedTuple):
    type: int
    ssrc: int
    sender: SenderInfo | None
    reports: list[ReportBlock]
    text: bytes

def parse_rtp(datagram: ReadableBuffer) -> RtpPacket: ...
def build_rtp(packet: RtpPacket) -> bytes: ...
def parse_dtmf(payload: ReadableBuffer) -> DtmfPayload: ...
def build_dtmf(event: int, end: bool, volume: int, duration: int) -> bytes: ...
def parse_rtcp(datagram: ReadableBuffer) -> list[RtcpPacket]: ...
def build_report(
    ssrc: int, sender: SenderInfo | None = None, reports: Sequence[ReportBlock] = ()
) -> bytes: ...
def build_sdes(ssrc: int, cname: ReadableBuffer) -> bytes: ...
def build_bye(ssrc: int, reason: ReadableBuffer = b"") -> bytes: ...

class RtpSource:
    def __new__(cls, ssrc: int, seq: int, clock_rate: int = 8000, probation: int = 0) -> Self: ...
    def update(self, seq: int, timestamp: int, now: float) -> bool: ...
    def heard_sender_report(self, ntp_sec: int, ntp_frac: int, now: float) -> None: ...
    def report(self, now: float) -> ReportBlock: ...
    @property
    def expected(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def jitter(self) -> float: ...
