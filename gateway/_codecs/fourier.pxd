"""Fast Fourier transform, impulse responses and what a path makes of a signal."""

from libc.stdint cimport int32_t, int64_t

cdef extern from "fourier_impl.h":
    enum:
        CP_FOURIER_LOG2

    int32_t cp_fourier_size(int64_t n) noexcept nogil
    void cp_fourier(double *x, double *roots, int32_t n, int32_t is_inverse) noexcept nogil
    void cp_fourier_divide(double *y, const double *x, int32_t n, double floor) noexcept nogil
    void cp_fourier_multiply(double *y, const double *x, int32_t n) noexcept nogil
