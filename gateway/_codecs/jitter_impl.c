#include "jitter_impl.h"

#include <string.h>

#define BINS 64
#define NS_PER_MS 1000000
#define MISORDER 100            /* older than this is a jump, not a late packet (RFC 3550 A.1) */
#define JUMP_MS 2000            /* arrival and timestamp apart by more: the timestamp jumped */
#define SPURT_MS 500            /* after this long without audio the next packet fills up anew */
#define SETTLE_MS 1000          /* too deep for this long: one packet is dropped */
#define MEMORY 0.998f           /* delay histogram: a packet's weight halves in 350 packets */
#define SHARE 0.97f             /* packets that shall arrive in time */

enum { FREE = 0, STORED = 1, SKIPPED = 2 };

typedef struct slot {
    uint32_t timestamp;
    int32_t len;
    uint16_t seq;
    uint8_t state, payload_type, marker;
} slot;

struct cp_jitter {
    int32_t n_slots, slot_bytes, clock_rate, min_ms, max_ms;
    int32_t is_active, is_playing, is_fresh; /* fresh: nothing of this stream played yet */
    uint32_t ssrc, next_ts, newest_ts;
    uint16_t next_seq, newest_seq;
    int32_t n_stored;
    int32_t ptime, ptime_seen; /* timestamp units; 0: not yet known */
    int32_t owed;              /* units concealed while nothing was there */
    int32_t empty_run;         /* units of EMPTY in a row */
    int64_t wait_since_ns;
    int32_t has_stray;
    uint32_t stray_ssrc;
    uint16_t stray_seq;
    int64_t extended_ts; /* of newest_ts, since the start */
    int64_t base_ns;     /* smallest arrival minus timestamp, leaking upwards with clock skew */
    int32_t target_ms, jitter_ms, bin_ms, until_target;
    float weight, total, bins[BINS];
    int32_t settle, settle_min; /* units watched, least depth in them */
    cp_jitter_stats stats;
};

static inline slot *slots(cp_jitter *j)
{
    return (slot *)(j + 1);
}

static inline uint8_t *payload_of(cp_jitter *j, int32_t i)
{
    return (uint8_t *)(slots(j) + j->n_slots) + (size_t)i * (size_t)j->slot_bytes;
}

static inline slot *slot_of(cp_jitter *j, uint16_t seq)
{
    return slots(j) + (seq & (j->n_slots - 1));
}

static inline int32_t units(const cp_jitter *j, int32_t ms)
{
    return (int32_t)((int64_t)ms * j->clock_rate / 1000);
}

static inline int32_t packet_time(const cp_jitter *j)
{
    return j->ptime ? j->ptime : units(j, 20);
}

static inline int32_t depth(const cp_jitter *j)
{
    if (!j->is_active || !j->n_stored)
        return 0;
    int32_t d = (int32_t)(j->newest_ts + (uint32_t)packet_time(j) - j->next_ts);
    return d > 0 ? d : 0;
}

size_t cp_jitter_size(int32_t n_slots, int32_t slot_bytes)
{
    if (n_slots < 8 || n_slots > 1024 || (n_slots & (n_slots - 1)) || slot_bytes < 1 ||
        slot_bytes > 65535)
        return 0;
    size_t size = sizeof(cp_jitter) + (size_t)n_slots * (sizeof(slot) + (size_t)slot_bytes);
    return (size + 7) & ~(size_t)7;
}

int32_t cp_jitter_init(cp_jitter *j, int32_t n_slots, int32_t slot_bytes, int32_t clock_rate,
                       int32_t min_ms, int32_t max_ms)
{
    if (!cp_jitter_size(n_slots, slot_bytes) || clock_rate < 1000 || clock_rate > 192000 ||
        min_ms < 0 || max_ms < min_ms || max_ms > 2000)
        return CP_EINVAL;
    memset(j, 0, sizeof *j);
    j->n_slots = n_slots;
    j->slot_bytes = slot_bytes;
    j->clock_rate = clock_rate;
    j->min_ms = j->target_ms = min_ms;
    j->max_ms = max_ms;
    j->bin_ms = max_ms / BINS + 1;
    j->weight = 1.0f;
    cp_jitter_reset(j);
    return 0;
}

