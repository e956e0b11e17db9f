"""Comfort noise."""

from libc.stdint cimport int16_t, int32_t, uint8_t

cdef extern from "cn_impl.h":
    enum:
        CP_CN_ORDER
        CP_CN_OCTETS

    ctypedef struct cp_cn_noise:
        int32_t order

    ctypedef struct cp_cn_meter:
        int32_t n_frames

    int32_t cp_cn_set(cp_cn_noise *g, const uint8_t *payload, int32_t n, int32_t white)
    void cp_cn_generate(cp_cn_noise *g, int16_t *pcm, int32_t n_samples)
    void cp_cn_measure(cp_cn_meter *m, const int16_t *pcm, int32_t n_samples)
    int32_t cp_cn_payload(const cp_cn_meter *m, int32_t order, uint8_t *out)
