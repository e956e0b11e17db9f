/* Packet-loss concealment by pitch repetition (after ITU-T G.711 Appendix I), without added
 * delay; one state per stream; 8 or 16 kHz. */
#ifndef CP_PLC_IMPL_H
#define CP_PLC_IMPL_H
#include "codec.h"

#define CP_PLC_HISTORY 1024 /* samples: 64 ms at 16 kHz */
#define CP_PLC_CYCLE 512    /* most samples of the repeated stretch */

typedef struct cp_plc {
    float history[CP_PLC_HISTORY]; /* oldest first */
    float cycle[CP_PLC_CYCLE];
    int32_t sample_rate;
    int32_t n_cycle;  /* length of the repeated stretch */
    int32_t position; /* within it */
    int32_t pitch;
    int32_t n_lost;    /* samples concealed since the last good one */
    float step;       /* jump at the seam, faded out */
    int64_t n_concealed; /* samples, in all */
} cp_plc;

int32_t cp_plc_init(cp_plc *plc, int32_t sample_rate); /* 8000 or 16000, else CP_EINVAL */
/* A frame arrived. After a loss its beginning is cross-faded in place. Any n_samples >= 0. */
void cp_plc_good(cp_plc *plc, int16_t *pcm, int32_t n_samples);
/* A frame is missing: writes n_samples of concealment. */
void cp_plc_lost(cp_plc *plc, int16_t *pcm, int32_t n_samples);
#endif
