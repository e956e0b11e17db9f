/* Fast Fourier transform, and with it: the impulse response of a path from what was sent into it
 * and what came out, and what such a path makes of a signal. For measuring, off the real-time
 * thread: the caller gives the memory. */
#ifndef CP_FOURIER_IMPL_H
#define CP_FOURIER_IMPL_H
#include "codec.h"

#define CP_FOURIER_LOG2 20 /* longest transform: a million points */

/* The power of two that is not less than n; 0 where that is longer than the longest. */
int32_t cp_fourier_size(int64_t n);

/* In place, x: n complex numbers (re, im); roots: n doubles of room. The inverse divides by n. */
void cp_fourier(double *x, double *roots, int32_t n, int32_t is_inverse);

/* y = y conj(x) / (|x|^2 + floor mean(|x|^2)): the path from x to y, where x says enough of it. */
void cp_fourier_divide(double *y, const double *x, int32_t n, double floor);

/* y = y x */
void cp_fourier_multiply(double *y, const double *x, int32_t n);
#endif
