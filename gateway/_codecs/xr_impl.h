/* RTCP extended reports (RFC 3611): VoIP metrics, round trips of receivers, bursts of loss. */
#ifndef CP_XR_IMPL_H
#define CP_XR_IMPL_H
#include "rtp_impl.h"

enum {
    CP_RTCP_XR = 207,
    CP_XR_RRTR = 4,
    CP_XR_DLRR = 5,
    CP_XR_VOIP = 7,
    CP_XR_GMIN = 16,       /* RFC 3611 4.7.2: packets without loss that end a burst */
    CP_XR_UNKNOWN = 127,   /* levels, RERL, R and MOS that were not measured */
    CP_XR_VOIP_OCTETS = 36,
};

typedef struct cp_xr_block {
    uint8_t type, specific;
    int32_t offset, len; /* contents, after the 4-octet block header */
} cp_xr_block;

typedef struct cp_voip_metrics { /* RFC 3611 4.7 */
    uint32_t ssrc;
    uint8_t loss_rate, discard_rate, burst_density, gap_density; /* of 256 */
    uint16_t burst_ms, gap_ms, round_trip_ms, end_system_ms;
    int8_t signal_dbm0, noise_dbm0;
    uint8_t echo_loss_db, gmin, r_factor, external_r, mos_lq, mos_cq; /* MOS in tenths */
    uint8_t config;                                /* PLC, jitter buffer: 4.7.6 */
    uint16_t buffer_ms, buffer_max_ms, buffer_abs_max_ms;
} cp_voip_metrics;

/* Next block of an XR packet's body (SSRC first) with *at = 4: 1, 0 at the end, or CP_RTCP_LENGTH. */
int32_t cp_xr_next(const uint8_t *body, int32_t len, int32_t *at, cp_xr_block *out);
/* Contents of blocks; 0 or CP_RTP_SHORT. */
int32_t cp_xr_rrtr_parse(const uint8_t *p, int32_t n, uint32_t *middle); /* NTP, middle 32 bits */
/* The sub-block about `ssrc`: 1 found, 0 not. */
int32_t cp_xr_dlrr_find(const uint8_t *p, int32_t n, uint32_t ssrc, uint32_t *last,
                        uint32_t *delay);
int32_t cp_xr_voip_parse(const uint8_t *p, int32_t n, cp_voip_metrics *out);

/* A packet: begin, append blocks, end. Each returns its octets, or CP_RTCP_NO_SPACE. */
int32_t cp_xr_begin(uint8_t *p, int32_t cap, uint32_t ssrc);
int32_t cp_xr_rrtr(uint8_t *p, int32_t cap, uint32_t ntp_sec, uint32_t ntp_frac);
int32_t cp_xr_dlrr(uint8_t *p, int32_t cap, uint32_t ssrc, uint32_t last, uint32_t delay);
int32_t cp_xr_voip(uint8_t *p, int32_t cap, const cp_voip_metrics *m);
void cp_xr_end(uint8_t *p, int32_t len); /* len: of the whole packet */

/* Bursts and gaps: the transition counts of RFC 3611 A.2. */
typedef struct cp_bursts {
    uint32_t c11, c13, c14, c22, c23, c33;
    uint32_t run, lost; /* good packets since the last bad one; bad ones of this burst */
    uint32_t n, n_lost, n_discarded;
} cp_bursts;
enum { CP_XR_GOOD, CP_XR_LOST, CP_XR_DISCARDED };
void cp_bursts_add(cp_bursts *b, int32_t what);
/* Fills rates, densities and durations. packet_ms: of one packet. */
void cp_bursts_metrics(const cp_bursts *b, double packet_ms, cp_voip_metrics *m);

/* Transmission rating R of ITU-T G.107 with all its inputs at their defaults but loss and delay:
 * R = 93.2 - Id - Ie,eff. Ie,eff = Ie + (95 - Ie) * Ppl / (Ppl + Bpl) (7.5, random loss);
 * Id = 0.024 d + 0.11 (d - 177.3) beyond 177.3 ms (Cole and Rosenbluth, "Voice over IP Performance
 * Monitoring", 2001, a fit to G.107 without echo). G.113 Appendix I: Ie 0 and Bpl 25.1 for G.711
 * with concealment. */
double cp_e_model(double ie, double bpl, double loss_percent, double one_way_ms);
double cp_e_model_mos(double r); /* G.107 Annex B */
#endif
