/* Framer: a thread that puts a header and the frame before in front of each audio frame. */
#ifndef FRAMER_IMPL_H
#define FRAMER_IMPL_H

#include <stdint.h>

enum { CF_PREFIX_BYTES = 64, CF_FRAME_BYTES = 640 };

typedef struct cf_framer cf_framer;

typedef struct {
    uint64_t sent, dropped, errors;
    uint64_t worst_gap_ns; /* between two packets of the same page */
} cf_counts;

/* Takes over both descriptors. NULL and errno when the thread cannot be started. */
cf_framer *cf_start(int in_fd, int out_fd, const uint8_t *prefix, int prefix_bytes,
                    int frame_bytes, uint32_t count, uint32_t step);
void cf_forward(cf_framer *f, int on);
void cf_counts_get(cf_framer *f, cf_counts *c);
/* Ends the thread, closes both descriptors, frees. */
void cf_stop(cf_framer *f);

#endif
