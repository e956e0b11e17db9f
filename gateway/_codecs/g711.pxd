"""G.711 tables and the PCMU and PCMA codecs."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

from gateway._codecs.codec cimport cp_codec

cdef void ulaw_decode(const uint8_t *src, int16_t *out, int32_t n) noexcept nogil
cdef void ulaw_encode(const int16_t *src, uint8_t *out, int32_t n) noexcept nogil
cdef void alaw_decode(const uint8_t *src, int16_t *out, int32_t n) noexcept nogil
cdef void alaw_encode(const int16_t *src, uint8_t *out, int32_t n) noexcept nogil
cdef void ulaw_to_alaw(const uint8_t *src, uint8_t *out, int32_t n) noexcept nogil
cdef void alaw_to_ulaw(const uint8_t *src, uint8_t *out, int32_t n) noexcept nogil
cdef const cp_codec *pcmu_codec() noexcept nogil
cdef const cp_codec *pcma_codec() noexcept nogil
