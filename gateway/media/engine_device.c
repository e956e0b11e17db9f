/* Descriptor streams: a byte ring each way between the device's clock and the engine's. */
#include "engine_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    DAHDI_ELAST = 500, /* an event waits; the adapter fetches it, the audio is not over */
    DEEPEST_FRAMES = 3, /* more than this and a block: drift, one frame is dropped */
    STARVED_FRAMES = 10,
};

static void fail(ce_stream *s, int error)
{
    if (s->failed)
        return;
    s->failed = 1;
    epoll_ctl(s->e->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    ce_post(s->e, CE_EV_DEVICE_FAILED, s, error, 0, 0, NULL, 0);
}

static uint8_t silence_octet(const ce_stream *s)
{
    switch (s->codec) {
    case CE_PCMU: return 0xff;
    case CE_PCMA: return 0xd5;
    case CE_G722: return 0xff; /* both bands die away */
    default: return 0;
    }
}

static void ring_put(uint8_t *ring, uint32_t size, uint32_t *head, const uint8_t *p, uint32_t n)
{
    uint32_t at = *head % size, k = size - at < n ? size - at : n;
    memcpy(ring + at, p, k);
    memcpy(ring, p + k, n - k);
    *head += n;
}

static void ring_get(const uint8_t *ring, uint32_t size, uint32_t *tail, uint8_t *p, uint32_t n)
{
    uint32_t at = *tail % size, k = size - at < n ? size - at : n;
    memcpy(p, ring + at, k);
    memcpy(p + k, ring, n - k);
    *tail += n;
}

/* Where our clock and the device's part, a frame is left out or missing: the seam is faded, and
 * what is missing concealed, like a loss on the network. */
static void smooth(ce_stream *s, uint8_t *block, uint32_t n_octets, int missing)
{
    cp_plc *plc = s->parts.out_plc;
    int16_t pcm[CE_TX_BYTES];
    int n = (int)(n_octets / s->bytes_per_tick), changes = missing || plc->n_lost;
    if (missing)
        memset(block, silence_octet(s), n_octets);
    if (s->codec == CE_G722)
        return; /* its octets are no samples, and its decoder has a memory of its own */
    if (missing)
        cp_plc_lost(plc, pcm, n);
    else
        switch (s->codec) {
        case CE_PCMU: cp_ulaw_decode(block, pcm, n); break;
        case CE_PCMA: cp_alaw_decode(block, pcm, n); break;
        default: memcpy(pcm, block, (size_t)n * sizeof *pcm);
        }
    if (!missing)
        cp_plc_good(plc, pcm, n);
    if (!changes)
        return;
    switch (s->codec) {
    case CE_PCMU: cp_ulaw_encode(pcm, block, n); break;
    case CE_PCMA: cp_alaw_encode(pcm, block, n); break;
    default: memcpy(block, pcm, (size_t)n * sizeof *pcm);
    }
}

/* 1 written, 0 would block. */
static int write_block(ce_stream *s)
{
    uint8_t block[CE_TX_BYTES];
    uint32_t n = s->block_bytes, tail = s->out_tail;
    if (s->out_head - s->out_tail >= n) {
        ring_get(s->parts.out_ring, CE_TX_BYTES, &tail, block, n);
        smooth(s, block, n, 0);
    } else if (s->paced) {
        smooth(s, block, n, 1);
    } else {
        return 0;
    }
    ssize_t w = write(s->fd, block, n);
    if (w < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != DAHDI_ELAST)
            fail(s, errno);
        else
            s->c.dropped_blocks++;
        return 0;
    }
    if (tail != s->out_tail)
        s->out_tail += (uint32_t)w;
    s->c.tx_packets++;
    s->c.tx_octets += (uint64_t)w;
    if (s->echo)
        ce_echo_sent(s, block, (int)w);
    return w == (ssize_t)n;
}

/* What waits before either side begins: a block, or the frame it makes part of, and a spare frame,
 * because two clocks of one speed may tick at the same instant and change places. */
