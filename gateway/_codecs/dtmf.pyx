"""DTMF receiver and generator (ITU-T Q.23, Q.24)."""

from collections import namedtuple

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError

cp_dtmf_setup()


DtmfEvent = namedtuple("DtmfEvent", "digit is_end start_sample n_samples level_dbm0")


cdef class DtmfReceiver:
    """One 8 kHz stream."""

    cdef cp_dtmf_rx state

    def __cinit__(self):
        cp_dtmf_rx_init(&self.state)

    def push(self, pcm) -> list:
        """Listen to int16 samples, any number; the events they complete."""
        cdef bytes src = samples(pcm)
        cdef cp_dtmf_event events[16]
        cdef int32_t n, i, at = 0, total = <int32_t>(len(src) // 2), take
        found = []
        while at < total:
            take = min(total - at, 512)
            n = cp_dtmf_rx_push(&self.state, i16(src) + at, take, events, 16)
            at += take
            for i in range(n):
                found.append(DtmfEvent(chr(events[i].digit), bool(events[i].is_end),
                                       events[i].start_sample, events[i].n_samples,
                                       events[i].level_dbm0))
        return found


def generate_dtmf(str digit, int32_t n_samples, *, int32_t sample_rate=8000,
                  float level_dbm0=-9.0, float twist_db=0.0) -> bytes:
    """One digit: level_dbm0 for each tone, twist_db column over row."""
    cdef cp_dtmf_tx tx
    if len(digit) != 1 or not digit.isascii() or cp_dtmf_tx_init(
            &tx, <char>ord(digit), sample_rate, level_dbm0, twist_db) < 0:
        raise UsageError(f"no DTMF digit {digit!r} at {sample_rate} Hz (0-9 * # A-D, 8 to 48 kHz)")
    if n_samples < 0:
        raise UsageError(f"{n_samples} samples")
    cdef bytes out = blank(2 * n_samples)
    cp_dtmf_tx_read(&tx, i16(out), n_samples)
    return out
