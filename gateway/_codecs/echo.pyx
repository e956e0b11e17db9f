"""Line echo canceller (what ITU-T G.168 is about): two adaptive filters at 8 kHz."""

from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError

BLOCK = CP_ECHO_BLOCK
MOST_TAPS = CP_ECHO_MOST_TAPS


cdef class Canceller:
    """One line. taps: samples of echo at 8 kHz, a multiple of 16 up to `MOST_TAPS`."""

    cdef cp_echo *state

    def __cinit__(self, int32_t taps):
        cdef void *memory = NULL
        if taps < 16 or taps > CP_ECHO_MOST_TAPS or taps % 16:
            raise UsageError(f"{taps} taps; use a multiple of 16 from 16 to {CP_ECHO_MOST_TAPS}")
        if posix_memalign(&memory, 64, cp_echo_bytes(taps)):
            raise MemoryError
        self.state = <cp_echo *>memory
        cp_echo_init(self.state, taps)

    def __dealloc__(self):
        free(self.state)

    def cancel(self, sent, received) -> bytes:
        """What was received without the echo of what was sent.

        Both are int16 samples, whole blocks of `BLOCK`; sent[i] is what was sent when received[i]
        could first hold its echo. Raises UsageError for other lengths.
        """
        cdef bytes x = samples(sent), d = samples(received), out
        cdef Py_ssize_t n = len(d) // 2, at
        cdef cp_echo_block block
        if len(x) != len(d) or n % CP_ECHO_BLOCK:
            raise UsageError(
                f"{len(x) // 2} and {n} samples; use as many of both, in blocks of {CP_ECHO_BLOCK}"
            )
        out = blank(len(d))
        for at in range(0, n, CP_ECHO_BLOCK):
            cp_echo_cancel(self.state, i16(x) + at, i16(d) + at, i16(out) + at, &block)
        return out

    def forget(self) -> None:
        """Begin anew."""
        cp_echo_forget(self.state)
