"""G.711 tables and the PCMU and PCMA codecs."""

from libc.stdint cimport int16_t, int32_t, uint8_t

from gateway._codecs.codec cimport cp_codec

cdef extern from "g711_impl.h":
    void cp_g711_setup() noexcept nogil
    void cp_ulaw_decode(const uint8_t *src, int16_t *out, int32_t n) noexcept nogil
    void cp_ulaw_encode(const int16_t *src, uint8_t *out, int32_t n) noexcept nogil
    void cp_alaw_decode(const uint8_t *src, int16_t *out, int32_t n) noexcept nogil
    void cp_alaw_encode(const int16_t *src, uint8_t *out, int32_t n) noexcept nogil
    void cp_ulaw_to_alaw(const uint8_t *src, uint8_t *out, int32_t n) noexcept nogil
    void cp_alaw_to_ulaw(const uint8_t *src, uint8_t *out, int32_t n) noexcept nogil
    const cp_codec cp_pcmu
    const cp_codec cp_pcma
