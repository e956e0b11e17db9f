"""Packet-loss concealment, one state per stream."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "plc_impl.h":
    enum:
        CP_PLC_HISTORY
    enum:
        CP_PLC_CYCLE

    ctypedef struct cp_plc:
        float history[CP_PLC_HISTORY]
        float cycle[CP_PLC_CYCLE]
        int32_t sample_rate
        int32_t n_cycle
        int32_t position
        int32_t pitch
        int32_t n_lost
        float step
        int64_t n_concealed

cdef int32_t plc_init(cp_plc *plc, int32_t sample_rate) noexcept nogil
cdef void plc_good(cp_plc *plc, int16_t *pcm, int32_t n_samples) noexcept nogil
cdef void plc_lost(cp_plc *plc, int16_t *pcm, int32_t n_samples) noexcept nogil
