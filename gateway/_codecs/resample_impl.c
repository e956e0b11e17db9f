#include "resample_impl.h"

#include <math.h>
#include <string.h>


/* One Nyquist filter per ratio: -6 dB at the lower rate's half, about 65 dB down past the
 * transition. One of its phases is a pure delay, so a sixth to a half of the work falls away. */
typedef struct filter {
    int32_t ratio, taps, delay_phase, delay_tap;
    float h[CP_RESAMPLE_PHASES][CP_RESAMPLE_TAPS]; /* newest sample first, each phase sums to 1 */
} filter;

static filter filters[] = {{.ratio = 2, .taps = 28}, {.ratio = 3, .taps = 32},
                           {.ratio = 6, .taps = 28}};

static double bessel_i0(double x)
{
    double sum = 1.0, term = 1.0;
    for (int32_t k = 1; k < 40; k++) {
        term *= (x / (2.0 * k)) * (x / (2.0 * k));
        sum += term;
    }
    return sum;
}

static void design(filter *f)
{
    const double beta = 6.2;
    int32_t length = f->ratio * f->taps - 1, centre = length / 2;
    f->delay_phase = centre % f->ratio;
    f->delay_tap = centre / f->ratio;
    for (int32_t n = 0; n < length; n++) {
        double x = (double)(n - centre), r = x / (centre + 1);
        double window = bessel_i0(beta * sqrt(1.0 - r * r)) / bessel_i0(beta);
        double sinc = n == centre ? 1.0 : sin(M_PI * x / f->ratio) / (M_PI * x / f->ratio);
        f->h[n % f->ratio][n / f->ratio] = (float)(sinc * window);
    }
    for (int32_t p = 0; p < f->ratio; p++) {
        float sum = 0.0f;
        for (int32_t k = 0; k < f->taps; k++)
            sum += f->h[p][k];
        for (int32_t k = 0; k < f->taps; k++)
            f->h[p][k] = p == f->delay_phase ? (float)(k == f->delay_tap) : f->h[p][k] / sum;
    }
}

void cp_resample_setup(void)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        design(&filters[i]);
}

int32_t cp_resampler_init(cp_resampler *r, int32_t from_hz, int32_t to_hz)
{
    memset(r, 0, sizeof *r);
    if (from_hz <= 0 || to_hz <= 0 || from_hz > 48000 || from_hz % 1000)
        return CP_EINVAL;
    r->up = to_hz >= from_hz ? to_hz / from_hz : 1;
    r->down = from_hz > to_hz ? from_hz / to_hz : 1;
    r->in_per_ms = from_hz / 1000;
    if ((int64_t)from_hz * r->up != (int64_t)to_hz * r->down)
        return CP_EINVAL;
    if (from_hz == to_hz)
        return 0;
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (filters[i].ratio == r->up * r->down) {
            r->taps = filters[i].taps;
            return 0;
        }
    return CP_EINVAL;
}

static const filter *filter_of(const cp_resampler *r)
{
    int32_t ratio = r->up * r->down;
    return &filters[ratio == 2 ? 0 : ratio == 3 ? 1 : 2];
}

/* y[i] += sum over k of h[k] * x[i - k]; x has taps - 1 samples before it. Four taps a pass: few
 * enough loads and stores of y, and a loop that every compiler vectorises. */
static inline __attribute__((always_inline)) void convolve(const float *restrict x,
                                                           const float *restrict h, int32_t taps,
                                                           float *restrict y, int32_t n)
{
    for (int32_t k = 0; k < taps; k += 4) {
        float h0 = h[k], h1 = h[k + 1], h2 = h[k + 2], h3 = h[k + 3];
        const float *p = x - k;
        for (int32_t i = 0; i < n; i++)
            y[i] += h0 * p[i] + h1 * p[i - 1] + h2 * p[i - 2] + h3 * p[i - 3];
    }
}

static inline int16_t to_int16(float v)
{
    v = v > 32767.0f ? 32767.0f : v < -32768.0f ? -32768.0f : v;
    return (int16_t)(int32_t)(v + (v < 0.0f ? -0.5f : 0.5f));
}

