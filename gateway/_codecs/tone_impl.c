#include "tone_impl.h"

#include <math.h>
#include <string.h>

#include "sine.h"

#define RATE 8000
#define MERGE_HZ 80.0f      /* closer pairs beat inside a hop's 100 Hz bin: watched as one */
#define START_SHARE 0.42f   /* of the power that the tone has, to begin with */
#define MIN_SHARE 0.6f      /* over the whole tone, after allowing for its frequency offset */
#define BALANCE 0.06f       /* of two tones, the weaker's power over the stronger's: 12 dB */
#define MIN_HITS 5          /* shorter bursts are no part of a cadence */
#define QUIET 0.25f         /* the off part is 6 dB below the on part, or something else is there */
#define TOLERANCE 0.15f
#define TOLERANCE_MS 25.0f  /* of the shortest cadences */
#define LONGEST_MS 20000

static int32_t step_is_valid(const cp_tone_step *step, int32_t sample_rate, int32_t is_last)
{
    if (step->n_freqs < 0 || step->n_freqs > CP_TONE_FREQS || step->duration_ms < 0 ||
        (step->is_am && step->n_freqs != 2) || (step->duration_ms == 0 && !is_last) ||
        !(step->level_dbm0 <= 10.0f))
        return 0;
    for (int32_t k = 0; k < step->n_freqs; k++)
        if (!(step->freq_hz[k] > 0.0f && step->freq_hz[k] < (float)sample_rate / 2.0f))
            return 0;
    return 1;
}

static void enter_step(cp_tone_tx *tx, int32_t i)
{
    const cp_tone_step *step = &tx->steps[i];
    tx->step = i;
    tx->left = step->duration_ms ? (int64_t)step->duration_ms * tx->sample_rate / 1000 : -1;
    tx->amplitude = CP_AMPLITUDE(step->level_dbm0);
    for (int32_t k = 0; k < CP_TONE_FREQS; k++) {
        tx->phase[k] = 0;
        tx->increment[k] =
            k < step->n_freqs ? cp_phase_step(step->freq_hz[k], tx->sample_rate) : 0;
    }
}

int32_t cp_tone_tx_init(cp_tone_tx *tx, const cp_tone_step *steps, int32_t n_steps,
                        int32_t repeat_from, int32_t sample_rate)
{
    memset(tx, 0, sizeof *tx);
    tx->is_over = 1;
    if (n_steps < 1 || n_steps > CP_TONE_STEPS || repeat_from < -1 || repeat_from >= n_steps ||
        sample_rate < 8000 || sample_rate > 48000)
        return CP_EINVAL;
    for (int32_t i = 0; i < n_steps; i++)
        if (!step_is_valid(&steps[i], sample_rate, i == n_steps - 1))
            return CP_EINVAL;
    memcpy(tx->steps, steps, (size_t)n_steps * sizeof *steps);
    tx->n_steps = n_steps;
    tx->repeat_from = repeat_from;
    tx->sample_rate = sample_rate;
    tx->is_over = 0;
    enter_step(tx, 0);
    return 0;
}

CP_CLONES static void sound(cp_tone_tx *tx, int16_t *out, int32_t n)
{
    const cp_tone_step *step = &tx->steps[tx->step];
    uint32_t *p = tx->phase, *d = tx->increment;
    if (step->is_am) {
        /* Carrier times (1 + modulator) / 2: full modulation that never exceeds the level. */
        for (int32_t i = 0; i < n; i++)
            out[i] = cp_round16(tx->amplitude * cp_sine(p[0] + (uint32_t)i * d[0]) * 0.5f *
                                (1.0f + cp_sine(p[1] + (uint32_t)i * d[1])));
    } else {
        float v[160];
        for (int32_t i = 0; i < n; i++)
            v[i] = 0.0f;
        for (int32_t k = 0; k < step->n_freqs; k++)
            for (int32_t i = 0; i < n; i++)
                v[i] += tx->amplitude * cp_sine(p[k] + (uint32_t)i * d[k]);
        for (int32_t i = 0; i < n; i++)
            out[i] = cp_round16(v[i]);
    }
    for (int32_t k = 0; k < CP_TONE_FREQS; k++)
        p[k] += (uint32_t)n * d[k];
}

