"""Impulse responses: the path that a known signal took, and what it makes of a signal."""

from array import array

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from gateway._codecs.edge cimport i16, samples
from gateway.errors import UsageError


cdef double *_room(int64_t n_numbers) except NULL:
    cdef double *found = <double *>malloc(n_numbers * sizeof(double))
    if found is NULL:
        raise MemoryError
    memset(found, 0, n_numbers * sizeof(double))
    return found


cdef int32_t _size(int64_t n) except -1:
    cdef int32_t size = cp_fourier_size(n)
    if size == 0:
        raise UsageError(f"{n} samples: at most {1 << CP_FOURIER_LOG2} in both together")
    return size


def impulse_response(sent, received, int64_t n_taps, double floor=0.001):
    """What the path does that turned int16 samples `sent` into `received`; both begin together.

    n_taps: how long it may last, in samples. floor: of the mean power of `sent`; frequencies in
    which it has less say little about the path, and count less. Returns n_taps numbers.
    """
    cdef bytes a = samples(sent), b = samples(received)
    cdef int64_t n_a = len(a) // 2, n_b = len(b) // 2, i
    if n_a == 0 or n_b == 0 or n_taps < 1:
        raise UsageError(f"{n_a} samples sent, {n_b} received, {n_taps} taps: at least one of each")
    # What lies before the signal (negative delay) must not be taken for what comes after it.
    cdef int32_t n = _size(n_a + max(n_b, n_taps))
    cdef double *x = NULL
    cdef double *y = NULL
    cdef double *roots = NULL
    taps = array("d", bytes(8 * n_taps))
    cdef double[::1] out = taps
    try:
        x = _room(2 * n)
        y = _room(2 * n)
        roots = _room(n)
        for i in range(n_a):
            x[2 * i] = i16(a)[i]
        for i in range(n_b):
            y[2 * i] = i16(b)[i]
        with nogil:
            cp_fourier(x, roots, n, 0)
            cp_fourier(y, roots, n, 0)
            cp_fourier_divide(y, x, n, floor)
            cp_fourier(y, roots, n, 1)
        for i in range(n_taps):
            out[i] = y[2 * i]
    finally:
        free(x)
        free(y)
        free(roots)
    return taps


def through(sent, taps):
    """What a path of this impulse response makes of int16 samples; as many and as long as both."""
    cdef bytes a = samples(sent)
    cdef int64_t n_a = len(a) // 2, i
    cdef double[::1] response = taps
    cdef int64_t n_taps = response.shape[0]
    if n_a == 0 or n_taps == 0:
        raise UsageError(f"{n_a} samples through {n_taps} taps: at least one of each")
    cdef int32_t n = _size(n_a + n_taps)
    cdef double *x = NULL
    cdef double *y = NULL
    cdef double *roots = NULL
    made = array("d", bytes(8 * (n_a + n_taps - 1)))
    cdef double[::1] out = made
    try:
        x = _room(2 * n)
        y = _room(2 * n)
        roots = _room(n)
        for i in range(n_a):
            x[2 * i] = i16(a)[i]
        for i in range(n_taps):
            y[2 * i] = response[i]
        with nogil:
            cp_fourier(x, roots, n, 0)
            cp_fourier(y, roots, n, 0)
            cp_fourier_multiply(y, x, n)
            cp_fourier(y, roots, n, 1)
        for i in range(n_a + n_taps - 1):
            out[i] = y[2 * i]
    finally:
        free(x)
        free(y)
        free(roots)
    return made
