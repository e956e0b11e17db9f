#include "rtp_impl.h"

#include <string.h>

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16), put16(p + 2, v);
}

int32_t cp_rtp_parse(const uint8_t *p, int32_t n, cp_rtp *out)
{
    if (n < 12)
        return CP_RTP_SHORT;
    if (p[0] >> 6 != 2)
        return CP_RTP_VERSION;
    out->payload_type = p[1] & 0x7f;
    if (out->payload_type >= 72 && out->payload_type <= 76)
        return CP_RTP_IS_RTCP;
    out->marker = p[1] >> 7;
    out->seq = get16(p + 2);
    out->timestamp = get32(p + 4);
    out->ssrc = get32(p + 8);
    out->n_csrc = p[0] & 15;
    out->has_extension = p[0] >> 4 & 1;
    out->extension_profile = 0;
    out->extension_offset = out->extension_len = 0;
    int32_t at = 12 + 4 * out->n_csrc;
    if (at > n)
        return CP_RTP_SHORT;
    for (int32_t i = 0; i < out->n_csrc; i++)
        out->csrc[i] = get32(p + 12 + 4 * i);
    if (out->has_extension) {
        if (n - at < 4)
            return CP_RTP_SHORT;
        out->extension_profile = get16(p + at);
        out->extension_len = 4 * get16(p + at + 2);
        at += 4;
        out->extension_offset = at;
        if (out->extension_len > n - at)
            return CP_RTP_SHORT;
        at += out->extension_len;
    }
    int32_t padding = 0;
    if (p[0] & 0x20) {
        padding = n > at ? p[n - 1] : 0;
        if (padding == 0 || padding > n - at)
            return CP_RTP_PADDING;
    }
    out->payload_offset = at;
    out->payload_len = n - at - padding;
    return 0;
}

void cp_rtp_header(uint8_t *p, uint8_t payload_type, uint8_t marker, uint16_t seq,
                   uint32_t timestamp, uint32_t ssrc)
{
    p[0] = 0x80;
    p[1] = (uint8_t)((marker ? 0x80 : 0) | (payload_type & 0x7f));
    put16(p + 2, seq);
    put32(p + 4, timestamp);
    put32(p + 8, ssrc);
}

int32_t cp_rtp_build(uint8_t *p, int32_t cap, const cp_rtp *h)
{
    int32_t n_csrc = h->n_csrc & 15, len = 12 + 4 * n_csrc;
    if (cap < len)
        return CP_RTCP_NO_SPACE;
    cp_rtp_header(p, h->payload_type, h->marker, h->seq, h->timestamp, h->ssrc);
    p[0] = (uint8_t)(0x80 | n_csrc);
    for (int32_t i = 0; i < n_csrc; i++)
        put32(p + 12 + 4 * i, h->csrc[i]);
    return len;
}

int32_t cp_rtp_dtmf_parse(const uint8_t *p, int32_t n, cp_rtp_dtmf *out)
{
    if (n < 4)
        return CP_RTP_SHORT;
    out->event = p[0];
    out->end = p[1] >> 7;
    out->volume = p[1] & 0x3f;
    out->duration = get16(p + 2);
    return 0;
}

void cp_rtp_dtmf_build(uint8_t *p, const cp_rtp_dtmf *event)
{
    p[0] = event->event;
    p[1] = (uint8_t)((event->end ? 0x80 : 0) | (event->volume > 63 ? 63 : event->volume));
    put16(p + 2, event->duration);
}

/* Values of RFC 3550 A.1. */
#define SEQ_MOD 65536u
#define MAX_DROPOUT 3000
#define MAX_MISORDER 100

static void start(cp_rtp_source *s, uint16_t seq)
{
    s->base_seq = s->max_seq = seq;
    s->bad_seq = SEQ_MOD + 1;
    s->cycles = s->received = s->received_prior = s->expected_prior = 0;
    s->has_transit = 0;
}

void cp_rtp_source_init(cp_rtp_source *s, uint32_t ssrc, uint16_t seq, uint32_t clock_rate,
                        uint32_t probation)
{
    memset(s, 0, sizeof *s);
    s->ssrc = ssrc;
    s->clock_rate = clock_rate;
    start(s, seq);
    s->max_seq = (uint16_t)(seq - 1);
    s->probation = probation;
}