void cp_jitter_reset(cp_jitter *j)
{
    memset(slots(j), 0, (size_t)j->n_slots * sizeof(slot));
    j->is_active = j->is_playing = j->n_stored = j->has_stray = 0;
    j->owed = j->empty_run = j->ptime = j->ptime_seen = 0;
}

static int64_t transit_ns(const cp_jitter *j, int64_t extended_ts, int64_t arrival_ns)
{
    int64_t s = extended_ts / j->clock_rate, rest = extended_ts % j->clock_rate;
    return arrival_ns - s * 1000000000 - rest * 1000000000 / j->clock_rate;
}

/* Delay above the smallest seen goes into a forgetting histogram; its quantile is the depth. */
static void learn_delay(cp_jitter *j, int64_t delay_ns)
{
    int64_t bin = delay_ns / NS_PER_MS / j->bin_ms;
    if (bin >= BINS)
        bin = BINS - 1;
    j->weight /= MEMORY;
    j->bins[bin] += j->weight;
    j->total += j->weight;
    if (j->weight > 1e6f) {
        for (int32_t i = 0; i < BINS; i++)
            j->bins[i] /= j->weight;
        j->total /= j->weight;
        j->weight = 1.0f;
    }
    if (--j->until_target > 0)
        return;
    j->until_target = 8;
    float late = j->total;
    int32_t i = 0;
    j->jitter_ms = -1;
    for (; i < BINS - 1; i++) {
        late -= j->bins[i];
        if (j->jitter_ms < 0 && late <= 0.05f * j->total)
            j->jitter_ms = i * j->bin_ms;
        if (late <= (1.0f - SHARE) * j->total)
            break;
    }
    if (j->jitter_ms < 0)
        j->jitter_ms = i * j->bin_ms;
    int32_t target = i ? (i + 1) * j->bin_ms : 0;
    j->target_ms = target < j->min_ms ? j->min_ms : target > j->max_ms ? j->max_ms : target;
}

static void start(cp_jitter *j, uint16_t seq, uint32_t timestamp, uint32_t ssrc, int32_t len,
                  int64_t arrival_ns)
{
    cp_jitter_reset(j);
    /* G.711 and G.722 have one octet per tick of their clock: a fair guess until two packets in
     * sequence tell. */
    if (j->clock_rate == 8000 && len % 8 == 0 && len <= CP_MAX_FRAME_OCTETS)
        j->ptime = len;
    j->is_active = j->is_fresh = 1;
    j->ssrc = ssrc;
    j->next_seq = j->newest_seq = seq;
    j->next_ts = j->newest_ts = timestamp;
    j->extended_ts = 0;
    j->base_ns = arrival_ns;
    j->wait_since_ns = arrival_ns;
    j->settle = 0;
    j->settle_min = INT32_MAX;
}

/* A lone packet that does not fit must not throw away a good stream; a second in sequence does. */
static int32_t is_second_stray(cp_jitter *j, uint16_t seq, uint32_t ssrc)
{
    int32_t second = j->has_stray && j->stray_ssrc == ssrc && seq == (uint16_t)(j->stray_seq + 1);
    j->has_stray = 1;
    j->stray_ssrc = ssrc;
    j->stray_seq = seq;
    return second;
}

static void release(cp_jitter *j, slot *s)
{
    j->n_stored -= s->state == STORED;
    s->state = FREE;
}

/* Drops the oldest place of the ring; returns whether a payload was in it. */
static int32_t drop_oldest(cp_jitter *j)
{
    slot *s = slot_of(j, j->next_seq);
    int32_t had = s->state == STORED;
    if (s->state == FREE)
        j->stats.n_lost++;
    if (had)
        j->next_ts = s->timestamp + (uint32_t)packet_time(j);
    else if (s->state == FREE)
        j->next_ts += (uint32_t)packet_time(j);
    release(j, s);
    j->next_seq++;
    return had;
}

static void learn_packet_time(cp_jitter *j, uint16_t seq, uint32_t timestamp)
{
    int32_t delta = (int32_t)(timestamp - j->newest_ts);
    if (seq != (uint16_t)(j->newest_seq + 1) || delta <= 0 || delta > units(j, CP_MAX_FRAME_MS))
        return;
    /* A pause in speech also widens one delta: a change counts when seen twice. */
    if (!j->ptime || delta == j->ptime_seen || delta < j->ptime)
        j->ptime = delta;
    j->ptime_seen = delta;
}

