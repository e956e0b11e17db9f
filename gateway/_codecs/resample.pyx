"""Sample-rate conversion between 8, 16 and 48 kHz by polyphase FIR."""

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError

cp_resample_setup()


cdef class Resampler:
    """One stream: 8<->16, 16<->48 or 8<->48 kHz, or equal rates."""

    cdef cp_resampler state

    def __cinit__(self, int32_t from_hz, int32_t to_hz):
        if cp_resampler_init(&self.state, from_hz, to_hz) < 0:
            raise UsageError(f"no conversion from {from_hz} to {to_hz} Hz (8, 16 and 48 kHz)")

    def convert(self, pcm) -> bytes:
        """int16 samples; a multiple of the ratio, at most 120 ms."""
        cdef bytes src = samples(pcm)
        cdef int32_t n = <int32_t>(len(src) // 2)
        cdef bytes out = blank(2 * (n * self.state.up // self.state.down))
        if cp_resample(&self.state, i16(src), n, i16(out), <int32_t>(len(out) // 2)) < 0:
            raise UsageError(f"block of {n} samples: a multiple of {self.state.down}, at most 120 ms")
        return out