static void add_jitter(cp_rtp_source *s, uint32_t timestamp, int64_t arrival_ns)
{
    /* Seconds and rest apart: a product of nanoseconds and rate would overflow in a month. */
    uint64_t ns = (uint64_t)arrival_ns;
    uint64_t units = ns / 1000000000u * s->clock_rate +
                     ns % 1000000000u * s->clock_rate / 1000000000u;
    uint32_t transit = (uint32_t)units - timestamp;
    if (s->has_transit) {
        double d = (double)(int32_t)(transit - s->transit);
        s->jitter += ((d < 0 ? -d : d) - s->jitter) / 16.0;
    }
    s->transit = transit;
    s->has_transit = 1;
}

int32_t cp_rtp_source_update(cp_rtp_source *s, uint16_t seq, uint32_t timestamp,
                             int64_t arrival_ns)
{
    uint16_t delta = (uint16_t)(seq - s->max_seq);
    if (s->probation) {
        if (delta == 1) {
            s->max_seq = seq;
            if (--s->probation == 0) {
                start(s, seq);
                s->received = 1;
                add_jitter(s, timestamp, arrival_ns);
                return 1;
            }
        } else {
            s->max_seq = seq;
            if (s->probation < 2)
                s->probation = 1;
        }
        return 0;
    }
    if (delta < MAX_DROPOUT) {
        if (seq < s->max_seq && s->received)
            s->cycles += SEQ_MOD;
        s->max_seq = seq;
    } else if (delta <= SEQ_MOD - MAX_MISORDER) {
        if (seq != s->bad_seq) {
            s->bad_seq = (seq + 1u) & (SEQ_MOD - 1);
            return 0;
        }
        start(s, seq);
    }
    s->received++;
    add_jitter(s, timestamp, arrival_ns);
    return 1;
}

void cp_rtp_source_counted(cp_rtp_source *s, uint16_t seq, uint32_t n, uint32_t timestamp,
                           int64_t arrival_ns)
{
    if ((uint16_t)(seq - s->max_seq) < MAX_DROPOUT) {
        if (seq < s->max_seq && s->received)
            s->cycles += SEQ_MOD;
        s->max_seq = seq;
    }
    s->received += n;
    add_jitter(s, timestamp, arrival_ns);
}

int64_t cp_rtp_source_expected(const cp_rtp_source *s)
{
    return s->received ? (int64_t)s->cycles + s->max_seq - s->base_seq + 1 : 0;
}

int64_t cp_rtp_source_lost(const cp_rtp_source *s)
{
    return cp_rtp_source_expected(s) - s->received;
}

void cp_rtp_source_sr(cp_rtp_source *s, uint32_t ntp_sec, uint32_t ntp_frac, int64_t arrival_ns)
{
    s->last_sr = ntp_sec << 16 | ntp_frac >> 16;
    s->last_sr_ns = arrival_ns;
}

void cp_rtp_source_report(cp_rtp_source *s, cp_report_block *out, int64_t now_ns)
{
    int64_t expected = cp_rtp_source_expected(s), lost = expected - s->received;
    int64_t interval = (int64_t)(uint32_t)((uint32_t)expected - s->expected_prior);
    int64_t gone = interval - (int64_t)(uint32_t)(s->received - s->received_prior);
    s->expected_prior = (uint32_t)expected;
    s->received_prior = s->received;
    out->ssrc = s->ssrc;
    out->fraction_lost =
        interval > 0 && gone > 0 ? (uint8_t)(gone >= interval ? 255 : gone * 256 / interval) : 0;
    out->cumulative_lost = (int32_t)(lost > 0x7fffff ? 0x7fffff : lost < -0x800000 ? -0x800000 : lost);
    out->highest_seq = s->cycles + s->max_seq;
    out->jitter = (uint32_t)s->jitter;
    out->last_sr = s->last_sr_ns ? s->last_sr : 0;
    uint64_t since = s->last_sr_ns && now_ns > s->last_sr_ns ? (uint64_t)(now_ns - s->last_sr_ns) : 0;
    if (since > 65535000000000u)
        since = 65535000000000u;
    out->delay_since_sr = (uint32_t)(since * 65536u / 1000000000u);
}