int32_t cp_tone_tx_read(cp_tone_tx *tx, int16_t *out, int32_t n_samples)
{
    int32_t at = 0;
    while (at < n_samples && !tx->is_over) {
        int32_t n = n_samples - at < 160 ? n_samples - at : 160;
        if (tx->left >= 0 && tx->left < n)
            n = (int32_t)tx->left;
        if (n) {
            sound(tx, out + at, n);
            at += n;
        }
        if (tx->left < 0 || (tx->left -= n) > 0)
            continue;
        if (tx->step + 1 < tx->n_steps)
            enter_step(tx, tx->step + 1);
        else if (tx->repeat_from >= 0)
            enter_step(tx, tx->repeat_from);
        else
            tx->is_over = 1;
    }
    memset(out + at, 0, (size_t)(n_samples - at) * sizeof *out);
    return at;
}

static int32_t bin_for(cp_tone_rx *rx, float hz)
{
    for (int32_t i = 0; i < rx->n_bins; i++)
        if (rx->freq_hz[i] == hz)
            return i;
    if (rx->n_bins == CP_TONE_BINS)
        return -1;
    int32_t i = rx->n_bins++;
    double w = 2.0 * M_PI * hz / RATE;
    rx->freq_hz[i] = hz;
    rx->coefficient[i] = (float)(2.0 * cos(w));
    rx->end_re[i] = (float)cos(w);
    rx->end_im[i] = (float)-sin(w);
    rx->hop_re[i] = (float)cos(w * CP_TONE_HOP);
    rx->hop_im[i] = (float)-sin(w * CP_TONE_HOP);
    return i;
}

static int32_t pattern_is_valid(const cp_tone_pattern *p)
{
    if (p->n_freqs < 1 || p->n_freqs > 2 || p->n_cadence < 0 || p->n_cadence > CP_TONE_STEPS ||
        p->n_cadence & 1 || p->n_cycles < (p->n_cadence ? 1 : 0) ||
        p->n_cycles > CP_TONE_RUNS || p->n_cadence * p->n_cycles > CP_TONE_RUNS ||
        p->min_ms < 0 || p->min_ms > LONGEST_MS)
        return 0;
    for (int32_t k = 0; k < p->n_freqs; k++)
        if (!(p->freq_hz[k] >= 200.0f && p->freq_hz[k] <= 3800.0f))
            return 0;
    for (int32_t k = 0; k < p->n_cadence; k++)
        if (p->cadence_ms[k] < 60 || p->cadence_ms[k] > LONGEST_MS)
            return 0;
    return 1;
}

int32_t cp_tone_rx_init(cp_tone_rx *rx, const cp_tone_pattern *patterns, int32_t n_patterns,
                        float min_dbm0)
{
    memset(rx, 0, sizeof *rx);
    if (n_patterns < 1 || n_patterns > CP_TONE_PATTERNS || !(min_dbm0 <= 0.0f))
        return CP_EINVAL;
    for (int32_t i = 0; i < n_patterns; i++) {
        const cp_tone_pattern *p = &patterns[i];
        cp_tone_watch *w = &rx->watch[i];
        if (!pattern_is_valid(p))
            return CP_EINVAL;
        w->pattern = *p;
        if (p->n_freqs == 2 && fabsf(p->freq_hz[0] - p->freq_hz[1]) < MERGE_HZ) {
            w->n_bins = w->is_merged = 1;
            w->bin[0] = bin_for(rx, (p->freq_hz[0] + p->freq_hz[1]) / 2.0f);
        } else {
            w->n_bins = p->n_freqs;
            for (int32_t k = 0; k < p->n_freqs; k++)
                w->bin[k] = bin_for(rx, p->freq_hz[k]);
        }
        if (w->bin[0] < 0 || w->bin[1] < 0)
            return CP_EINVAL;
    }
    rx->n_patterns = n_patterns;
    float a = CP_AMPLITUDE(min_dbm0);
    rx->min_power = a * a / 2.0f;
    return 0;
}

