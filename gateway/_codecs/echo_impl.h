/* Line echo canceller (what ITU-T G.168 is about): an adaptive filter that learns how a two-wire
 * line reflects what is sent into it, and takes that out of what is received.
 *
 * Two filters, after K. Ochiai et al., "Echo canceler with two echo path models", IEEE Trans.
 * Commun. 25 (1977): one adapts all the time by NLMS on spectrally flattened signals, the other one,
 * which makes the output, takes over its coefficients only when they have proved to be better. So
 * double talk, which drives any adaptation astray, cannot be heard.
 */
#ifndef CP_ECHO_IMPL_H
#define CP_ECHO_IMPL_H
#include "codec.h"

enum {
    CP_ECHO_MOST_TAPS = 1024, /* 128 ms at 8 kHz */
    CP_ECHO_BLOCK = 80,       /* 10 ms */
};

typedef struct cp_echo {
    int32_t taps;
    float *adapting, *proven; /* last tap first */
    float *sent, *flat;       /* taps + CP_ECHO_BLOCK: the reference, and the same flattened */
    float last_sent, last_received, last_clean;
    float tilt, square, product; /* flattening: how alike neighbouring samples are */
    float received, clean, trial, estimate; /* smoothed energies of blocks, flattened */
    float leak; /* of the estimated echo, what the proven filter usually leaves; 1: nothing learned */
    int32_t better, worse, harmful;
    float memory[];
} cp_echo;

/* What the last block was: sums of squares. */
typedef struct cp_echo_block {
    float sent, received, clean, estimate;
    float loudest; /* greatest magnitude sent within the filter's length */
} cp_echo_block;

size_t cp_echo_bytes(int32_t taps); /* of the memory for a canceller; 64-byte aligned */
/* taps: a multiple of 16 up to CP_ECHO_MOST_TAPS; CP_EINVAL for others. */
int32_t cp_echo_init(cp_echo *e, int32_t taps);
void cp_echo_forget(cp_echo *e); /* what was learned, and the signals' past */
void cp_echo_past(cp_echo *e, const int16_t *sent); /* the `taps` samples before the next block */
/* One block of CP_ECHO_BLOCK samples: sent[i] is what was sent when received[i] could first hold
 * its echo. clean may be received. */
void cp_echo_cancel(cp_echo *e, const int16_t *sent, const int16_t *received, int16_t *clean,
                    cp_echo_block *block);
#endif