int32_t cp_rtcp_check(const uint8_t *p, int32_t n)
{
    int32_t n_packets = 0;
    if (n < 8)
        return CP_RTP_SHORT;
    if (p[0] >> 6 != 2)
        return CP_RTP_VERSION;
    /* RFC 3550 A.2: the first packet is a report and carries no padding. */
    if (p[1] != CP_RTCP_SR && p[1] != CP_RTCP_RR)
        return CP_RTCP_TYPE;
    if (p[0] & 0x20)
        return CP_RTP_PADDING;
    for (int32_t at = 0; at < n;) {
        if (n - at < 4)
            return CP_RTCP_LENGTH;
        if (p[at] >> 6 != 2)
            return CP_RTP_VERSION;
        int32_t len = 4 * (get16(p + at + 2) + 1);
        if (len > n - at)
            return CP_RTCP_LENGTH;
        if (p[at] & 0x20) {
            uint8_t padding = p[at + len - 1];
            if (at + len != n || padding == 0 || padding > len - 4)
                return CP_RTP_PADDING;
        }
        at += len;
        n_packets++;
    }
    return n_packets;
}

/* CNAME of the first chunk: items are type, length, text; type 0 ends the chunk. */
static int32_t find_cname(const uint8_t *p, int32_t at, int32_t end, cp_rtcp_packet *out)
{
    while (at < end && p[at] != 0) {
        if (end - at < 2 || p[at + 1] > end - at - 2)
            return CP_RTP_SHORT;
        if (p[at] == 1) {
            out->text_offset = at + 2;
            out->text_len = p[at + 1];
            return 1;
        }
        at += 2 + p[at + 1];
    }
    return 1;
}

int32_t cp_rtcp_next(const uint8_t *p, int32_t n, int32_t *offset, cp_rtcp_packet *out)
{
    int32_t at = *offset;
    memset(out, 0, sizeof *out);
    if (at < 0 || n - at < 4)
        return 0;
    int32_t len = 4 * (get16(p + at + 2) + 1);
    if (len > n - at) {
        *offset = n;
        return CP_RTCP_LENGTH;
    }
    *offset = at + len;
    out->type = p[at + 1];
    out->count = p[at] & 31;
    out->offset = at + 4;
    out->len = len - 4;
    if (p[at] & 0x20) {
        if (out->len < 1 || p[at + len - 1] == 0 || p[at + len - 1] > out->len)
            return CP_RTP_PADDING;
        out->len -= p[at + len - 1];
    }
    const uint8_t *body = p + out->offset;
    int32_t end = out->offset + out->len;
    switch (out->type) {
    case CP_RTCP_SR:
        if (out->len < 24 + 24 * out->count)
            return CP_RTP_SHORT;
        out->ntp_sec = get32(body + 4);
        out->ntp_frac = get32(body + 8);
        out->rtp_timestamp = get32(body + 12);
        out->n_packets = get32(body + 16);
        out->n_octets = get32(body + 20);
        out->ssrc = get32(body);
        out->n_reports = out->count;
        return 1;
    case CP_RTCP_RR:
        if (out->len < 4 + 24 * out->count)
            return CP_RTP_SHORT;
        out->ssrc = get32(body);
        out->n_reports = out->count;
        return 1;
    case CP_RTCP_SDES:
        if (out->count == 0)
            return 1;
        if (out->len < 4)
            return CP_RTP_SHORT;
        out->ssrc = get32(body);
        return find_cname(p, out->offset + 4, end, out);
    case CP_RTCP_BYE:
        if (out->len < 4 * out->count)
            return CP_RTP_SHORT;
        if (out->count)
            out->ssrc = get32(body);
        if (out->len > 4 * out->count) {
            int32_t text = out->offset + 4 * out->count;
            if (p[text] > end - text - 1)
                return CP_RTP_SHORT;
            out->text_offset = text + 1;
            out->text_len = p[text];
        }
        return 1;
    default:
        if (out->len >= 4)
            out->ssrc = get32(body);
        return 1;
    }
}

