#include "dtmf_impl.h"

#include <math.h>
#include <string.h>

#include "sine.h"

/* Each 8 ms a Hann-windowed 16 ms spectrum at the eight frequencies. The window's tails make the
 * sum of a steady tone's amplitudes proportional to its length, and the phase advance from hop to
 * hop gives its frequency far more finely than the 62 Hz bins could. */
static const float tone_hz[8] = {697, 770, 852, 941, 1209, 1336, 1477, 1633};
static const char digits[] = "123A456B789C*0#D";

#define MIN_DBM0 (-34.0f)       /* each tone */
#define TWIST_COLUMN_DB 4.8f    /* column above row: Q.24 asks for 4 */
#define TWIST_ROW_DB 8.8f       /* row above column: Q.24 asks for 8 (the line attenuates high tones) */
#define MIN_SHARE 0.80f        /* of the power in the window that the pair has */
#define STEADY 0.5f             /* of the digit's amplitude, else the hop is a miss */
#define COHERENCE 0.88f         /* of the phase advances; speech that hits a pair wanders */
#define MAX_DEVIATION 0.023f    /* between the 1.5 % to accept and the 3.5 % to reject */
#define MIN_TONE_MS 29.0f       /* between the 23 ms to reject and the 40 ms to accept */
#define RISE 1.2f               /* from a digit that dies away to the same one, pressed again */
#define MISSES_TO_END 3         /* 24 ms: bridges a drop-out of 10 ms, ends at a pause of 40 */

static float basis[CP_DTMF_WINDOW][16]; /* windowed cosines, then sines */
static float window_of[CP_DTMF_WINDOW], window_sum, window_power;
static float hop_re[8], hop_im[8]; /* exp(-i w hop) of the nominal frequencies */
static float min_amplitude;

void cp_dtmf_setup(void)
{
    window_sum = window_power = 0.0f;
    for (int32_t n = 0; n < CP_DTMF_WINDOW; n++) {
        float w = (float)(0.5 - 0.5 * cos(2.0 * M_PI * (n + 0.5) / CP_DTMF_WINDOW));
        window_of[n] = w;
        window_sum += w;
        window_power += w * w;
        for (int32_t k = 0; k < 8; k++) {
            double angle = 2.0 * M_PI * tone_hz[k] * n / 8000.0;
            basis[n][k] = (float)(w * cos(angle));
            basis[n][8 + k] = (float)(-w * sin(angle));
        }
    }
    for (int32_t k = 0; k < 8; k++) {
        double angle = 2.0 * M_PI * tone_hz[k] * CP_DTMF_HOP / 8000.0;
        hop_re[k] = (float)cos(angle);
        hop_im[k] = (float)-sin(angle);
    }
    min_amplitude = CP_AMPLITUDE(MIN_DBM0);
}

void cp_dtmf_rx_init(cp_dtmf_rx *rx)
{
    memset(rx, 0, sizeof *rx);
    rx->candidate = rx->previous = rx->tail = -1;
}

typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));

CP_CLONES static void spectrum(const float *x, float *re_im, float *energy)
{
    f4 sum[2][4] = {{{0}}}, e[2] = {{0}};
    for (int32_t n = 0; n < CP_DTMF_WINDOW; n += 2)
        for (int32_t m = 0; m < 2; m++)
            for (int32_t k = 0; k < 4; k++)
                sum[m][k] += x[n + m] * ((const f4 *)basis[n + m])[k];
    for (int32_t n = 0; n < CP_DTMF_WINDOW; n += 8)
        for (int32_t m = 0; m < 2; m++) {
            f4 v = *(const f4 *)(x + n + 4 * m) * *(const f4 *)(window_of + n + 4 * m);
            e[m] += v * v;
        }
    for (int32_t k = 0; k < 4; k++)
        ((f4 *)re_im)[k] = sum[0][k] + sum[1][k];
    e[0] += e[1];
    *energy = e[0][0] + e[0][1] + e[0][2] + e[0][3];
}

static inline float amplitude(const float *re, const float *im, int32_t k)
{
    return 2.0f / window_sum * sqrtf(re[k] * re[k] + im[k] * im[k]);
}

static inline float pair_amplitude(const float *re, const float *im, int32_t pair)
{
    return sqrtf(amplitude(re, im, pair >> 2) * amplitude(re, im, 4 + (pair & 3)));
}

