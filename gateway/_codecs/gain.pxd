"""Automatic gain control and noise gate, one state per stream."""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t

cdef extern from "gain_impl.h":
    ctypedef struct cp_gain_config:
        uint8_t controls, gates
        uint16_t hold_frames
        float target, most, attack, release, gate

    ctypedef struct cp_gain:
        cp_gain_config config
        float envelope, wanted, gain

    void cp_gain_init(cp_gain *g, const cp_gain_config *config) noexcept nogil
    void cp_gain_frame(cp_gain *g, int16_t *pcm, int32_t n_samples) noexcept nogil
