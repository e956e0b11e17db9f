"""ITU-T G.722 at 64 kbit/s (decoding also 56 and 48) for up to 32 streams in one batch; `narrow`: its
lower band alone, whose signal is that of 8 kHz."""

from libc.stdlib cimport free

from gateway._codecs.codec cimport CP_ALIGN, CP_LANES
from gateway._codecs.edge cimport blank, i16, octets, samples, u8
from gateway.errors import UsageError

cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t size) nogil




cdef cp_g722_group *_new_group() except NULL:
    cdef cp_g722_group *group = <cp_g722_group *>aligned_alloc(CP_ALIGN, sizeof(cp_g722_group))
    if group is NULL:
        raise MemoryError
    cp_g722_64.init_encoder(group, 0xFFFFFFFFu)
    return group


cdef tuple _frames(object frames, bint is_pcm):
    """The batch as bytes per lane, its mask, and the one length all frames share."""
    cdef list lanes = []
    cdef uint32_t mask = 0
    cdef Py_ssize_t n = -1
    if len(frames) > CP_LANES:
        raise UsageError(f"{len(frames)} frames in a batch: at most {CP_LANES}")
    for i, frame in enumerate(frames):
        if frame is None:
            lanes.append(None)
            continue
        data = samples(frame) if is_pcm else octets(frame)
        if n not in (-1, len(data)):
            raise UsageError(f"frames of {n} and {len(data)} octets in one batch: must be equal")
        n = len(data)
        mask |= 1u << <uint32_t>i
        lanes.append(data)
    return lanes, mask, n


def select_unit(int32_t unit=-1) -> int:
    """Choose the vector unit: 0 baseline (SSE2, NEON), 1 AVX2, 2 AVX-512, -1 the best here; tells which."""
    return cp_g722_select(unit)


cdef class G722Encoder:
    """32 lanes of encoder state; lane i is frame i of each batch."""

    cdef cp_g722_group *group
    cdef bint bands
    cdef const cp_codec *codec

    def __cinit__(self, *, bands=False, narrow=False):
        self.group = _new_group()
        self.bands = bands
        self.codec = &cp_g722_64
        if narrow:
            self.codec = &cp_g722_narrow

    def __dealloc__(self):
        free(self.group)

    def reset(self, int32_t lane):
        """Start one lane anew."""
        if not 0 <= lane < CP_LANES:
            raise UsageError(f"lane {lane}: 0 to {CP_LANES - 1}")
        cp_g722_64.init_encoder(self.group, 1u << <uint32_t>lane)

    def encode(self, frames):
        """One frame (int16 at 16 kHz, `narrow` at 8 kHz; whole ms, at most 120) or None per lane;
        None keeps a lane as it was. Returns the payloads."""
        cdef const int16_t *src[CP_LANES]
        cdef uint8_t *out[CP_LANES]
        cdef bytes data, payload
        cdef int32_t octet = 2 * self.codec.sample_rate // 8000
        lanes, mask, n = _frames(frames, True)
        payloads = []
        for i, data in enumerate(lanes):
            payload = None if data is None else blank(n // octet)
            payloads.append(payload)
            if data is not None:
                src[<int32_t>i] = i16(data)
                out[<int32_t>i] = u8(payload)
        if mask:
            if self.bands:
                done = cp_g722_encode_bands(self.group, src, out, mask, n // 2)
            else:
                done = self.codec.encode(self.group, src, out, mask, n // 2)
            if done < 0:
                raise UsageError(f"frame of {n // 2} samples: whole milliseconds up to 120 ms")
        return payloads


cdef class G722Decoder:
    """32 lanes of decoder state; lane i is payload i of each batch."""

    cdef cp_g722_group *group
    cdef bint bands
    cdef const cp_codec *codec
    cdef int32_t mode

    def __cinit__(self, int32_t kbit=64, *, bands=False, narrow=False):
        if kbit not in (64, 56, 48) or (narrow and kbit != 64):
            raise UsageError(f"G.722 at {kbit} kbit/s: 64, 56 or 48; narrow 64")
        self.codec = &cp_g722_64 if kbit == 64 else &cp_g722_56 if kbit == 56 else &cp_g722_48
        if narrow:
            self.codec = &cp_g722_narrow
        self.mode = (72 - kbit) // 8
        self.group = _new_group()
        self.bands = bands

    def __dealloc__(self):
        free(self.group)

    def reset(self, int32_t lane):
        """Start one lane anew."""
        if not 0 <= lane < CP_LANES:
            raise UsageError(f"lane {lane}: 0 to {CP_LANES - 1}")
        cp_g722_64.init_decoder(self.group, 1u << <uint32_t>lane)

    def decode(self, payloads):
        """One payload (8 octets per ms, at most 120 ms) or None per lane; None keeps a lane as it
        was. Returns int16 samples at 16 kHz, `narrow` at 8 kHz."""
        cdef const uint8_t *src[CP_LANES]
        cdef int16_t *out[CP_LANES]
        cdef bytes data, frame
        cdef int32_t octet = 2 * self.codec.sample_rate // 8000
        lanes, mask, n = _frames(payloads, False)
        frames = []
        for i, data in enumerate(lanes):
            frame = None if data is None else blank(n * octet)
            frames.append(frame)
            if data is not None:
                src[<int32_t>i] = u8(data)
                out[<int32_t>i] = i16(frame)
        if mask:
            if self.bands:
                done = cp_g722_decode_bands(self.group, src, out, mask, n * 2, self.mode)
            else:
                done = self.codec.decode(self.group, src, out, mask, n * octet // 2)
            if done < 0:
                raise UsageError(f"payload of {n} octets: 8 per millisecond, up to 120 ms")
        return frames
