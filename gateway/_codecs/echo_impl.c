#include "echo_impl.h"

#include <math.h>
#include <string.h>

typedef float f8 __attribute__((vector_size(32), aligned(4), may_alias));

/* NLMS learns white signals many times faster than speech, which falls by 6 dB per octave. */
static const float MOST_TILT = 0.9f;
static const float TILT_SMOOTH = 0.95f;
static const float STEP = 0.5f;
static const float LEAST_STEP = 0.02f;
static const float UNLEARNED = 0.3f;       /* leak from which on all that is heard is learned from */
static const float LEAK_UP = 1.003f;       /* per block: 13 dB a second */
static const float SMOOTH = 0.7f;          /* of energies, per block */
static const float QUIET_SQUARE = 64.0f;   /* per sample: -66 dBm0, nothing to learn from */
static const float DOUBLE_TALK = 1.0f;     /* no line reflects more than it was sent */

enum {
    FIRST_PROOF_BLOCKS = 6, /* two voices may resemble each other for a moment */
    PROOF_BLOCKS = 3,
    ASTRAY_BLOCKS = 8,
    HARM_BLOCKS = 4,
};

size_t cp_echo_bytes(int32_t taps)
{
    return sizeof(cp_echo) + sizeof(float) * (size_t)(4 * taps + 2 * CP_ECHO_BLOCK);
}

int32_t cp_echo_init(cp_echo *e, int32_t taps)
{
    if (taps < 16 || taps > CP_ECHO_MOST_TAPS || taps % 16)
        return CP_EINVAL;
    e->taps = taps;
    e->adapting = e->memory;
    e->proven = e->adapting + taps;
    e->sent = e->proven + taps;
    e->flat = e->sent + taps + CP_ECHO_BLOCK;
    cp_echo_forget(e);
    return 0;
}

void cp_echo_forget(cp_echo *e)
{
    memset(e->memory, 0, cp_echo_bytes(e->taps) - sizeof *e);
    e->last_sent = e->last_received = e->last_clean = 0.0f;
    e->tilt = e->square = e->product = 0.0f;
    e->received = e->clean = e->trial = e->estimate = 0.0f;
    e->leak = 1.0f;
    e->better = e->worse = e->harmful = 0;
}

void cp_echo_past(cp_echo *e, const int16_t *sent)
{
    for (int32_t i = 0; i < e->taps; i++) {
        e->sent[i] = sent[i];
        e->flat[i] = sent[i] - e->tilt * (i ? sent[i - 1] : 0);
    }
    e->last_sent = sent[e->taps - 1];
}

/* Sum of a[i] * b[i]. */
static inline __attribute__((always_inline)) float dot(const float *a, const float *b, int32_t n)
{
    f8 one = {0}, two = {0};
    for (int32_t i = 0; i < n; i += 16) {
        one += *(const f8 *)(a + i) * *(const f8 *)(b + i);
        two += *(const f8 *)(a + i + 8) * *(const f8 *)(b + i + 8);
    }
    one += two;
    return ((one[0] + one[4]) + (one[1] + one[5])) + ((one[2] + one[6]) + (one[3] + one[7]));
}

static inline __attribute__((always_inline)) void add_scaled(float *a, const float *b, float by,
                                                             int32_t n)
{
    for (int32_t i = 0; i < n; i += 8)
        *(f8 *)(a + i) += *(const f8 *)(b + i) * by;
}

/* estimate: by the proven filter. Returns the energy of the adapting one's error. */
CP_CLONES static float filter(cp_echo *e, const float *flat_received, float *estimate, float step)
{
    int32_t n = e->taps;
    float error_energy = 0.0f, energy = dot(e->flat, e->flat, n);
    float floor = QUIET_SQUARE * (float)n * 0.1f;
    for (int32_t i = 0; i < CP_ECHO_BLOCK; i++) {
        const float *past = e->flat + i + 1; /* its last one is of now */
        float leaves = e->flat[i], comes = past[n - 1];
        energy += comes * comes - leaves * leaves;
        estimate[i] = dot(e->proven, e->sent + i + 1, n);
        float error = flat_received[i] - dot(e->adapting, past, n);
        error_energy += error * error;
        if (step > 0.0f)
            add_scaled(e->adapting, past, step * error / (fmaxf(energy, 0.0f) + floor), n);
    }
    return error_energy;
}

static int16_t saturate(float v)
{
    return (int16_t)lrintf(fminf(fmaxf(v, -32768.0f), 32767.0f));
}

/* Where more is left than usual somebody speaks there, and hardly anything can be learned (after
 * J.-M. Valin, IEEE Trans. Audio, Speech, Language Process. 15 (2007), on the best step). */
