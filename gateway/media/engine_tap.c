/* Copies of a stream's packets for a capture: a ring between the worker and one reader.
 *
 * The worker never waits: what does not fit is dropped and counted. Of an encrypted stream it sees
 * the octets of the wire, or, only if it was made to, what they hold.
 */
#include "engine_impl.h"

#include <string.h>

static void put(ce_tap *t, uint32_t at, const void *p, uint32_t n)
{
    uint32_t from = at & (t->capacity - 1), first = t->capacity - from;
    if (first > n)
        first = n;
    memcpy(t->ring + from, p, first);
    memcpy(t->ring, (const uint8_t *)p + first, n - first);
}

void ce_tap_put(ce_stream *s, const uint8_t *p, int n, const ce_addr *peer, int flags)
{
    ce_tap *t = s->tap;
    int64_t at = flags & CE_TAP_SENT ? s->e->now_ns : s->e->rx_ns;
    ce_tap_packet h = {.mono_ns = at, .n = (uint16_t)n, .flags = (uint8_t)flags, .port = ntohs(peer->in4.sin_port)};
    if (peer->sa.sa_family == AF_INET6) {
        h.family = 6;
        memcpy(h.ip, &peer->in6.sin6_addr, 16);
    } else {
        h.family = 4;
        memcpy(h.ip, &peer->in4.sin_addr, 4);
    }
    uint32_t head = atomic_load_explicit(&t->head, memory_order_relaxed);
    uint32_t used = head - atomic_load_explicit(&t->tail, memory_order_acquire);
    if (n < 0 || n > 0xffff || t->capacity - used < sizeof h + (uint32_t)n) {
        atomic_fetch_add_explicit(&t->dropped, 1, memory_order_relaxed);
        return;
    }
    put(t, head, &h, sizeof h);
    put(t, head + (uint32_t)sizeof h, p, (uint32_t)n);
    atomic_store_explicit(&t->head, head + (uint32_t)sizeof h + (uint32_t)n, memory_order_release);
}

uint32_t ce_tap_fill(ce_tap *t)
{
    return atomic_load_explicit(&t->head, memory_order_acquire) -
           atomic_load_explicit(&t->tail, memory_order_relaxed);
}

void ce_tap_take(ce_tap *t, uint8_t *out, uint32_t n)
{
    uint32_t tail = atomic_load_explicit(&t->tail, memory_order_relaxed);
    uint32_t from = tail & (t->capacity - 1), first = t->capacity - from;
    if (first > n)
        first = n;
    memcpy(out, t->ring + from, first);
    memcpy(out + first, t->ring, n - first);
    atomic_store_explicit(&t->tail, tail + n, memory_order_release);
}

void ce_tap_set(ce_stream *s, ce_tap *t)
{
    if (s->tap)
        atomic_store_explicit(&s->tap->done, 1, memory_order_release);
    s->tap = t;
}
