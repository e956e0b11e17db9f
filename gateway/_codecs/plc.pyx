"""Packet-loss concealment by pitch repetition (after ITU-T G.711 Appendix I), no added delay."""

from libc.string cimport memcpy

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError




cdef class Concealer:
    """One stream at 8 or 16 kHz."""

    cdef cp_plc state

    def __cinit__(self, int32_t sample_rate=8000):
        if cp_plc_init(&self.state, sample_rate) < 0:
            raise UsageError(f"concealment at {sample_rate} Hz: 8000 or 16000")

    def good(self, pcm) -> bytes:
        """A frame that arrived; after a loss its beginning is cross-faded."""
        cdef bytes src = samples(pcm), out = blank(len(src))
        memcpy(i16(out), i16(src), len(src))
        cp_plc_good(&self.state, i16(out), <int32_t>(len(out) // 2))
        return out

    def lost(self, int32_t n_samples) -> bytes:
        """Concealment for n_samples that did not arrive."""
        if n_samples < 0:
            raise UsageError(f"{n_samples} samples")
        cdef bytes out = blank(2 * n_samples)
        cp_plc_lost(&self.state, i16(out), n_samples)
        return out

    @property
    def n_concealed(self) -> int:
        """Samples concealed so far."""
        return self.state.n_concealed