CP_CLONES static void resonate(cp_tone_rx *rx, const int16_t *src, int32_t n)
{
    float c[CP_TONE_BINS], v1[CP_TONE_BINS], v2[CP_TONE_BINS], energy = rx->hop_energy;
    memcpy(c, rx->coefficient, sizeof c);
    memcpy(v1, rx->v1, sizeof v1);
    memcpy(v2, rx->v2, sizeof v2);
    for (int32_t i = 0; i < n; i++) {
        float x = src[i];
        for (int32_t k = 0; k < CP_TONE_BINS; k++) {
            float v = x + c[k] * v1[k] - v2[k];
            v2[k] = v1[k];
            v1[k] = v;
        }
        energy += x * x;
    }
    memcpy(rx->v1, v1, sizeof v1);
    memcpy(rx->v2, v2, sizeof v2);
    rx->hop_energy = energy;
}

/* The offset from the nominal frequency, if the phase advances agree. */
static float offset_hz(const cp_tone_watch *w, int32_t k)
{
    float angle = atan2f(w->turn_im[k], w->turn_re[k]);
    return (w->is_merged ? angle / 2.0f : angle) * ((float)RATE / (2.0f * (float)M_PI * CP_TONE_HOP));
}

static int32_t tone_fits(const cp_tone_rx *rx, const cp_tone_watch *w)
{
    float allowance = 1.0f;
    if (w->n_turns < 2)
        return 0;
    for (int32_t k = 0; k < w->n_bins; k++) {
        float off = offset_hz(w, k);
        if (fabsf(off) > 0.015f * rx->freq_hz[w->bin[k]] + 10.0f)
            return 0;
        /* A tone beside the centre of its bin shows less power there: sinc squared. */
        float x = (float)M_PI * off * CP_TONE_HOP / RATE;
        float droop = fabsf(x) > 0.01f ? sinf(x) / x : 1.0f;
        allowance = fmaxf(allowance, 1.0f / (droop * droop));
    }
    return w->tone_power * allowance >= MIN_SHARE * w->all_power;
}

static void push_run(cp_tone_watch *w, double ms)
{
    if (w->n_runs == CP_TONE_RUNS) {
        memmove(w->run_ms, w->run_ms + 2, (CP_TONE_RUNS - 2) * sizeof *w->run_ms);
        w->n_runs -= 2;
    }
    w->run_ms[w->n_runs++] = (int32_t)(ms + 0.5);
}

static int32_t is_close(int32_t seen, int32_t wanted)
{
    float slack = fmaxf(TOLERANCE * (float)wanted, TOLERANCE_MS);
    return fabsf((float)(seen - wanted)) <= slack;
}

/* Whether the newest runs are the cadence, at any of its on steps; the last pause need not have
 * ended. */
static int32_t cadence_matches(const cp_tone_watch *w)
{
    const cp_tone_pattern *p = &w->pattern;
    int32_t need = p->n_cadence * p->n_cycles - 1;
    if (w->n_runs < need)
        return 0;
    for (int32_t last = 0; last < p->n_cadence; last += 2) {
        int32_t i = 0;
        while (i < need && is_close(w->run_ms[w->n_runs - 1 - i],
                                    p->cadence_ms[(last + p->n_cadence * p->n_cycles - i) %
                                                  p->n_cadence]))
            i++;
        if (i == need)
            return 1;
    }
    return 0;
}