static float step_of(const cp_echo *e)
{
    if (e->leak > UNLEARNED)
        return STEP;
    return STEP * fminf(fmaxf(2.0f * e->leak * e->estimate / (e->clean + 1.0f), LEAST_STEP), 1.0f);
}

/* How fast the sent signal's spectrum falls. */
static void look_at_tilt(cp_echo *e, const int16_t *sent)
{
    float square = 0.0f, product = 0.0f, last = e->last_sent;
    for (int32_t i = 0; i < CP_ECHO_BLOCK; i++) {
        square += (float)sent[i] * sent[i];
        product += last * sent[i];
        last = sent[i];
    }
    e->square = TILT_SMOOTH * e->square + square;
    e->product = TILT_SMOOTH * e->product + product;
    if (e->square > QUIET_SQUARE * CP_ECHO_BLOCK)
        e->tilt = fminf(fmaxf(e->product / e->square, 0.0f), MOST_TILT);
}

/* Which filter is to be believed. */
static void judge(cp_echo *e, int is_active)
{
    size_t bytes = sizeof(float) * (size_t)e->taps;
    if (!is_active) {
        e->better = e->worse = e->harmful = 0;
        return;
    }
    e->better = e->trial < 0.92f * e->clean && e->trial < 0.7f * e->received ? e->better + 1 : 0;
    e->worse = e->trial > 2.0f * e->clean ? e->worse + 1 : 0;
    e->harmful = e->clean > 1.25f * e->received ? e->harmful + 1 : 0;
    if (e->estimate > 0.1f * e->received) {
        float leak = e->clean / e->estimate;
        e->leak = leak < e->leak ? e->leak + 0.3f * (leak - e->leak) : fminf(e->leak * LEAK_UP, 1.0f);
    }
    if (e->better >= (e->leak > UNLEARNED ? FIRST_PROOF_BLOCKS : PROOF_BLOCKS)) {
        memcpy(e->proven, e->adapting, bytes);
        e->clean = e->trial;
        e->better = e->harmful = 0;
    } else if (e->harmful >= HARM_BLOCKS) {
        /* The path has changed. What the other one has learned since may be of use. */
        memset(e->proven, 0, bytes);
        if (e->trial > e->received)
            memset(e->adapting, 0, bytes);
        e->harmful = 0;
        e->leak = 1.0f;
    } else if (e->worse >= ASTRAY_BLOCKS) {
        memcpy(e->adapting, e->proven, bytes);
        e->worse = 0;
    }
}

void cp_echo_cancel(cp_echo *e, const int16_t *sent, const int16_t *received, int16_t *clean,
                    cp_echo_block *block)
{
    enum { N = CP_ECHO_BLOCK };
    float flat_received[N], estimate[N];
    float *now = e->sent + e->taps, *flat_now = e->flat + e->taps;
    float loudest_received = 0.0f, flat_energy = 0.0f, flat_clean = 0.0f, flat_estimate = 0.0f;
    memset(block, 0, sizeof *block);
    look_at_tilt(e, sent);
    for (int32_t i = 0; i < N; i++) {
        float x = sent[i], d = received[i];
        now[i] = x;
        flat_now[i] = x - e->tilt * e->last_sent;
        flat_received[i] = d - e->tilt * e->last_received;
        e->last_sent = x;
        e->last_received = d;
        flat_energy += flat_received[i] * flat_received[i];
        block->sent += x * x;
        block->received += d * d;
        loudest_received = fmaxf(loudest_received, fabsf(d));
    }
    for (int32_t i = 0; i < e->taps + N; i++)
        block->loudest = fmaxf(block->loudest, fabsf(e->sent[i]));
    int is_active = block->loudest * block->loudest > 8.0f * QUIET_SQUARE;
    int adapts = is_active && loudest_received < DOUBLE_TALK * block->loudest;
    float trial = filter(e, flat_received, estimate, adapts ? step_of(e) : 0.0f);
    for (int32_t i = 0; i < N; i++) {
        float out = received[i] - estimate[i];
        float flat = out - e->tilt * e->last_clean, echo = flat_received[i] - flat;
        e->last_clean = out;
        flat_clean += flat * flat;
        flat_estimate += echo * echo;
        block->clean += out * out;
        block->estimate += estimate[i] * estimate[i];
        clean[i] = saturate(out);
    }
    e->received = SMOOTH * e->received + (1.0f - SMOOTH) * flat_energy;
    e->clean = SMOOTH * e->clean + (1.0f - SMOOTH) * flat_clean;
    e->estimate = SMOOTH * e->estimate + (1.0f - SMOOTH) * flat_estimate;
    e->trial = SMOOTH * e->trial + (1.0f - SMOOTH) * trial;
    judge(e, adapts);
    memmove(e->sent, e->sent + N, sizeof(float) * (size_t)e->taps);
    memmove(e->flat, e->flat + N, sizeof(float) * (size_t)e->taps);
}
