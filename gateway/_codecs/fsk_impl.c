#include "fsk_impl.h"

#include <math.h>
#include <string.h>

#include "sine.h"

#define BAUD 1200
#define MIN_DBM0 (-45.0f)
#define MIN_SHARE 0.7f     /* of the power that mark and space have: FSK 0.85, white noise 0.57 */
#define SHARE_BITS 3.0f    /* over about so many bits */
#define DROP 0.1f          /* 10 dB */
#define FOLLOW 0.5f        /* of the timing error seen at an edge is taken out */
#define MARK_BITS 25       /* steady mark before octets count: sets the seizure's 01 bits apart */
#define IDLE_BITS 40       /* without carrier for this long: the message is over */

static const double mark_space_hz[2][2] = {{1200, 2200}, {1300, 2100}};

static int32_t is_known(int32_t standard, int32_t sample_rate)
{
    return (standard == CP_FSK_BELL202 || standard == CP_FSK_V23) && sample_rate >= 8000 &&
           sample_rate <= 48000;
}

int32_t cp_fsk_tx_init(cp_fsk_tx *tx, int32_t standard, int32_t sample_rate, float level_dbm0)
{
    memset(tx, 0, sizeof *tx);
    if (!is_known(standard, sample_rate))
        return CP_EINVAL;
    tx->sample_rate = sample_rate;
    tx->baud_step = cp_phase_step(BAUD, sample_rate);
    tx->step[1] = cp_phase_step(mark_space_hz[standard][0], sample_rate);
    tx->step[0] = cp_phase_step(mark_space_hz[standard][1], sample_rate);
    tx->amplitude = CP_AMPLITUDE(level_dbm0);
    return 0;
}

int32_t cp_fsk_tx_start(cp_fsk_tx *tx, const uint8_t *message, int32_t len, int32_t seizure_bits,
                        int32_t mark_bits, int32_t tail_bits)
{
    if (len < 0 || len > CP_FSK_MESSAGE || seizure_bits < 0 || seizure_bits > 10000 ||
        mark_bits < 0 || mark_bits > 10000 || tail_bits < 0 || tail_bits > 10000)
        return CP_EINVAL;
    if (len)
        memcpy(tx->message, message, (size_t)len);
    tx->n_message = len;
    tx->n_seizure = seizure_bits;
    tx->n_mark = mark_bits;
    tx->n_tail = tail_bits;
    tx->bit = 0;
    tx->baud_phase = tx->phase = 0;
    return 0;
}

/* Bit i of the burst, or -1 past its end. */
static int32_t bit_at(const cp_fsk_tx *tx, int32_t i)
{
    if (i < tx->n_seizure)
        return i & 1;
    i -= tx->n_seizure;
    if (i < tx->n_mark)
        return 1;
    i -= tx->n_mark;
    if (i < 10 * tx->n_message) {
        int32_t place = i % 10;
        return place == 0 ? 0 : place == 9 ? 1 : tx->message[i / 10] >> (place - 1) & 1;
    }
    return i - 10 * tx->n_message < tx->n_tail ? 1 : -1;
}

int32_t cp_fsk_tx_read(cp_fsk_tx *tx, int16_t *out, int32_t n_samples)
{
    for (int32_t i = 0; i < n_samples; i++) {
        int32_t bit = bit_at(tx, tx->bit);
        if (bit < 0)
            return i;
        out[i] = cp_round16(tx->amplitude * cp_sine(tx->phase));
        tx->phase += tx->step[bit];
        uint32_t before = tx->baud_phase;
        tx->baud_phase += tx->baud_step;
        tx->bit += tx->baud_phase < before;
    }
    return n_samples;
}

int32_t cp_fsk_rx_init(cp_fsk_rx *rx, int32_t standard, int32_t sample_rate)
{
    memset(rx, 0, sizeof *rx);
    if (!is_known(standard, sample_rate))
        return CP_EINVAL;
    rx->sample_rate = sample_rate;
    rx->step[1] = cp_phase_step(mark_space_hz[standard][0], sample_rate);
    rx->step[0] = cp_phase_step(mark_space_hz[standard][1], sample_rate);
    rx->window = (sample_rate + BAUD / 2) / BAUD;
    rx->samples_per_bit = (float)sample_rate / BAUD;
    rx->bit_index = -1;
    float a = CP_AMPLITUDE(MIN_DBM0);
    rx->min_energy = a * a / 2.0f * (float)rx->window;
    return 0;
}

