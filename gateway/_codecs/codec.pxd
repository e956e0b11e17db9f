"""The C face of ``gateway._codecs``.

Every module ``<name>`` has its arithmetic in ``<name>_impl.c``, declared and documented in
``<name>_impl.h``; ``<name>.pxd`` shows that header to Cython. The extension of the same name links
its own copy for the Python face; an extension that calls the kernels itself (the media engine)
links the ``.c`` files it needs and calls their ``cp_<name>_setup``, where there is one, once
before anything else (g711, resample, dtmf: they fill tables).

Rules that hold for all of them: no descriptor, thread, lock or allocation; the caller owns all
memory (``sizeof`` the struct); samples are int16 in native byte order; a
negative answer is an error code and nothing was changed. Codecs work on groups of ``CP_LANES``
streams: bit i of ``mask`` is lane i, lanes outside the mask keep their state and their pointers
are not read. A group is aligned to ``CP_ALIGN`` octets. Everything else keeps one state per
stream and is vectorised inside, over time or over frequencies.
"""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint32_t

cdef extern from "codec.h":
    enum:
        CP_LANES
        CP_ALIGN
        CP_MAX_FRAME_MS
        CP_MAX_FRAME_OCTETS
        CP_MAX_FRAME_SAMPLES
        CP_EINVAL

    ctypedef struct cp_codec:
        const char *name
        int32_t payload_type
        int32_t clock_rate
        int32_t sample_rate
        int32_t samples_per_ms
        int32_t octets_per_ms
        int32_t lanes
        size_t decoder_bytes
        size_t encoder_bytes
        void (*init_decoder)(void *group, uint32_t mask) noexcept nogil
        void (*init_encoder)(void *group, uint32_t mask) noexcept nogil
        int32_t (*decode)(void *group, const uint8_t *const *src, int16_t *const *out,
                          uint32_t mask, int32_t n_samples) noexcept nogil
        int32_t (*encode)(void *group, const int16_t *const *src, uint8_t *const *out,
                          uint32_t mask, int32_t n_samples) noexcept nogil

    bint cp_codec_frame_ok(const cp_codec *codec, int32_t n_samples) noexcept nogil
