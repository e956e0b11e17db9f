/* sin() of a 32-bit phase (2^32 = one turn), to 1e-7; no table, so that loops vectorise. */
#ifndef CP_SINE_H
#define CP_SINE_H
#include <stdint.h>

static inline float cp_sine(uint32_t phase)
{
    float x = (float)(int32_t)phase * (1.0f / 2147483648.0f); /* half turns, -1..1 */
    x = x > 0.5f ? 1.0f - x : x < -0.5f ? -1.0f - x : x;
    float y = x * x;
    return x * (3.14159265f +
                y * (-5.16771278f +
                     y * (2.55016404f + y * (-0.599264529f + y * (0.0821458866f - y * 0.00737043f)))));
}

/* Peak of a sine of this level: peak 32768 is +3.14 dBm0. */
#define CP_AMPLITUDE(dbm0) (32768.0f * powf(10.0f, ((dbm0) - 3.14f) / 20.0f))

static inline uint32_t cp_phase_step(double freq_hz, int32_t sample_rate)
{
    return (uint32_t)(int64_t)(freq_hz / sample_rate * 4294967296.0 + 0.5);
}

static inline int16_t cp_round16(float v)
{
    v = v > 32767.0f ? 32767.0f : v < -32768.0f ? -32768.0f : v;
    return (int16_t)(int32_t)(v + (v < 0.0f ? -0.5f : 0.5f));
}
#endif