/* Bit sampled at the middle of its cell; returns an octet, or -1. */
static int32_t take_bit(cp_fsk_rx *rx, int32_t bit)
{
    int32_t i = rx->bit_index++;
    if (i == 0) {
        if (bit) /* a glitch, no start bit */
            rx->bit_index = -1;
        return -1;
    }
    if (i <= 8) {
        rx->shift = rx->shift >> 1 | (uint32_t)bit << 7;
        return -1;
    }
    rx->bit_index = -1;
    if (!bit) {
        rx->n_framing++;
        return -1;
    }
    return (int32_t)(rx->shift & 0xff);
}

static void drop_carrier(cp_fsk_rx *rx)
{
    rx->has_carrier = rx->in_message = 0;
    rx->n_mark = 0;
    rx->bit_index = -1;
}

int32_t cp_fsk_rx_push(cp_fsk_rx *rx, const int16_t *src, int32_t n_samples, uint8_t *out,
                       int32_t cap)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_samples; i++) {
        /* Summed anew each time: a running sum in floats would drift over the years. */
        float x = src[i];
        float *r = rx->ring[rx->at];
        float in[4] = {x * cp_sine(rx->osc[0]), x * cp_sine(rx->osc[0] + 0x40000000u),
                       x * cp_sine(rx->osc[1]), x * cp_sine(rx->osc[1] + 0x40000000u)};
        rx->osc[0] += rx->step[0];
        rx->osc[1] += rx->step[1];
        for (int32_t k = 0; k < 4; k++)
            r[k] = in[k];
        rx->energy[rx->at] = x * x;
        rx->at = rx->at + 1 < rx->window ? rx->at + 1 : 0;
        float sum[4] = {0}, energy = 0.0f;
        for (int32_t w = 0; w < rx->window; w++) {
            for (int32_t k = 0; k < 4; k++)
                sum[k] += rx->ring[w][k];
            energy += rx->energy[w];
        }
        float space = sum[0] * sum[0] + sum[1] * sum[1];
        float mark = sum[2] * sum[2] + sum[3] * sum[3];
        float slice = mark - space;
        /* A pure tone gives (A w / 2)^2, its energy A^2 w / 2. */
        float keep = 1.0f - 1.0f / (SHARE_BITS * rx->samples_per_bit);
        rx->tone_power = rx->tone_power * keep + (mark + space) * 2.0f;
        rx->all_power = rx->all_power * keep + energy * (float)rx->window;
        /* A sudden drop is the end of the burst, even if what remains is line noise. */
        int32_t carrier = energy > rx->min_energy && rx->tone_power > MIN_SHARE * rx->all_power &&
                          energy * (float)rx->window > DROP * (1.0f - keep) * rx->all_power;
        if (carrier) {
            rx->has_carrier = 1;
            rx->n_idle = 0;
        } else if (rx->has_carrier && ++rx->n_idle > IDLE_BITS * rx->window) {
            drop_carrier(rx);
        }
        int32_t bit = slice > 0.0f;
        if (!rx->has_carrier) {
            rx->slice = slice;
            rx->last_bit = bit;
            continue;
        }
        if (bit && carrier) {
            if (++rx->n_mark >= MARK_BITS * rx->window)
                rx->in_message = 1;
        } else {
            rx->n_mark = 0;
        }
        if (rx->bit_index < 0) {
            if (!bit && rx->slice > 0.0f && carrier && rx->in_message) {
                /* The crossing lies between two samples; the first sample is half a bit on. */
                float past = slice / (slice - rx->slice);
                rx->bit_index = 0;
                rx->until_bit = rx->samples_per_bit * 0.5f - past;
            }
        } else if (!carrier) {
            rx->bit_index = -1; /* cut off in the middle of an octet */
        } else {
            rx->until_bit -= 1.0f;
            if (bit != rx->last_bit && slice != rx->slice) {
                float past = slice / (slice - rx->slice);
                float error = rx->samples_per_bit * 0.5f - past - rx->until_bit;
                if (fabsf(error) < rx->samples_per_bit * 0.5f)
                    rx->until_bit += FOLLOW * error;
            }
            if (rx->until_bit <= 0.5f) {
                rx->until_bit += rx->samples_per_bit;
                int32_t octet = take_bit(rx, bit);
                if (octet >= 0) {
                    if (n < cap)
                        out[n++] = (uint8_t)octet;
                    else
                        rx->n_dropped++;
                }
            }
        }
        rx->slice = slice;
        rx->last_bit = bit;
    }
    return n;
}
