/* RTP and RTCP (RFC 3550), telephone events (RFC 4733): parse, build, account. */
#ifndef CP_RTP_IMPL_H
#define CP_RTP_IMPL_H
#include "codec.h"

enum { /* why a packet was refused */
    CP_RTP_SHORT = -2,      /* fewer octets than its header says */
    CP_RTP_VERSION = -3,    /* version is not 2 */
    CP_RTP_PADDING = -4,    /* padding count is 0 or larger than the payload */
    CP_RTP_IS_RTCP = -5,    /* payload type 72..76: RTCP on a shared port (RFC 5761 4) */
    CP_RTCP_TYPE = -6,      /* compound does not start with SR or RR (RFC 3550 A.2) */
    CP_RTCP_LENGTH = -7,    /* lengths do not add up to the datagram */
    CP_RTCP_NO_SPACE = -8,  /* does not fit the buffer */
};

typedef struct cp_rtp {
    uint32_t timestamp, ssrc;
    uint16_t seq;
    uint8_t payload_type, marker;
    uint8_t n_csrc;      /* 0..15 */
    uint8_t has_extension;
    uint16_t extension_profile;
    uint32_t csrc[15];
    int32_t extension_offset, extension_len; /* octets of the extension's data */
    int32_t payload_offset, payload_len;     /* padding removed */
} cp_rtp;

int32_t cp_rtp_parse(const uint8_t *p, int32_t n, cp_rtp *out); /* 0 or a code above */
/* Writes the header (12 octets and CSRCs, no extension); returns its length or CP_RTCP_NO_SPACE. */
int32_t cp_rtp_build(uint8_t *p, int32_t cap, const cp_rtp *header);
/* The hot form: 12 octets. */
void cp_rtp_header(uint8_t *p, uint8_t payload_type, uint8_t marker, uint16_t seq,
                   uint32_t timestamp, uint32_t ssrc);

typedef struct cp_rtp_dtmf { /* RFC 4733 2.3 */
    uint8_t event;     /* 0..15 are 0-9 * # A-D */
    uint8_t end;
    uint8_t volume;    /* -dBm0, 0..63 */
    uint16_t duration; /* timestamp units */
} cp_rtp_dtmf;
int32_t cp_rtp_dtmf_parse(const uint8_t *p, int32_t n, cp_rtp_dtmf *out);
void cp_rtp_dtmf_build(uint8_t *p, const cp_rtp_dtmf *event); /* 4 octets */

/* A source as we receive it (RFC 3550 A.1, A.3, A.8). */
typedef struct cp_rtp_source {
    uint32_t ssrc, clock_rate;
    uint32_t cycles, base_seq, bad_seq, probation;
    uint32_t received, expected_prior, received_prior;
    uint16_t max_seq;
    uint8_t has_transit;
    uint32_t transit;
    double jitter; /* timestamp units */
    uint32_t last_sr;     /* middle 32 bits of the last SR's NTP time */
    int64_t last_sr_ns;   /* its arrival; 0: none */
} cp_rtp_source;

typedef struct cp_report_block {
    uint32_t ssrc;
    uint8_t fraction_lost; /* of 256 */
    int32_t cumulative_lost;
    uint32_t highest_seq, jitter, last_sr, delay_since_sr; /* delay: 1/65536 s */
} cp_report_block;

/* probation: packets in sequence before the source counts as valid (0: at once). */
void cp_rtp_source_init(cp_rtp_source *s, uint32_t ssrc, uint16_t seq, uint32_t clock_rate,
                        uint32_t probation);
/* 1: valid; 0: on probation, or a jump that may be a restart. */
int32_t cp_rtp_source_update(cp_rtp_source *s, uint16_t seq, uint32_t timestamp,
                             int64_t arrival_ns);
/* n valid packets that somebody else has seen; the newest one's number, timestamp and arrival. */
void cp_rtp_source_counted(cp_rtp_source *s, uint16_t seq, uint32_t n, uint32_t timestamp,
                           int64_t arrival_ns);
int64_t cp_rtp_source_expected(const cp_rtp_source *s);
int64_t cp_rtp_source_lost(const cp_rtp_source *s);
void cp_rtp_source_sr(cp_rtp_source *s, uint32_t ntp_sec, uint32_t ntp_frac, int64_t arrival_ns);
/* Fills a block and starts the next interval. */
void cp_rtp_source_report(cp_rtp_source *s, cp_report_block *out, int64_t now_ns);

enum { CP_RTCP_SR = 200, CP_RTCP_RR = 201, CP_RTCP_SDES = 202, CP_RTCP_BYE = 203,
       CP_RTCP_APP = 204 };
typedef struct cp_rtcp_packet { /* one packet of a compound */
    uint8_t type, count;
    int32_t offset, len;  /* body after the 4-octet header, padding removed */
    uint32_t ssrc;        /* SR, RR, SDES (first chunk), BYE (first), APP */
    uint32_t ntp_sec, ntp_frac, rtp_timestamp, n_packets, n_octets; /* SR */
    int32_t n_reports;    /* SR, RR; read them with cp_rtcp_report */
    int32_t text_offset, text_len; /* SDES CNAME of the first chunk, or BYE reason */
} cp_rtcp_packet;

int32_t cp_rtcp_check(const uint8_t *p, int32_t n); /* packets in the compound, or a code */
/* Next packet at *offset (start with 0), after a good check: 1, 0 at the end, or a code if the
 * body is shorter than its counts say (*offset then is past it). */
int32_t cp_rtcp_next(const uint8_t *p, int32_t n, int32_t *offset, cp_rtcp_packet *out);
int32_t cp_rtcp_report(const uint8_t *p, const cp_rtcp_packet *packet, int32_t i,
                       cp_report_block *out);
/* Each appends one packet at p; returns its length or CP_RTCP_NO_SPACE. sender NULL: RR. */
int32_t cp_rtcp_build_report(uint8_t *p, int32_t cap, uint32_t ssrc, const cp_rtcp_packet *sender,
                             const cp_report_block *blocks, int32_t n_blocks);
int32_t cp_rtcp_build_sdes(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *cname,
                           int32_t len);
int32_t cp_rtcp_build_bye(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *reason,
                          int32_t len);
#endif
