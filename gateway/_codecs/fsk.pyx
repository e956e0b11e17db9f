"""1200 baud FSK of caller identification: Bell 202 (GR-30) and V.23 (ETSI EN 300 659-1)."""

from gateway._codecs.edge cimport blank, i16, octets, samples, u8
from gateway.errors import UsageError




cdef int32_t _standard(str name) except -1:
    if name not in ("bell202", "v23"):
        raise UsageError(f"FSK standard {name!r}: bell202 or v23")
    return CP_FSK_BELL202 if name == "bell202" else CP_FSK_V23


def modulate(message, str standard="bell202", *, int32_t sample_rate=8000, float level_dbm0=-13.5,
             int32_t seizure_bits=300, int32_t mark_bits=180, int32_t tail_bits=20) -> bytes:
    """A burst: seizure, mark, message (at most 320 octets), mark; int16 samples."""
    cdef cp_fsk_tx tx
    cdef bytes data = octets(message), piece = blank(2 * 480)
    cdef int32_t n
    if cp_fsk_tx_init(&tx, _standard(standard), sample_rate, level_dbm0) < 0:
        raise UsageError(f"FSK at {sample_rate} Hz: 8 to 48 kHz")
    if len(data) > CP_FSK_MESSAGE or cp_fsk_tx_start(
            &tx, u8(data), <int32_t>len(data), seizure_bits, mark_bits, tail_bits) < 0:
        raise UsageError(f"FSK message of {len(data)} octets, {seizure_bits}/{mark_bits}/{tail_bits} "
                         f"bits: at most {CP_FSK_MESSAGE} octets and 10000 bits")
    pieces = []
    while True:
        n = cp_fsk_tx_read(&tx, i16(piece), 480)
        if n == 0:
            return b"".join(pieces)
        pieces.append(u8(piece)[:2 * n])


cdef class FskReceiver:
    """One stream; gives the octets that follow a stretch of mark."""

    cdef cp_fsk_rx state

    def __cinit__(self, str standard="bell202", int32_t sample_rate=8000):
        if cp_fsk_rx_init(&self.state, _standard(standard), sample_rate) < 0:
            raise UsageError(f"FSK at {sample_rate} Hz: 8 to 48 kHz")

    def push(self, pcm) -> bytes:
        """Listen to int16 samples, any number."""
        cdef bytes src = samples(pcm)
        cdef bytes out = blank(len(src) // 2 // 60 + 2)
        cdef int32_t n = cp_fsk_rx_push(&self.state, i16(src), <int32_t>(len(src) // 2), u8(out),
                                        <int32_t>len(out))
        return out[:n]

    @property
    def has_carrier(self) -> bool:
        return bool(self.state.has_carrier)

    @property
    def n_framing(self) -> int:
        """Octets refused because their stop bit was not 1."""
        return self.state.n_framing
