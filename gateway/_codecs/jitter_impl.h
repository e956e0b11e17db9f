/* Adaptive jitter buffer: a fixed ring keyed by sequence number. Packet in, packet out; the
 * caller paces cp_jitter_get by its own audio clock. Nothing is allocated after init. */
#ifndef CP_JITTER_IMPL_H
#define CP_JITTER_IMPL_H
#include "codec.h"

enum { /* what cp_jitter_get answers */
    CP_JITTER_FRAME = 1,   /* a payload: decode it */
    CP_JITTER_LOST = 2,    /* a packet is missing: conceal `duration` */
    CP_JITTER_PAUSE = 3,   /* the sender was silent here: play comfort noise for `duration` */
    CP_JITTER_EMPTY = 4,   /* nothing has arrived in time: conceal `duration` */
    CP_JITTER_WAITING = 5, /* filling up before playout starts: play silence for `duration` */
};
enum { /* what cp_jitter_put answers; all but STORED and RESTARTED mean dropped */
    CP_JITTER_STORED = 0,
    CP_JITTER_RESTARTED = 1, /* new SSRC, or seq or timestamp jumped; stored */
    CP_JITTER_DUPLICATE = 2,
    CP_JITTER_LATE = 3,
    CP_JITTER_TOO_LONG = 4, /* payload larger than a slot, or empty */
    CP_JITTER_STRAY = 5,    /* a lone packet far from the sequence; two in a row restart */
};

typedef struct cp_jitter_frame {
    const uint8_t *payload; /* inside the ring, valid until the next put */
    int32_t payload_len;
    uint32_t timestamp;
    uint16_t seq;
    uint8_t payload_type, marker;
    int32_t duration; /* timestamp units */
} cp_jitter_frame;

typedef struct cp_jitter_stats {
    int64_t n_received, n_played, n_lost, n_late, n_duplicate, n_reordered;
    int64_t n_overflow;  /* dropped because the buffer was deeper than max_ms */
    int64_t n_shrunk;    /* dropped to become shallower */
    int64_t n_empty;     /* gets answered EMPTY */
    int64_t n_restarts;  /* SSRC changes, sequence and timestamp jumps */
    int64_t n_stray, n_too_long;
    float depth_ms;      /* audio held now */
    float target_ms;     /* depth aimed at */
    float jitter_ms;     /* 95th percentile of the delay variation seen lately */
    float ptime_ms;      /* packet time learned */
} cp_jitter_stats;

typedef struct cp_jitter cp_jitter;

/* n_slots: power of two in 8..1024, holds at least max_ms at the smallest ptime; slot_bytes:
 * longest payload. 0 if out of range. The memory is 8-byte aligned. */
size_t cp_jitter_size(int32_t n_slots, int32_t slot_bytes);
/* CP_EINVAL if a limit is out of range (0 <= min_ms <= max_ms <= 2000, clock_rate >= 1000). */
int32_t cp_jitter_init(cp_jitter *j, int32_t n_slots, int32_t slot_bytes, int32_t clock_rate,
                       int32_t min_ms, int32_t max_ms);
void cp_jitter_reset(cp_jitter *j); /* forget the stream, keep the limits and counters */
int32_t cp_jitter_put(cp_jitter *j, uint16_t seq, uint32_t timestamp, uint32_t ssrc,
                      uint8_t payload_type, uint8_t marker, const uint8_t *payload, int32_t len,
                      int64_t arrival_ns);
/* This sequence number carried something else (a telephone event, comfort noise taken out):
 * its slot is passed over in silence instead of being counted lost. */
void cp_jitter_skip(cp_jitter *j, uint16_t seq, uint32_t ssrc);
/* Call when the stream's decoded audio has run out; `duration` of audio follows. */
int32_t cp_jitter_get(cp_jitter *j, int64_t now_ns, cp_jitter_frame *out);
void cp_jitter_read_stats(const cp_jitter *j, cp_jitter_stats *out);
#endif
