"""RTCP extended reports (RFC 3611): VoIP metrics, receivers' round trips, bursts of loss."""

from collections import namedtuple

from gateway._codecs.edge cimport blank, octets, u8
from gateway.errors import PeerError, UsageError
from libc.string cimport memset

VoipMetrics = namedtuple(
    "VoipMetrics",
    "ssrc loss_rate discard_rate burst_density gap_density burst_ms gap_ms round_trip_ms "
    "end_system_ms signal_dbm0 noise_dbm0 echo_loss_db gmin r_factor external_r mos_lq mos_cq "
    "config buffer_ms buffer_max_ms buffer_abs_max_ms",
    defaults=(0,) * 20)


cdef object _tuple(const cp_voip_metrics *m):
    return VoipMetrics(
        m.ssrc, m.loss_rate, m.discard_rate, m.burst_density, m.gap_density, m.burst_ms, m.gap_ms,
        m.round_trip_ms, m.end_system_ms, m.signal_dbm0, m.noise_dbm0, m.echo_loss_db, m.gmin,
        m.r_factor, m.external_r, m.mos_lq, m.mos_cq, m.config, m.buffer_ms, m.buffer_max_ms,
        m.buffer_abs_max_ms)


def parse_xr(body, uint32_t ssrc=0) -> list:
    """What an XR packet's body (its SSRC first) says, block by block, unknown types left out.

    ``("rrtr", middle)``, ``("dlrr", last, delay)`` if it is about `ssrc`, ``("voip", VoipMetrics)``.
    Raises PeerError if lengths do not add up or a block is too short.
    """
    cdef bytes data = octets(body)
    cdef int32_t at = 4, code, n = <int32_t>len(data)
    cdef cp_xr_block b
    cdef cp_voip_metrics m
    cdef uint32_t one, two
    found = []
    while True:
        code = cp_xr_next(u8(data), n, &at, &b)
        if code == 0:
            return found
        if code < 0:
            raise PeerError(f"XR packet of {n} octets: lengths do not add up")
        code = 0
        if b.type == CP_XR_RRTR:
            code = cp_xr_rrtr_parse(u8(data) + b.offset, b.len, &one)
            if code == 0:
                found.append(("rrtr", one))
        elif b.type == CP_XR_DLRR:
            if cp_xr_dlrr_find(u8(data) + b.offset, b.len, ssrc, &one, &two):
                found.append(("dlrr", one, two))
        elif b.type == CP_XR_VOIP:
            code = cp_xr_voip_parse(u8(data) + b.offset, b.len, &m)
            if code == 0:
                found.append(("voip", _tuple(&m)))
        if code < 0:
            raise PeerError(f"XR block of type {b.type}: {b.len} octets are too few")


def build_xr(uint32_t ssrc, *, ntp=None, dlrr=None, metrics=None) -> bytes:
    """An XR packet with the blocks that are given, in the order of their types.

    `ntp`: seconds and fraction; `dlrr`: SSRC, last RRTR, delay in 1/65536 s; `metrics`: VoipMetrics.
    """
    cdef bytes out = blank(8 + 12 + 16 + 36)
    cdef uint8_t *p = u8(out)
    cdef int32_t cap = <int32_t>len(out), n = cp_xr_begin(p, cap, ssrc)
    cdef cp_voip_metrics m
    if ntp is not None:
        n += cp_xr_rrtr(p + n, cap - n, ntp[0], ntp[1])
    if dlrr is not None:
        n += cp_xr_dlrr(p + n, cap - n, dlrr[0], dlrr[1], dlrr[2])
    if metrics is not None:
        (m.ssrc, m.loss_rate, m.discard_rate, m.burst_density, m.gap_density, m.burst_ms, m.gap_ms,
         m.round_trip_ms, m.end_system_ms, m.signal_dbm0, m.noise_dbm0, m.echo_loss_db, m.gmin,
         m.r_factor, m.external_r, m.mos_lq, m.mos_cq, m.config, m.buffer_ms, m.buffer_max_ms,
         m.buffer_abs_max_ms) = metrics
        n += cp_xr_voip(p + n, cap - n, &m)
    cp_xr_end(p, n)
    return out[:n]


def bursts(events, double packet_ms=20.0):
    """VoipMetrics of packets in their order: 0 good, 1 lost, 2 discarded (RFC 3611 A.2)."""
    cdef cp_bursts b
    cdef cp_voip_metrics m
    memset(&b, 0, sizeof(b))
    memset(&m, 0, sizeof(m))
    for event in events:
        if event not in (0, 1, 2):
            raise UsageError(f"{event!r} is no event; use 0, 1 or 2")
        cp_bursts_add(&b, event)
    cp_bursts_metrics(&b, packet_ms, &m)
    return _tuple(&m)


def e_model(double ie, double bpl, double loss_percent, double one_way_ms) -> tuple:
    """Rating R (ITU-T G.107, defaults but for loss and delay) and the MOS of its Annex B."""
    cdef double r = cp_e_model(ie, bpl, loss_percent, one_way_ms)
    return r, cp_e_model_mos(r)
