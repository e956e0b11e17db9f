/* A far end whose NAT gives it another port in mid-call: nothing signals that. */
#include "engine_impl.h"

#include <string.h>

enum {
    SILENT_MS = 300,   /* whoever is still heard where he was is not followed elsewhere */
    IN_ORDER = 3,      /* packets in sequence from the new place, where nothing else proves it */
    SHORTEST_MS = 10,  /* packet time: at most so many packets can be missing */
    SPARE_PACKETS = 25,
    APART_MS = 500, /* between a packet's own time and when it comes */
};

static int same_ip(const ce_addr *a, const ce_addr *b)
{
    if (a->sa.sa_family == AF_INET)
        return a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
    return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr);
}

static int is_behind_nat(const ce_stream *s)
{
    return s->remote.in4.sin_port != s->signalled.in4.sin_port ||
           !same_ip(&s->remote, &s->signalled);
}

int ce_follow_may(const ce_stream *s, const ce_addr *from)
{
    if (s->follow == CE_FOLLOW_NEVER || !s->remote_set || !s->rx_seen || !s->rx)
        return 0;
    if (s->follow == CE_FOLLOW_LEARNED && !is_behind_nat(s))
        return 0;
    if (from->sa.sa_family != s->remote.sa.sa_family)
        return 0;
    if (s->e->tick - s->last_rx_tick < SILENT_MS)
        return 0;
    /* Another address altogether (a phone that leaves its Wi-Fi) needs a proof. */
    return s->srtp_in || same_ip(from, &s->remote);
}

/* Goes on where the source stopped: same SSRC, next numbers, and the clock went on meanwhile. Who
 * has not seen the stream has to guess 32 bits of SSRC, 11 of number and 19 of time at least. */
static int goes_on(const ce_stream *s, const cp_rtp *h)
{
    uint64_t silent_ms = s->e->tick - s->last_rx_tick;
    uint16_t ahead = (uint16_t)(h->seq - s->source.max_seq);
    if (h->ssrc != s->source.ssrc || !s->source.has_transit)
        return 0;
    if (!ahead || ahead > 0x7fff)
        return 0;
    if (s->srtp_in)
        return 1; /* it has proved itself, and libsrtp takes each number once */
    if (ahead > silent_ms / SHORTEST_MS + SPARE_PACKETS)
        return 0;
    uint64_t ns = (uint64_t)s->e->now_ns, rate = s->source.clock_rate;
    uint32_t now = (uint32_t)(ns / 1000000000u * rate + ns % 1000000000u * rate / 1000000000u);
    int64_t apart = (int32_t)(now - h->timestamp - s->source.transit);
    return apart <= (int64_t)APART_MS * s->clock_ms && -apart <= (int64_t)APART_MS * s->clock_ms;
}

int ce_follow(ce_stream *s, const ce_addr *from, const cp_rtp *h)
{
    if (!ce_follow_may(s, from) || !goes_on(s, h))
        return 0;
    int next = s->moving.n && (uint16_t)(s->moving.seq + 1) == h->seq &&
               s->moving.from.in4.sin_port == from->in4.sin_port &&
               same_ip(&s->moving.from, from);
    s->moving.from = *from;
    s->moving.seq = h->seq;
    s->moving.n = next ? (uint8_t)(s->moving.n + 1) : 1;
    if (!s->srtp_in && s->moving.n < IN_ORDER)
        return 0;
    s->moving.n = 0;
    ce_rtp_moved(s, from);
    s->latched = 1;
    s->c.moved++;
    return 1;
}