int32_t cp_rtcp_report(const uint8_t *p, const cp_rtcp_packet *packet, int32_t i,
                       cp_report_block *out)
{
    if (i < 0 || i >= packet->n_reports)
        return CP_EINVAL;
    const uint8_t *b = p + packet->offset + (packet->type == CP_RTCP_SR ? 24 : 4) + 24 * i;
    out->ssrc = get32(b);
    out->fraction_lost = b[4];
    uint32_t lost = (uint32_t)b[5] << 16 | (uint32_t)b[6] << 8 | b[7];
    out->cumulative_lost = (int32_t)lost - (lost & 0x800000 ? 0x1000000 : 0);
    out->highest_seq = get32(b + 8);
    out->jitter = get32(b + 12);
    out->last_sr = get32(b + 16);
    out->delay_since_sr = get32(b + 20);
    return 0;
}

static void rtcp_header(uint8_t *p, int32_t count, uint8_t type, int32_t len)
{
    p[0] = (uint8_t)(0x80 | count);
    p[1] = type;
    put16(p + 2, (uint32_t)(len / 4 - 1));
}

int32_t cp_rtcp_build_report(uint8_t *p, int32_t cap, uint32_t ssrc, const cp_rtcp_packet *sender,
                             const cp_report_block *blocks, int32_t n_blocks)
{
    if (n_blocks < 0 || n_blocks > 31)
        return CP_EINVAL;
    int32_t len = (sender ? 28 : 8) + 24 * n_blocks;
    if (cap < len)
        return CP_RTCP_NO_SPACE;
    rtcp_header(p, n_blocks, sender ? CP_RTCP_SR : CP_RTCP_RR, len);
    put32(p + 4, ssrc);
    if (sender) {
        put32(p + 8, sender->ntp_sec);
        put32(p + 12, sender->ntp_frac);
        put32(p + 16, sender->rtp_timestamp);
        put32(p + 20, sender->n_packets);
        put32(p + 24, sender->n_octets);
    }
    uint8_t *b = p + (sender ? 28 : 8);
    for (int32_t i = 0; i < n_blocks; i++, b += 24) {
        put32(b, blocks[i].ssrc);
        put32(b + 4, (uint32_t)blocks[i].fraction_lost << 24 |
                         ((uint32_t)blocks[i].cumulative_lost & 0xffffff));
        put32(b + 8, blocks[i].highest_seq);
        put32(b + 12, blocks[i].jitter);
        put32(b + 16, blocks[i].last_sr);
        put32(b + 20, blocks[i].delay_since_sr);
    }
    return len;
}

int32_t cp_rtcp_build_sdes(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *cname,
                           int32_t len)
{
    if (len < 0 || len > 255)
        return CP_EINVAL;
    /* At least one zero octet ends the item list, then zeros up to a 32-bit boundary. */
    int32_t total = (8 + 2 + len + 1 + 3) & ~3;
    if (cap < total)
        return CP_RTCP_NO_SPACE;
    memset(p, 0, (size_t)total);
    rtcp_header(p, 1, CP_RTCP_SDES, total);
    put32(p + 4, ssrc);
    p[8] = 1;
    p[9] = (uint8_t)len;
    memcpy(p + 10, cname, (size_t)len);
    return total;
}

int32_t cp_rtcp_build_bye(uint8_t *p, int32_t cap, uint32_t ssrc, const uint8_t *reason,
                          int32_t len)
{
    if (len < 0 || len > 255)
        return CP_EINVAL;
    int32_t total = len ? (8 + 1 + len + 3) & ~3 : 8;
    if (cap < total)
        return CP_RTCP_NO_SPACE;
    memset(p, 0, (size_t)total);
    rtcp_header(p, 1, CP_RTCP_BYE, total);
    put32(p + 4, ssrc);
    if (len) {
        p[8] = (uint8_t)len;
        memcpy(p + 9, reason, (size_t)len);
    }
    return total;
}
