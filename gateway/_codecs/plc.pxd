"""Packet-loss concealment, one state per stream."""

from libc.stdint cimport int16_t, int32_t, int64_t

cdef extern from "plc_impl.h":
    enum:
        CP_PLC_HISTORY

    ctypedef struct cp_plc:
        int16_t history[CP_PLC_HISTORY]
        int16_t frozen[CP_PLC_HISTORY]
        int32_t sample_rate
        int32_t n_history
        int32_t pitch
        int32_t overlap
        int32_t n_cycle
        int32_t position
        int32_t n_lost
        float step
        int64_t n_concealed

    int32_t cp_plc_init(cp_plc *plc, int32_t sample_rate) noexcept nogil
    void cp_plc_good(cp_plc *plc, int16_t *pcm, int32_t n_samples) noexcept nogil
    void cp_plc_lost(cp_plc *plc, int16_t *pcm, int32_t n_samples) noexcept nogil
