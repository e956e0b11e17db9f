"""RTP, RTCP and telephone events."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "rtp_impl.h":
    enum:
        CP_RTP_SHORT
        CP_RTP_VERSION
        CP_RTP_PADDING
        CP_RTP_IS_RTCP
        CP_RTCP_TYPE
        CP_RTCP_LENGTH
        CP_RTCP_NO_SPACE
    enum:
        CP_RTCP_SR
        CP_RTCP_RR
        CP_RTCP_SDES
        CP_RTCP_BYE
        CP_RTCP_APP

    ctypedef struct cp_rtp:
        uint32_t timestamp
        uint32_t ssrc
        uint16_t seq
        uint8_t payload_type
        uint8_t marker
        uint8_t n_csrc
        uint8_t has_extension
        uint16_t extension_profile
        uint32_t csrc[15]
        int32_t extension_offset
        int32_t extension_len
        int32_t payload_offset
        int32_t payload_len

    ctypedef struct cp_rtp_dtmf:
        uint8_t event
        uint8_t end
        uint8_t volume
        uint16_t duration

    ctypedef struct cp_rtp_source:
        uint32_t ssrc
        uint32_t clock_rate
        uint32_t cycles
        uint32_t base_seq
        uint32_t bad_seq
        uint32_t probation
        uint32_t received
        uint32_t expected_prior
        uint32_t received_prior
        uint16_t max_seq
        uint8_t has_transit
        uint32_t transit
        double jitter
        uint32_t last_sr
        int64_t last_sr_ns

    ctypedef struct cp_report_block:
        uint32_t ssrc
        uint8_t fraction_lost
        int32_t cumulative_lost
        uint32_t highest_seq
        uint32_t jitter
        uint32_t last_sr
        uint32_t delay_since_sr

    ctypedef struct cp_rtcp_packet:
        uint8_t type
        uint8_t count
        int32_t offset
        int32_t len
        uint32_t ssrc
        uint32_t ntp_sec
        uint32_t ntp_frac
        uint32_t rtp_timestamp
        uint32_t n_packets
        uint32_t n_octets
        int32_t n_reports
        int32_t text_offset
        int32_t text_len

    int32_t cp_rtp_parse(const uint8_t *p, int32_t n, cp_rtp *out) noexcept nogil
    int32_t cp_rtp_build(uint8_t *p, int32_t cap, const cp_rtp *header) noexcept nogil
    void cp_rtp_header(uint8_t *p, uint8_t payload_type, uint8_t marker, uint16_t seq,
            uint32_t timestamp, uint32_t ssrc) noexcept nogil
    int32_t cp_rtp_dtmf_parse(const uint8_t *p, int32_t n, cp_rtp_dtmf *out) noexcept nogil
    void cp_rtp_dtmf_build(uint8_t *p, const cp_rtp_dtmf *event) noexcept nogil
    void cp_rtp_source_init(cp_rtp_source *s, uint32_t ssrc, uint16_t seq, uint32_t clock_rate,
            uint32_t probation) noexcept nogil
    int32_t cp_rtp_source_update(cp_rtp_source *s, uint16_t seq, uint32_t timestamp,
            int64_t arrival_ns) noexcept nogil
    int64_t cp_rtp_source_expected(const cp_rtp_source *s) noexcept nogil
    int64_t cp_rtp_source_lost(const cp_rtp_source *s) noexcept nogil
    void cp_rtp_source_sr(cp_rtp_source *s, uint32_t ntp_sec, uint32_t ntp_frac,
            int64_t arrival_ns) noexcept nogil
    void cp_rtp_source_report(cp_rtp_source *s, cp_report_block *out,
            int64_t now_ns) noexcept nogil
    int32_t cp_rtcp_check(const uint8_t *p, int32_t n) noexcept nogil
    int32_t cp_rtcp_next(const uint8_t *p, int32_t n, int32_t *offset,
            cp_rtcp_packet *out) noexcept nogil
    int32_t cp_rtcp_report(const uint8_t *p, const cp_rtcp_packet *packet, int32_t i,
            cp_report_block *out) noexcept nogil
    int32_t cp_rtcp_build_report(uint8_t *p, int32_t cap, uint32_t ssrc,
            const cp_rtcp_packet *sender, const cp_report_block *blocks,
            int32_t n_blocks) noexcept nogil
    int32_t cp_rtcp_build_sdes(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *cname,
            int32_t len) noexcept nogil
    int32_t cp_rtcp_build_bye(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *reason,
            int32_t len) noexcept nogil
