"""RTP and RTCP (RFC 3550) and telephone events (RFC 4733): parse, build, account."""

from collections import namedtuple

from gateway._codecs.edge cimport blank, octets, u8
from gateway.errors import PeerError, UsageError




RtpPacket = namedtuple(
    "RtpPacket", "payload_type marker seq timestamp ssrc csrcs extension_profile extension payload",
    defaults=((), None, b"", b""))
DtmfPayload = namedtuple("DtmfPayload", "event end volume duration")
ReportBlock = namedtuple(
    "ReportBlock", "ssrc fraction_lost cumulative_lost highest_seq jitter last_sr delay_since_sr")
SenderInfo = namedtuple("SenderInfo", "ntp_sec ntp_frac rtp_timestamp n_packets n_octets")
RtcpPacket = namedtuple("RtcpPacket", "type ssrc sender reports text")

_REASONS = {
    CP_RTP_SHORT: "shorter than its header says",
    CP_RTP_VERSION: "version is not 2",
    CP_RTP_PADDING: "bad padding",
    CP_RTP_IS_RTCP: "RTCP, not RTP",
    CP_RTCP_TYPE: "compound does not start with a report",
    CP_RTCP_LENGTH: "lengths do not add up",
}


def parse_rtp(datagram) -> RtpPacket:
    """One RTP packet (RFC 3550 5.1). Raises PeerError if it is malformed."""
    cdef cp_rtp h
    cdef bytes data = octets(datagram)
    cdef int32_t code = cp_rtp_parse(u8(data), <int32_t>len(data), &h)
    if code < 0:
        raise PeerError(f"RTP packet of {len(data)} octets: {_REASONS[code]}")
    return RtpPacket(
        h.payload_type, bool(h.marker), h.seq, h.timestamp, h.ssrc,
        tuple([h.csrc[i] for i in range(h.n_csrc)]),
        h.extension_profile if h.has_extension else None,
        data[h.extension_offset:h.extension_offset + h.extension_len],
        data[h.payload_offset:h.payload_offset + h.payload_len])


def build_rtp(packet) -> bytes:
    """The datagram of an RtpPacket without header extension."""
    cdef cp_rtp h
    cdef bytes payload = octets(packet.payload), out = blank(12 + 4 * 15)
    cdef int32_t i, n
    if len(packet.csrcs) > 15 or packet.extension_profile is not None:
        raise UsageError("RTP header: at most 15 CSRCs, no extension")
    h.payload_type = packet.payload_type
    h.marker = packet.marker
    h.seq = packet.seq
    h.timestamp = packet.timestamp
    h.ssrc = packet.ssrc
    h.n_csrc = len(packet.csrcs)
    for i in range(h.n_csrc):
        h.csrc[i] = packet.csrcs[i]
    n = cp_rtp_build(u8(out), <int32_t>len(out), &h)
    return out[:n] + payload


def parse_dtmf(payload) -> DtmfPayload:
    """A telephone-event payload (RFC 4733 2.3). Raises PeerError if it is too short."""
    cdef cp_rtp_dtmf event
    cdef bytes data = octets(payload)
    if cp_rtp_dtmf_parse(u8(data), <int32_t>len(data), &event) < 0:
        raise PeerError(f"telephone event of {len(data)} octets: at least 4")
    return DtmfPayload(event.event, bool(event.end), event.volume, event.duration)


def build_dtmf(uint8_t event, bint end, uint8_t volume, uint16_t duration) -> bytes:
    """The four octets of a telephone event."""
    cdef cp_rtp_dtmf e
    e.event, e.end, e.volume, e.duration = event, end, volume, duration
    cdef bytes out = blank(4)
    cp_rtp_dtmf_build(u8(out), &e)
    return out


cdef object _block(const cp_report_block *b):
    return ReportBlock(b.ssrc, b.fraction_lost, b.cumulative_lost, b.highest_seq, b.jitter,
                       b.last_sr, b.delay_since_sr)


