#include "fourier_impl.h"

#include <math.h>

int32_t cp_fourier_size(int64_t n)
{
    int32_t size = 1;
    while (size < n && size < 1 << CP_FOURIER_LOG2)
        size *= 2;
    return size < n ? 0 : size;
}

void cp_fourier(double *x, double *roots, int32_t n, int32_t is_inverse)
{
    const double turn = (is_inverse ? 2.0 : -2.0) * 3.14159265358979323846 / n;
    for (int32_t k = 0; k < n / 2; k++) {
        roots[2 * k] = cos(turn * k);
        roots[2 * k + 1] = sin(turn * k);
    }
    for (int32_t i = 1, j = 0; i < n; i++) { /* bits reversed */
        int32_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            double re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = x[2 * j];
            x[2 * i + 1] = x[2 * j + 1];
            x[2 * j] = re;
            x[2 * j + 1] = im;
        }
    }
    for (int32_t half = 1; half < n; half *= 2) {
        const int32_t step = n / (2 * half);
        for (int32_t begin = 0; begin < n; begin += 2 * half) {
            for (int32_t k = 0; k < half; k++) {
                const double *w = roots + 2 * (int64_t)k * step;
                double *a = x + 2 * (int64_t)(begin + k), *b = a + 2 * (int64_t)half;
                const double re = b[0] * w[0] - b[1] * w[1], im = b[0] * w[1] + b[1] * w[0];
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
        }
    }
    if (is_inverse)
        for (int32_t i = 0; i < 2 * n; i++)
            x[i] /= n;
}

void cp_fourier_divide(double *y, const double *x, int32_t n, double floor)
{
    double mean = 0.0;
    for (int32_t i = 0; i < 2 * n; i++)
        mean += x[i] * x[i] / n;
    for (int32_t i = 0; i < n; i++) {
        const double xr = x[2 * i], xi = x[2 * i + 1], yr = y[2 * i], yi = y[2 * i + 1];
        const double power = xr * xr + xi * xi + floor * mean;
        y[2 * i] = power > 0.0 ? (yr * xr + yi * xi) / power : 0.0;
        y[2 * i + 1] = power > 0.0 ? (yi * xr - yr * xi) / power : 0.0;
    }
}

void cp_fourier_multiply(double *y, const double *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        const double re = y[2 * i] * x[2 * i] - y[2 * i + 1] * x[2 * i + 1];
        y[2 * i + 1] = y[2 * i] * x[2 * i + 1] + y[2 * i + 1] * x[2 * i];
        y[2 * i] = re;
    }
}
