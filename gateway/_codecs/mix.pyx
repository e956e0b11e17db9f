"""Conference mixing, gain, level. A sine of peak 32768 is +3.14 dBm0 (G.711 A-law overload)."""

from libc.stdlib cimport free, malloc

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError




cdef tuple _inputs(object frames, object gains):
    cdef list inputs = [None if frame is None else samples(frame) for frame in frames]
    lengths = {len(data) for data in inputs if data is not None}
    if len(lengths) != 1:
        raise UsageError(f"inputs of {sorted(lengths)} octets: at least one, and all equal")
    if gains is not None and len(gains) != len(inputs):
        raise UsageError(f"{len(gains)} gains for {len(inputs)} inputs")
    return inputs, lengths.pop()


def mix_frames(frames, gains=None) -> tuple[list[bytes], int]:
    """Each hears the sum of the others.

    frames: int16 samples of equal length, or None for a silent listener; gains: linear.
    Returns what each hears, and how many output samples saturated.
    """
    inputs, size = _inputs(frames, gains)
    cdef int32_t n = <int32_t>len(inputs)
    cdef const int16_t **src = <const int16_t **>malloc(n * sizeof(void *))
    cdef int16_t **out = <int16_t **>malloc(n * sizeof(void *))
    cdef float *gain = <float *>malloc(n * sizeof(float))
    cdef bytes data
    cdef int32_t i
    outputs = [blank(size) for _ in inputs]
    try:
        if src is NULL or out is NULL or gain is NULL:
            raise MemoryError
        for i in range(n):
            data = inputs[i]
            src[i] = NULL if data is None else i16(data)
            data = outputs[i]
            out[i] = i16(data)
            gain[i] = 1.0 if gains is None else gains[i]
        clipped = cp_mix_minus_one(src, NULL if gains is None else gain, out, n, <int32_t>(size // 2))
    finally:
        free(src)
        free(out)
        free(gain)
    return outputs, clipped


def sum_frames(frames, gains=None) -> tuple[bytes, int]:
    """The sum of all, and how many samples of it saturated."""
    inputs, size = _inputs(frames, gains)
    cdef int32_t n = <int32_t>len(inputs)
    cdef const int16_t **src = <const int16_t **>malloc(n * sizeof(void *))
    cdef float *gain = <float *>malloc(n * sizeof(float))
    cdef bytes data, out = blank(size)
    cdef int32_t i
    try:
        if src is NULL or gain is NULL:
            raise MemoryError
        for i in range(n):
            data = inputs[i]
            src[i] = NULL if data is None else i16(data)
            gain[i] = 1.0 if gains is None else gains[i]
        clipped = cp_mix_sum(src, NULL if gains is None else gain, i16(out), n, <int32_t>(size // 2))
    finally:
        free(src)
        free(gain)
    return out, clipped


def amplify(pcm, float gain_db) -> bytes:
    """int16 samples, gain_db louder, saturated."""
    cdef bytes src = samples(pcm), out = blank(len(src))
    cp_apply_gain(i16(src), i16(out), <int32_t>(len(src) // 2), cp_gain_from_db(gain_db))
    return out


cdef class Level:
    """Level of a stream since the last reset."""

    cdef cp_level state

    def reset(self):
        """Forget what was measured."""
        cp_level_reset(&self.state)

    def add(self, pcm):
        """Measure int16 samples."""
        cdef bytes src = samples(pcm)
        cp_level_add(&self.state, i16(src), <int32_t>(len(src) // 2))

    @property
    def rms_dbm0(self) -> float:
        return cp_level_rms_dbm0(&self.state)

    @property
    def peak_dbm0(self) -> float:
        return cp_level_peak_dbm0(&self.state)

    @property
    def peak(self) -> int:
        return self.state.peak

    @property
    def n_samples(self) -> int:
        return self.state.n_samples

    @property
    def n_clipped(self) -> int:
        return self.state.n_clipped
