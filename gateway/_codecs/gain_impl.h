/* Automatic gain control and noise gate of one stream.
 *
 * The gain follows the envelope of what is loud enough to be speech. Every change is a ramp over
 * the frame, or over its first quarter where a word begins, or quicker where the scale would be left.
 */
#ifndef CP_GAIN_IMPL_H
#define CP_GAIN_IMPL_H
#include "codec.h"

/* Levels are mean squares of int16 samples, gains linear. */
typedef struct cp_gain_config {
    uint8_t controls, gates;
    uint16_t hold_frames;
    float target, most;    /* most: greatest gain, and its inverse the least */
    float attack, release; /* share of a change of level that is followed in a frame */
    float gate;            /* opens for a quarter of a frame of this level */
} cp_gain_config;

typedef struct cp_gain {
    cp_gain_config config;
    float envelope, wanted, gain; /* wanted: by the control; gain: at the end of the last frame */
    uint16_t open_frames;
} cp_gain;

void cp_gain_init(cp_gain *g, const cp_gain_config *config);
void cp_gain_frame(cp_gain *g, int16_t *pcm, int32_t n_samples); /* 20 ms, in place */
#endif