int32_t cp_jitter_put(cp_jitter *j, uint16_t seq, uint32_t timestamp, uint32_t ssrc,
                      uint8_t payload_type, uint8_t marker, const uint8_t *payload, int32_t len,
                      int64_t arrival_ns)
{
    int32_t answer = CP_JITTER_STORED;
    j->stats.n_received++;
    if (len <= 0 || len > j->slot_bytes) {
        j->stats.n_too_long++;
        return CP_JITTER_TOO_LONG;
    }
    if (!j->is_active) {
        start(j, seq, timestamp, ssrc, len, arrival_ns);
    } else {
        int32_t ahead = (int16_t)(seq - j->next_seq);
        int64_t extended = j->extended_ts + (int32_t)(timestamp - j->newest_ts);
        int64_t delay = transit_ns(j, extended, arrival_ns) - j->base_ns;
        int64_t limit = (int64_t)(JUMP_MS + j->max_ms) * NS_PER_MS;
        if (ssrc != j->ssrc || ahead < -MISORDER || ahead >= 2 * j->n_slots || delay > limit ||
            delay < -limit) {
            if (!is_second_stray(j, seq, ssrc)) {
                j->stats.n_stray++;
                return CP_JITTER_STRAY;
            }
            start(j, seq, timestamp, ssrc, len, arrival_ns);
            j->stats.n_restarts++;
            answer = CP_JITTER_RESTARTED;
        } else {
            j->has_stray = 0;
            if (delay < 0)
                j->base_ns += delay;
            else
                j->base_ns += delay / 512;
            learn_delay(j, delay < 0 ? 0 : delay);
        }
    }
    if (!j->is_playing && j->n_stored == 0 && j->empty_run) {
        /* A new spurt: forget how far the last one had fallen behind. */
        int32_t gap = (int16_t)(seq - j->next_seq);
        if (gap > 0) {
            for (int32_t i = 0; i < gap && i < j->n_slots; i++)
                j->stats.n_lost += slot_of(j, (uint16_t)(j->next_seq + i))->state != SKIPPED;
            memset(slots(j), 0, (size_t)j->n_slots * sizeof(slot));
        }
        if (gap >= 0) {
            j->next_seq = seq;
            j->next_ts = timestamp;
            j->wait_since_ns = arrival_ns;
            j->owed = j->empty_run = 0;
        }
    }
    int32_t ahead = (int16_t)(seq - j->next_seq);
    if (ahead < 0 && !j->is_playing && j->is_fresh && ahead > -j->n_slots / 2) {
        /* Nothing has been played: what overtook this packet was not the first after all. */
        if ((int16_t)(j->newest_seq - seq) < j->n_slots) {
            j->next_seq = seq;
            j->next_ts = timestamp;
            ahead = 0;
        }
    }
    if (ahead < 0) {
        j->stats.n_late++;
        return CP_JITTER_LATE;
    }
    while (ahead >= j->n_slots) {
        j->stats.n_overflow += drop_oldest(j);
        ahead--;
    }
    slot *s = slot_of(j, seq);
    if (s->state != FREE) {
        j->stats.n_duplicate++;
        return CP_JITTER_DUPLICATE;
    }
    s->state = STORED;
    s->seq = seq;
    s->timestamp = timestamp;
    s->len = len;
    s->payload_type = payload_type;
    s->marker = marker;
    memcpy(payload_of(j, seq & (j->n_slots - 1)), payload, (size_t)len);
    j->n_stored++;
    learn_packet_time(j, seq, timestamp);
    if ((int16_t)(seq - j->newest_seq) < 0) {
        j->stats.n_reordered++;
    } else {
        j->extended_ts += (int32_t)(timestamp - j->newest_ts);
        j->newest_seq = seq;
        j->newest_ts = timestamp;
    }
    return answer;
}