def parse_rtcp(datagram) -> list:
    """The packets of an RTCP compound (RFC 3550 6, A.2). Raises PeerError if it is malformed.

    `text` is the CNAME of an SDES packet's first chunk or the reason of a BYE.
    """
    cdef bytes data = octets(datagram)
    cdef int32_t offset = 0, i, code = cp_rtcp_check(u8(data), <int32_t>len(data))
    cdef cp_rtcp_packet p
    cdef cp_report_block b
    if code < 0:
        raise PeerError(f"RTCP compound of {len(data)} octets: {_REASONS[code]}")
    packets = []
    while True:
        code = cp_rtcp_next(u8(data), <int32_t>len(data), &offset, &p)
        if code == 0:
            return packets
        if code < 0:
            raise PeerError(f"RTCP packet of type {p.type}: {_REASONS[code]}")
        sender = None
        if p.type == CP_RTCP_SR:
            sender = SenderInfo(p.ntp_sec, p.ntp_frac, p.rtp_timestamp, p.n_packets, p.n_octets)
        reports = []
        for i in range(p.n_reports):
            cp_rtcp_report(u8(data), &p, i, &b)
            reports.append(_block(&b))
        packets.append(RtcpPacket(p.type, p.ssrc, sender, reports,
                                  data[p.text_offset:p.text_offset + p.text_len]))


def build_report(uint32_t ssrc, sender=None, reports=()) -> bytes:
    """A sender report if `sender` is given, else a receiver report; at most 31 blocks."""
    cdef cp_rtcp_packet s
    cdef cp_report_block blocks[31]
    cdef bytes out = blank(28 + 24 * 31)
    cdef int32_t i, n = <int32_t>len(reports)
    if n > 31:
        raise UsageError(f"{n} report blocks: at most 31")
    for i in range(n):
        r = reports[i]
        blocks[i].ssrc, blocks[i].fraction_lost = r.ssrc, r.fraction_lost
        blocks[i].cumulative_lost, blocks[i].highest_seq = r.cumulative_lost, r.highest_seq
        blocks[i].jitter, blocks[i].last_sr = r.jitter, r.last_sr
        blocks[i].delay_since_sr = r.delay_since_sr
    if sender is not None:
        s.ntp_sec, s.ntp_frac, s.rtp_timestamp = sender.ntp_sec, sender.ntp_frac, sender.rtp_timestamp
        s.n_packets, s.n_octets = sender.n_packets, sender.n_octets
    n = cp_rtcp_build_report(u8(out), <int32_t>len(out), ssrc, &s if sender is not None else NULL,
                             blocks, n)
    return out[:n]


def build_sdes(uint32_t ssrc, cname) -> bytes:
    """An SDES packet with one CNAME of at most 255 octets."""
    cdef bytes text = octets(cname), out = blank(268)
    if len(text) > 255:
        raise UsageError(f"CNAME of {len(text)} octets: at most 255")
    return out[:cp_rtcp_build_sdes(u8(out), <int32_t>len(out), ssrc, u8(text), <int32_t>len(text))]


def build_bye(uint32_t ssrc, reason=b"") -> bytes:
    """A BYE for one source; the reason is at most 255 octets."""
    cdef bytes text = octets(reason), out = blank(268)
    if len(text) > 255:
        raise UsageError(f"BYE reason of {len(text)} octets: at most 255")
    return out[:cp_rtcp_build_bye(u8(out), <int32_t>len(out), ssrc, u8(text), <int32_t>len(text))]


cdef class RtpSource:
    """Sequence, loss and jitter of one received source (RFC 3550 A.1, A.3, A.8)."""

    cdef cp_rtp_source state

    def __cinit__(self, uint32_t ssrc, uint16_t seq, uint32_t clock_rate=8000,
                  uint32_t probation=0):
        cp_rtp_source_init(&self.state, ssrc, seq, clock_rate, probation)

    def update(self, uint16_t seq, uint32_t timestamp, double now) -> bool:
        """One packet that arrived at `now` seconds; False on probation or at a jump."""
        return bool(cp_rtp_source_update(&self.state, seq, timestamp, <int64_t>(now * 1e9)))

    def heard_sender_report(self, uint32_t ntp_sec, uint32_t ntp_frac, double now):
        """The source's sender report arrived at `now` seconds."""
        cp_rtp_source_sr(&self.state, ntp_sec, ntp_frac, <int64_t>(now * 1e9))

    def report(self, double now):
        """The report block for the interval that ends now."""
        cdef cp_report_block b
        cp_rtp_source_report(&self.state, &b, <int64_t>(now * 1e9))
        return _block(&b)

    @property
    def expected(self) -> int:
        return cp_rtp_source_expected(&self.state)

    @property
    def received(self) -> int:
        return self.state.received

    @property
    def lost(self) -> int:
        return cp_rtp_source_lost(&self.state)

    @property
    def jitter(self) -> float:
        """Timestamp units."""
        return self.state.jitter
