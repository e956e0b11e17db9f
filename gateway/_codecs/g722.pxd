"""G.722 in batches of 32 lanes."""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint32_t

from gateway._codecs.codec cimport cp_codec, CP_LANES

cdef extern from "g722_impl.h":

    ctypedef struct cp_g722_band:
        int16_t s[CP_LANES]
        int16_t sz[CP_LANES]
        int16_t det[CP_LANES]
        int16_t nb[CP_LANES]
        int16_t a1[CP_LANES]
        int16_t a2[CP_LANES]
        int16_t r1[CP_LANES]
        int16_t p1[CP_LANES]
        int16_t p2[CP_LANES]
        int16_t b[6][CP_LANES]
        int16_t d[6][CP_LANES]

    ctypedef struct cp_g722_group:
        cp_g722_band low
        cp_g722_band high
        int16_t even[11][CP_LANES]
        int16_t odd[11][CP_LANES]

    int32_t cp_g722_encode_bands(void *group, const int16_t *const *src, uint8_t *const *out,
            uint32_t mask, int32_t n_samples) noexcept nogil
    int32_t cp_g722_decode_bands(void *group, const uint8_t *const *src, int16_t *const *out,
            uint32_t mask, int32_t n_samples, int32_t mode) noexcept nogil
    int32_t cp_g722_select(int32_t unit) noexcept nogil
    const cp_codec cp_g722_64
    const cp_codec cp_g722_56
    const cp_codec cp_g722_48
    const cp_codec cp_g722_narrow