static uint32_t head_start(const ce_stream *s)
{
    uint32_t f = s->frame_bytes;
    return (s->block_bytes > f ? s->block_bytes : f) + f;
}

void ce_device_start(ce_stream *s)
{
    if (!s->paced || !s->writable)
        return;
    s->out_head = head_start(s);
    memset(s->parts.out_ring, silence_octet(s), s->out_head);
}

/* The device's clock begins. Frames that were made before it would stay in front of all that
 * follow: what they wait beyond the head start is taken off, the silence of its beginning first. */
static void first_block(ce_stream *s)
{
    uint32_t fill = s->out_head - s->out_tail;
    if (s->paced && s->writable && fill > head_start(s))
        s->out_tail = s->out_head - head_start(s);
}

void ce_device_readable(ce_engine *e, ce_stream *s)
{
    uint8_t block[CE_TX_BYTES];
    for (int i = 0; i < 4 && !s->failed; i++) {
        ssize_t n = read(s->fd, block, s->block_bytes);
        if (n == 0) {
            fail(s, 0);
            return;
        }
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != DAHDI_ELAST)
                fail(s, errno);
            return;
        }
        if (e->flush_rx) {
            s->c.slips++;
            continue;
        }
        if (!s->rx_seen) {
            s->rx_seen = 1;
            first_block(s);
            ce_post(e, CE_EV_STARTED, s, 0, 0, 0, NULL, 0);
        }
        s->last_rx_tick = e->tick;
        s->c.rx_packets++;
        s->c.rx_octets += (uint64_t)n;
        while (s->in_head - s->in_tail + (uint32_t)n > CE_JB_BYTES) {
            s->in_tail += s->frame_bytes;
            s->c.slips++;
        }
        ring_put(s->parts.jitter[1], CE_JB_BYTES, &s->in_head, block, (uint32_t)n);
        if (s->paced && s->writable) {
            s->since_write = (uint16_t)(s->since_write + n);
            while (s->since_write >= s->block_bytes && !s->failed) {
                s->since_write = (uint16_t)(s->since_write - s->block_bytes);
                write_block(s);
            }
        }
    }
}

void ce_device_fetch(ce_stream *s)
{
    uint32_t f = s->frame_bytes, fill = s->in_head - s->in_tail;
    s->in_state = 0;
    if (!s->in_running) {
        if (fill < head_start(s))
            return;
        s->in_running = 1;
        /* Blocks that had piled up before would be in front of all others for good. */
        if (s->starved > STARVED_FRAMES) /* else this is the beginning: nobody listened yet */
            s->c.slips += (fill - head_start(s)) / f;
        fill = head_start(s);
        s->in_tail = s->in_head - fill;
    }
    if (fill < f) {
        if (++s->starved > STARVED_FRAMES || s->failed)
            s->in_running = 0;
        else
            s->in_state = 2;
        return;
    }
    s->starved = 0;
    if (fill > DEEPEST_FRAMES * f + s->block_bytes) {
        s->in_tail += f;
        s->c.slips++;
        cp_plc_cut(&s->plc);
    }
    ring_get(s->parts.jitter[1], CE_JB_BYTES, &s->in_tail, s->f->payload_in, f);
    s->coded = s->f->payload_in;
    s->in_state = 1;
    s->c.buffer_ms = (fill - f) / f * CE_FRAME_MS;
}

void ce_device_send(ce_stream *s, const uint8_t *payload)
{
    if (s->failed || !s->writable)
        return;
    uint32_t f = s->frame_bytes, most = DEEPEST_FRAMES * f + s->block_bytes;
    if (most > CE_TX_BYTES)
        most = CE_TX_BYTES;
    while (s->out_head - s->out_tail + f > most) {
        s->out_tail += f;
        s->c.slips++;
        cp_plc_cut(s->parts.out_plc);
    }
    ring_put(s->parts.out_ring, CE_TX_BYTES, &s->out_head, payload, f);
    if (!s->paced)
        for (int i = 0; i < 8 && write_block(s); i++) {
        }
}