void cp_jitter_skip(cp_jitter *j, uint16_t seq, uint32_t ssrc)
{
    int32_t ahead = (int16_t)(seq - j->next_seq);
    if (!j->is_active || ssrc != j->ssrc || ahead < 0 || ahead >= j->n_slots)
        return;
    slot *s = slot_of(j, seq);
    if (s->state == FREE) {
        s->state = SKIPPED;
        s->seq = seq;
    }
}

static int32_t answer(cp_jitter_frame *out, int32_t what, int32_t duration)
{
    out->duration = duration;
    return what;
}

/* Sheds audio at once beyond max_ms, and a packet at a time when deeper than needed for long. */
static void limit_depth(cp_jitter *j)
{
    int32_t held = depth(j), step = packet_time(j);
    if (held > units(j, j->max_ms) + 2 * step) {
        int32_t wanted = units(j, j->target_ms) + step;
        while (j->n_stored > 1 && depth(j) > wanted)
            j->stats.n_overflow += drop_oldest(j);
        j->settle = 0;
        j->settle_min = INT32_MAX;
        return;
    }
    if (held < j->settle_min)
        j->settle_min = held;
    j->settle += step;
    if (j->settle < units(j, SETTLE_MS))
        return;
    if (j->settle_min > units(j, j->target_ms) + 2 * step && j->n_stored > 1)
        j->stats.n_shrunk += drop_oldest(j);
    j->settle = 0;
    j->settle_min = INT32_MAX;
}

int32_t cp_jitter_get(cp_jitter *j, int64_t now_ns, cp_jitter_frame *out)
{
    memset(out, 0, sizeof *out);
    int32_t step = packet_time(j);
    if (!j->is_active)
        return answer(out, CP_JITTER_WAITING, step);
    if (!j->is_playing) {
        if (!j->n_stored)
            return answer(out, j->empty_run ? CP_JITTER_EMPTY : CP_JITTER_WAITING, step);
        int64_t waited = now_ns - j->wait_since_ns;
        if (waited < (int64_t)j->target_ms * NS_PER_MS && depth(j) < units(j, j->target_ms) + step)
            return answer(out, CP_JITTER_WAITING, step);
        j->is_playing = 1;
        j->is_fresh = 0;
        j->empty_run = 0;
    }
    limit_depth(j);
    for (;;) {
        slot *s = slot_of(j, j->next_seq);
        if (s->state == SKIPPED) {
            release(j, s);
            j->next_seq++;
            continue;
        }
        if (!j->n_stored) {
            j->stats.n_empty++;
            j->empty_run += step;
            j->owed += step;
            if (j->empty_run >= units(j, SPURT_MS))
                j->is_playing = 0;
            return answer(out, CP_JITTER_EMPTY, step);
        }
        j->empty_run = 0;
        if (s->state == FREE) {
            j->stats.n_lost++;
            j->next_seq++;
            j->next_ts += (uint32_t)step;
            if (j->owed >= step) {
                j->owed -= step;
                continue;
            }
            return answer(out, CP_JITTER_LOST, step);
        }
        int32_t gap = (int32_t)(s->timestamp - j->next_ts);
        if (gap > 0 && j->owed > 0) {
            int32_t paid = gap < j->owed ? gap : j->owed;
            j->owed -= paid;
            j->next_ts += (uint32_t)paid;
            gap -= paid;
        }
        if (gap >= step && gap <= units(j, JUMP_MS)) {
            j->next_ts += (uint32_t)step;
            return answer(out, CP_JITTER_PAUSE, step);
        }
        out->payload = payload_of(j, j->next_seq & (j->n_slots - 1));
        out->payload_len = s->len;
        out->timestamp = s->timestamp;
        out->seq = s->seq;
        out->payload_type = s->payload_type;
        out->marker = s->marker;
        j->next_ts = s->timestamp + (uint32_t)step;
        j->next_seq++;
        release(j, s);
        j->stats.n_played++;
        return answer(out, CP_JITTER_FRAME, step);
    }
}

void cp_jitter_read_stats(const cp_jitter *j, cp_jitter_stats *out)
{
    float ms = 1000.0f / (float)j->clock_rate;
    *out = j->stats;
    out->depth_ms = (float)depth(j) * ms;
    out->target_ms = (float)j->target_ms;
    out->jitter_ms = (float)j->jitter_ms;
    out->ptime_ms = (float)packet_time(j) * ms;
}
