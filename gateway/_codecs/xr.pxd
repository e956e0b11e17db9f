"""RTCP extended reports."""

from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t

cdef extern from "xr_impl.h" nogil:
    enum:
        CP_XR_RRTR
        CP_XR_DLRR
        CP_XR_VOIP

    ctypedef struct cp_xr_block:
        uint8_t type
        uint8_t specific
        int32_t offset
        int32_t len

    ctypedef struct cp_voip_metrics:
        uint32_t ssrc
        uint8_t loss_rate
        uint8_t discard_rate
        uint8_t burst_density
        uint8_t gap_density
        uint16_t burst_ms
        uint16_t gap_ms
        uint16_t round_trip_ms
        uint16_t end_system_ms
        int8_t signal_dbm0
        int8_t noise_dbm0
        uint8_t echo_loss_db
        uint8_t gmin
        uint8_t r_factor
        uint8_t external_r
        uint8_t mos_lq
        uint8_t mos_cq
        uint8_t config
        uint16_t buffer_ms
        uint16_t buffer_max_ms
        uint16_t buffer_abs_max_ms

    ctypedef struct cp_bursts:
        uint32_t n

    int32_t cp_xr_next(const uint8_t *body, int32_t len, int32_t *at, cp_xr_block *out)
    int32_t cp_xr_rrtr_parse(const uint8_t *p, int32_t n, uint32_t *middle)
    int32_t cp_xr_dlrr_find(const uint8_t *p, int32_t n, uint32_t ssrc, uint32_t *last,
                            uint32_t *delay)
    int32_t cp_xr_voip_parse(const uint8_t *p, int32_t n, cp_voip_metrics *out)
    int32_t cp_xr_begin(uint8_t *p, int32_t cap, uint32_t ssrc)
    int32_t cp_xr_rrtr(uint8_t *p, int32_t cap, uint32_t ntp_sec, uint32_t ntp_frac)
    int32_t cp_xr_dlrr(uint8_t *p, int32_t cap, uint32_t ssrc, uint32_t last, uint32_t delay)
    int32_t cp_xr_voip(uint8_t *p, int32_t cap, const cp_voip_metrics *m)
    void cp_xr_end(uint8_t *p, int32_t len)
    void cp_bursts_add(cp_bursts *b, int32_t what)
    void cp_bursts_metrics(const cp_bursts *b, double packet_ms, cp_voip_metrics *m)
    double cp_e_model(double ie, double bpl, double loss_percent, double one_way_ms)
    double cp_e_model_mos(double r)
