"""Line echo canceller, one per stream."""

from libc.stdint cimport int16_t, int32_t

cdef extern from "echo_impl.h":
    enum:
        CP_ECHO_MOST_TAPS
        CP_ECHO_BLOCK

    ctypedef struct cp_echo:
        int32_t taps

    ctypedef struct cp_echo_block:
        float sent, received, clean, estimate, loudest

    size_t cp_echo_bytes(int32_t taps) noexcept nogil
    int32_t cp_echo_init(cp_echo *e, int32_t taps) noexcept nogil
    void cp_echo_forget(cp_echo *e) noexcept nogil
    void cp_echo_past(cp_echo *e, const int16_t *sent) noexcept nogil
    void cp_echo_cancel(cp_echo *e, const int16_t *sent, const int16_t *received, int16_t *clean,
                        cp_echo_block *block) noexcept nogil