/* The pair that dominates this window, or -1. */
static int32_t find_pair(const float *re, const float *im, float energy)
{
    int32_t row = 0, column = 4;
    for (int32_t k = 1; k < 4; k++) {
        if (re[k] * re[k] + im[k] * im[k] > re[row] * re[row] + im[row] * im[row])
            row = k;
        if (re[4 + k] * re[4 + k] + im[4 + k] * im[4 + k] >
            re[column] * re[column] + im[column] * im[column])
            column = 4 + k;
    }
    float low = amplitude(re, im, row), high = amplitude(re, im, column);
    if (low < min_amplitude || high < min_amplitude)
        return -1;
    if (high > low * powf(10.0f, TWIST_COLUMN_DB / 20.0f) ||
        low > high * powf(10.0f, TWIST_ROW_DB / 20.0f))
        return -1;
    if ((low * low + high * high) / 2.0f < MIN_SHARE * energy / window_power)
        return -1;
    return row * 4 + column - 4;
}

/* Adds how far each tone turned since the last hop, beyond its nominal frequency. */
static void add_turn(cp_dtmf_rx *rx, const float *re, const float *im)
{
    int32_t bin[2] = {rx->candidate >> 2, 4 + (rx->candidate & 3)};
    for (int32_t i = 0; i < 2; i++) {
        int32_t k = bin[i];
        float a = re[k] * rx->x_re[k] + im[k] * rx->x_im[k];
        float b = im[k] * rx->x_re[k] - re[k] * rx->x_im[k];
        float scale = 1.0f / (sqrtf(a * a + b * b) + 1e-9f);
        rx->turn_re[i] += scale * (a * hop_re[k] - b * hop_im[k]);
        rx->turn_im[i] += scale * (a * hop_im[k] + b * hop_re[k]);
        rx->n_turns += i;
    }
}

static int32_t frequencies_fit(const cp_dtmf_rx *rx)
{
    int32_t bin[2] = {rx->candidate >> 2, 4 + (rx->candidate & 3)};
    if (!rx->n_turns)
        return 0;
    for (int32_t i = 0; i < 2; i++) {
        float re = rx->turn_re[i], im = rx->turn_im[i];
        if (sqrtf(re * re + im * im) < COHERENCE * (float)rx->n_turns)
            return 0;
        float hz = atan2f(im, re) * (8000.0f / (2.0f * (float)M_PI * CP_DTMF_HOP));
        if (fabsf(hz) > MAX_DEVIATION * tone_hz[bin[i]])
            return 0;
    }
    return 1;
}

static void begin(cp_dtmf_rx *rx, int32_t pair)
{
    rx->candidate = pair;
    rx->n_hits = rx->n_misses = rx->confirmed = rx->n_turns = 0;
    rx->turn_re[0] = rx->turn_re[1] = rx->turn_im[0] = rx->turn_im[1] = 0.0f;
    /* The window before may already have held the tone's beginning. */
    rx->sum = pair_amplitude(rx->x_re, rx->x_im, pair);
    rx->peak = rx->level = 0.0f;
}

static int32_t emit(cp_dtmf_rx *rx, cp_dtmf_event *events, int32_t n, int32_t max, int32_t is_end)
{
    if (n >= max) {
        rx->n_dropped++;
        return n;
    }
    float hops = rx->peak > 0.0f ? rx->sum / rx->peak : 0.0f;
    events[n].start_sample = rx->start_sample;
    events[n].n_samples = (int32_t)(hops * CP_DTMF_HOP);
    events[n].level_dbm0 = 20.0f * log10f(rx->level / 32768.0f + 1e-9f) + 3.14f;
    events[n].digit = digits[rx->candidate];
    events[n].is_end = (uint8_t)is_end;
    return n + 1;
}