#define PIECE 480 /* inputs per pass: 10 ms at 48 kHz; a multiple of every ratio */

/* Constant ratios, so that the loops vectorise. */
static inline __attribute__((always_inline)) void interleave(int16_t (*phases)[PIECE],
                                                             int32_t ratio, int16_t *restrict out,
                                                             int32_t n)
{
    if (ratio == 2)
        for (int32_t i = 0; i < n; i++)
            for (int32_t p = 0; p < 2; p++)
                out[i * 2 + p] = phases[p][i];
    else if (ratio == 3)
        for (int32_t i = 0; i < n; i++)
            for (int32_t p = 0; p < 3; p++)
                out[i * 3 + p] = phases[p][i];
    else
        for (int32_t i = 0; i < n; i++)
            for (int32_t p = 0; p < 6; p++)
                out[i * 6 + p] = phases[p][i];
}

CP_CLONES static void upsample(cp_resampler *r, const filter *f, const int16_t *src, int32_t n,
                               int16_t *out)
{
    float x[CP_RESAMPLE_TAPS + PIECE], y[PIECE];
    int16_t phases[CP_RESAMPLE_PHASES][PIECE];
    int32_t past = f->taps - 1, ratio = f->ratio;
    memcpy(x, r->history[0], (size_t)past * sizeof *x);
    for (int32_t i = 0; i < n; i++)
        x[past + i] = (float)src[i];
    for (int32_t p = 0; p < ratio; p++) {
        if (p == f->delay_phase) {
            for (int32_t i = 0; i < n; i++)
                phases[p][i] = (int16_t)(int32_t)x[past + i - f->delay_tap];
            continue;
        }
        memset(y, 0, (size_t)n * sizeof *y);
        convolve(x + past, f->h[p], f->taps, y, n);
        for (int32_t i = 0; i < n; i++)
            phases[p][i] = to_int16(y[i]);
    }
    interleave(phases, ratio, out, n);
    memcpy(r->history[0], x + n, (size_t)past * sizeof *x);
}

CP_CLONES static void downsample(cp_resampler *r, const filter *f, const int16_t *src, int32_t n,
                                 int16_t *out)
{
    float x[CP_RESAMPLE_TAPS + PIECE], y[PIECE];
    int32_t past = f->taps - 1, ratio = f->ratio, m = n / ratio;
    memset(y, 0, (size_t)m * sizeof *y);
    for (int32_t p = 0; p < ratio; p++) {
        /* Output i stands for input i * ratio + ratio - 1, which phase 0 of the filter meets. */
        memcpy(x, r->history[p], (size_t)past * sizeof *x);
        for (int32_t i = 0; i < m; i++)
            x[past + i] = (float)src[i * ratio + ratio - 1 - p];
        if (p == f->delay_phase)
            for (int32_t i = 0; i < m; i++)
                y[i] += x[past + i - f->delay_tap];
        else
            convolve(x + past, f->h[p], f->taps, y, m);
        memcpy(r->history[p], x + m, (size_t)past * sizeof *x);
    }
    float gain = 1.0f / (float)ratio;
    for (int32_t i = 0; i < m; i++)
        out[i] = to_int16(y[i] * gain);
}

int32_t cp_resample(cp_resampler *r, const int16_t *src, int32_t n_in, int16_t *out, int32_t cap)
{
    if (n_in < 0 || n_in % r->down || n_in > r->in_per_ms * CP_RESAMPLE_MAX_MS ||
        (int64_t)n_in / r->down * r->up > cap)
        return CP_EINVAL;
    if (r->up == r->down) {
        memcpy(out, src, (size_t)n_in * sizeof *out);
        return n_in;
    }
    const filter *f = filter_of(r);
    for (int32_t at = 0; at < n_in; at += PIECE) {
        int32_t n = n_in - at < PIECE ? n_in - at : PIECE;
        if (r->up > 1)
            upsample(r, f, src + at, n, out + (int64_t)at * r->up);
        else
            downsample(r, f, src + at, n, out + at / r->down);
    }
    return n_in / r->down * r->up;
}
