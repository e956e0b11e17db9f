/* Packet-loss concealment by pitch repetition (after ITU-T G.711 Appendix I), without added
 * delay; one state per stream; 8 or 16 kHz. */
#ifndef CP_PLC_IMPL_H
#define CP_PLC_IMPL_H
#include "codec.h"

#define CP_PLC_HISTORY 800 /* samples: 50 ms at 16 kHz */

typedef struct cp_plc {
    int16_t history[CP_PLC_HISTORY]; /* what was played: a ring of n_history */
    int16_t frozen[CP_PLC_HISTORY];  /* history as it was when the loss began */
    int32_t sample_rate, n_history;
    int32_t oldest; /* its place in `history` */
    int32_t pitch, overlap;  /* samples */
    int32_t n_cycle;         /* length of the repeated stretch: 1 to 3 pitch periods */
    int32_t position;        /* within it */
    int32_t n_lost;          /* samples concealed since the last good one */
    float step;              /* jump at the seam, faded out */
    int64_t n_concealed;     /* samples, in all */
} cp_plc;

int32_t cp_plc_init(cp_plc *plc, int32_t sample_rate); /* 8000 or 16000, else CP_EINVAL */
/* What `cp_plc_good` will write to. */
static inline void cp_plc_prefetch(const cp_plc *plc, int32_t n_samples)
{
    for (int32_t i = 0; i < n_samples; i += 32)
        __builtin_prefetch(plc->history + (plc->oldest + i) % CP_PLC_HISTORY, 1);
}
/* A frame arrived. After a loss its beginning is cross-faded in place. Any n_samples >= 0. */
void cp_plc_good(cp_plc *plc, int16_t *pcm, int32_t n_samples);
/* A frame is missing: writes n_samples of concealment. */
void cp_plc_lost(cp_plc *plc, int16_t *pcm, int32_t n_samples);
/* What comes next does not follow on what was played: a good frame is faded into. */
void cp_plc_cut(cp_plc *plc);
#endif