static int32_t longest(const cp_tone_pattern *p, int32_t from)
{
    int32_t most = 0;
    for (int32_t k = from; k < p->n_cadence; k += 2)
        most = p->cadence_ms[k] > most ? p->cadence_ms[k] : most;
    return most + most / 4 + 100;
}

static void forget(cp_tone_watch *w)
{
    w->n_runs = 0;
    w->is_reported = 0;
}

static int32_t report(cp_tone_rx *rx, cp_tone_watch *w, cp_tone_event *events, int32_t n,
                      int32_t max)
{
    w->is_reported = 1;
    if (n >= max) {
        rx->n_dropped++;
        return n;
    }
    events[n].id = w->pattern.id;
    events[n].at_sample = rx->n_samples;
    events[n].level_dbm0 = 10.0f * log10f(w->peak * 2.0f / (32768.0f * 32768.0f) + 1e-12f) + 3.14f;
    return n + 1;
}

/* Length so far: the power of all hops over that of one, away from the edges because a modulated
 * tone ripples and its peak would not do. */
static double length_hops(const cp_tone_watch *w)
{
    return w->sum / (w->n_inner ? w->inner / (float)w->n_inner : w->peak);
}

static int32_t end_run(cp_tone_rx *rx, cp_tone_watch *w, cp_tone_event *events, int32_t n,
                       int32_t max)
{
    double hops = length_hops(w);
    int32_t fits = w->n_hits >= MIN_HITS && tone_fits(rx, w);
    if (w->pattern.n_cadence == 0) {
        w->is_reported = 0;
    } else if (!fits) {
        forget(w);
    } else {
        if (w->n_runs)
            push_run(w, (w->start_hop - w->end_hop) * 10.0);
        push_run(w, hops * 10.0);
        w->end_hop = w->start_hop + hops;
        w->last_peak = w->peak;
        int32_t matches = cadence_matches(w);
        if (matches && !w->is_reported)
            n = report(rx, w, events, n, max);
    }
    w->n_hits = 0;
    return n;
}

