/* RTP header extensions (RFC 3550 5.3.1) of one stream: attached to what it sends, kept of what it
 * receives. What is in them (RFC 8285, ED-137) is the adapter's business. */
#include "engine_impl.h"

#include <string.h>

uint8_t *ce_ext_attach(ce_stream *s, const uint8_t *packet, int *n, uint8_t *room)
{
    const ce_extension *x = s->ext_out.set ? &s->ext_out : s->ext_pass;
    if (!x || *n + 4 + x->n > CE_EXT_PACKET)
        return NULL;
    memcpy(room, packet, 12);
    room[0] |= 0x10;
    room[12] = (uint8_t)(x->profile >> 8), room[13] = (uint8_t)x->profile;
    room[14] = 0, room[15] = (uint8_t)(x->n / 4);
    memcpy(room + 16, x->data, x->n);
    memcpy(room + 16 + x->n, packet + 12, (size_t)*n - 12);
    *n += 4 + x->n;
    return room;
}

/* Python may read while it changes: an odd serial says that it is being written. */
void ce_ext_receive(ce_stream *s, const uint8_t *data, int n, uint16_t profile)
{
    ce_extension *x = &s->ext_in;
    if (n > CE_EXT_OCTETS) {
        s->c.ext_refused++;
        return;
    }
    atomic_fetch_add_explicit(&s->ext_serial, 1, memory_order_acq_rel);
    x->profile = profile;
    x->n = (uint8_t)n;
    memcpy(x->data, data, (size_t)n);
    x->set = 1;
    atomic_fetch_add_explicit(&s->ext_serial, 1, memory_order_release);
    s->c.ext_received++;
}

int ce_ext_read(ce_stream *s, ce_extension *out)
{
    for (int i = 0; i < 1000; i++) {
        uint32_t before = atomic_load_explicit(&s->ext_serial, memory_order_acquire);
        *out = s->ext_in;
        atomic_thread_fence(memory_order_acquire);
        if (!(before & 1) &&
            atomic_load_explicit(&s->ext_serial, memory_order_relaxed) == before)
            return out->set;
    }
    return 0;
}