static int32_t hop(cp_dtmf_rx *rx, cp_dtmf_event *events, int32_t n, int32_t max)
{
    float x[16], energy;
    const float *re = x, *im = x + 8;
    spectrum(rx->window, x, &energy);
    int32_t pair = find_pair(re, im, energy);
    if (rx->candidate >= 0 && pair != rx->candidate && pair >= 0 && pair == rx->previous)
        rx->n_misses = MISSES_TO_END; /* another digit has followed without a pause */
    if (rx->candidate >= 0) {
        float a = pair_amplitude(re, im, rx->candidate);
        int32_t hit = pair == rx->candidate && a >= STEADY * rx->peak;
        rx->sum += rx->n_misses >= MISSES_TO_END ? 0.0f : a;
        if (hit) {
            rx->peak = a > rx->peak ? a : rx->peak;
            float level = fmaxf(amplitude(re, im, pair >> 2), amplitude(re, im, 4 + (pair & 3)));
            rx->level = level > rx->level ? level : rx->level;
            if (rx->n_hits > 0 && rx->n_misses == 0)
                add_turn(rx, re, im);
            rx->n_hits++;
            rx->n_misses = 0;
            float hops = rx->sum / rx->peak;
            if (!rx->confirmed && rx->n_hits >= 3 && hops * CP_DTMF_HOP >= MIN_TONE_MS * 8.0f &&
                frequencies_fit(rx)) {
                rx->confirmed = 1;
                rx->start_sample = rx->n_samples - CP_DTMF_WINDOW / 2 + CP_DTMF_HOP / 2 -
                                   (int64_t)(hops * CP_DTMF_HOP);
                rx->start_sample = rx->start_sample < 0 ? 0 : rx->start_sample;
                n = emit(rx, events, n, max, 0);
            }
        } else if (++rx->n_misses >= MISSES_TO_END) {
            if (rx->confirmed) {
                n = emit(rx, events, n, max, 1);
                rx->tail = rx->candidate;
                rx->tail_amplitude = a;
            }
            rx->candidate = -1;
        }
    }
    float now = pair >= 0 ? pair_amplitude(re, im, pair) : 0.0f;
    if (rx->candidate < 0 && pair >= 0 && pair == rx->tail && now < RISE * rx->tail_amplitude) {
        /* What is left of it: an echo, a concealment, a fader. */
        rx->tail_amplitude = now;
    } else if (rx->candidate < 0 && pair >= 0) {
        begin(rx, pair);
        rx->sum += now;
        rx->peak = now;
        rx->n_hits = 1;
    }
    if (pair != rx->tail || rx->candidate >= 0)
        rx->tail = -1;
    rx->previous = pair;
    memcpy(rx->x_re, re, sizeof rx->x_re);
    memcpy(rx->x_im, im, sizeof rx->x_im);
    return n;
}

int32_t cp_dtmf_rx_push(cp_dtmf_rx *rx, const int16_t *src, int32_t n_samples,
                        cp_dtmf_event *events, int32_t max_events)
{
    int32_t n = 0;
    for (int32_t at = 0; at < n_samples;) {
        int32_t take = CP_DTMF_HOP - rx->fill;
        take = take > n_samples - at ? n_samples - at : take;
        float *to = rx->window + CP_DTMF_WINDOW - CP_DTMF_HOP + rx->fill;
        for (int32_t i = 0; i < take; i++)
            to[i] = src[at + i];
        at += take;
        rx->fill += take;
        rx->n_samples += take;
        if (rx->fill < CP_DTMF_HOP)
            break;
        rx->fill = 0;
        n = hop(rx, events, n, max_events);
        memmove(rx->window, rx->window + CP_DTMF_HOP,
                (CP_DTMF_WINDOW - CP_DTMF_HOP) * sizeof *rx->window);
    }
    return n;
}

int32_t cp_dtmf_tx_init(cp_dtmf_tx *tx, char digit, int32_t sample_rate, float level_dbm0,
                        float twist_db)
{
    const char *found = digit ? strchr(digits, digit) : NULL;
    memset(tx, 0, sizeof *tx);
    if (!found || sample_rate < 8000 || sample_rate > 48000)
        return CP_EINVAL;
    int32_t pair = (int32_t)(found - digits);
    tx->step[0] = cp_phase_step(tone_hz[pair >> 2], sample_rate);
    tx->step[1] = cp_phase_step(tone_hz[4 + (pair & 3)], sample_rate);
    tx->amplitude[0] = CP_AMPLITUDE(level_dbm0 - twist_db / 2.0f);
    tx->amplitude[1] = CP_AMPLITUDE(level_dbm0 + twist_db / 2.0f);
    return 0;
}

CP_CLONES void cp_dtmf_tx_read(cp_dtmf_tx *tx, int16_t *out, int32_t n_samples)
{
    uint32_t p = tx->phase[0], q = tx->phase[1];
    for (int32_t i = 0; i < n_samples; i++)
        out[i] = cp_round16(tx->amplitude[0] * cp_sine(p + (uint32_t)i * tx->step[0]) +
                            tx->amplitude[1] * cp_sine(q + (uint32_t)i * tx->step[1]));
    tx->phase[0] = p + (uint32_t)n_samples * tx->step[0];
    tx->phase[1] = q + (uint32_t)n_samples * tx->step[1];
}