static int32_t watch_hop(cp_tone_rx *rx, cp_tone_watch *w, const float *re, const float *im,
                         cp_tone_event *events, int32_t n, int32_t max)
{
    static const float weight[4] = {0.5f / 3.0f, 1.0f / 3.0f, 1.0f / 3.0f, 0.5f / 3.0f};
    float tone[2] = {0}, all = 0.0f;
    for (int32_t b = 0; b < 4; b++) {
        all += weight[b] * rx->energy[b];
        for (int32_t k = 0; k < w->n_bins; k++)
            tone[k] += weight[b] * rx->power[b][w->bin[k]];
    }
    float power = tone[0] + tone[1], weaker = power, stronger = power;
    if (w->n_bins == 2) {
        weaker = fminf(tone[0], tone[1]);
        stronger = fmaxf(tone[0], tone[1]);
    }
    double centre = (double)rx->n_hops - 2.0;
    int32_t hit = power >= START_SHARE * all && weaker >= rx->min_power &&
                  weaker >= BALANCE * stronger && (!w->n_hits || power >= 0.3f * w->peak);
    if (!w->n_hits) {
        int32_t loud = centre - w->end_hop > 4.0 && all > QUIET * w->last_peak && !hit;
        w->n_loud = loud ? w->n_loud + 1 : 0;
        if (w->n_loud >= 4) /* not the partial hops at a tone's beginning */
            forget(w);
        if ((centre - w->end_hop) * 10.0 > longest(&w->pattern, 1))
            forget(w);
        if (hit) {
            w->n_hits = 1;
            w->n_misses = w->n_turns = 0;
            w->sum = power + w->power_before;
            w->inner = 0.0f;
            w->n_inner = 0;
            w->recent[0] = power;
            w->peak = w->tone_power = power;
            w->all_power = all;
            w->turn_re[0] = w->turn_re[1] = w->turn_im[0] = w->turn_im[1] = 0.0f;
            w->start_hop = centre - 0.5;
        }
        w->power_before = power;
        return n;
    }
    w->sum += power;
    w->power_before = power;
    if (!hit) {
        return ++w->n_misses >= 2 ? end_run(rx, w, events, n, max) : n;
    }
    w->n_hits++;
    if (w->n_hits > 6) {
        w->inner += w->recent[2];
        w->n_inner++;
    }
    w->recent[2] = w->recent[1];
    w->recent[1] = w->recent[0];
    w->recent[0] = power;
    w->n_misses = 0;
    w->peak = fmaxf(w->peak, power);
    w->tone_power += power;
    w->all_power += all;
    if (w->n_hits > 3) {
        for (int32_t k = 0; k < w->n_bins; k++) {
            int32_t i = w->bin[k];
            float a = re[i] * rx->x_re[i] + im[i] * rx->x_im[i];
            float b = im[i] * rx->x_re[i] - re[i] * rx->x_im[i];
            float c = a * rx->hop_re[i] - b * rx->hop_im[i];
            float d = a * rx->hop_im[i] + b * rx->hop_re[i];
            /* A beating pair changes sign at each null: twice the angle does not show it. */
            w->turn_re[k] += w->is_merged ? (c * c - d * d) / (c * c + d * d + 1e-9f) : c;
            w->turn_im[k] += w->is_merged ? 2.0f * c * d / (c * c + d * d + 1e-9f) : d;
        }
        w->n_turns++;
    }
    double hops = length_hops(w);
    if (w->n_hits == MIN_HITS || w->n_hits == 12) /* again, when its power is better known */
        w->start_hop = centre + 0.5 - hops;
    if (w->pattern.n_cadence == 0) {
        if (!w->is_reported && hops * 10.0 >= w->pattern.min_ms && w->n_hits >= MIN_HITS &&
            tone_fits(rx, w))
            n = report(rx, w, events, n, max);
    } else if (hops * 10.0 > longest(&w->pattern, 0)) {
        forget(w);
    }
    return n;
}

static int32_t hop(cp_tone_rx *rx, cp_tone_event *events, int32_t n, int32_t max)
{
    float re[CP_TONE_BINS], im[CP_TONE_BINS];
    memmove(rx->power[1], rx->power[0], 3 * sizeof rx->power[0]);
    memmove(rx->energy + 1, rx->energy, 3 * sizeof *rx->energy);
    rx->n_hops++;
    for (int32_t i = 0; i < CP_TONE_BINS; i++) {
        re[i] = rx->v1[i] - rx->end_re[i] * rx->v2[i];
        im[i] = -rx->end_im[i] * rx->v2[i];
        rx->power[0][i] = (re[i] * re[i] + im[i] * im[i]) * (2.0f / (CP_TONE_HOP * CP_TONE_HOP));
        rx->v1[i] = rx->v2[i] = 0.0f;
    }
    rx->energy[0] = rx->hop_energy / CP_TONE_HOP;
    rx->hop_energy = 0.0f;
    for (int32_t i = 0; i < rx->n_patterns; i++)
        n = watch_hop(rx, &rx->watch[i], re, im, events, n, max);
    memcpy(rx->x_re, re, sizeof re);
    memcpy(rx->x_im, im, sizeof im);
    return n;
}

int32_t cp_tone_rx_push(cp_tone_rx *rx, const int16_t *src, int32_t n_samples,
                        cp_tone_event *events, int32_t max_events)
{
    int32_t n = 0;
    for (int32_t at = 0; at < n_samples;) {
        int32_t take = CP_TONE_HOP - rx->fill;
        take = take > n_samples - at ? n_samples - at : take;
        resonate(rx, src + at, take);
        at += take;
        rx->fill += take;
        rx->n_samples += take;
        if (rx->fill < CP_TONE_HOP)
            break;
        rx->fill = 0;
        n = hop(rx, events, n, max_events);
    }
    return n;
}
