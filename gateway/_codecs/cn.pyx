"""Comfort noise (RFC 3389): payloads made of noise, and noise made of payloads."""

from gateway._codecs.edge cimport blank, i16, octets, samples, u8
from gateway.errors import PeerError, UsageError
from libc.string cimport memset


def generate(payload, int32_t n_samples, *, bint white=False) -> bytes:
    """`n_samples` int16 samples of the noise that a payload describes; `white`: its level alone.

    Raises PeerError if the payload is empty.
    """
    cdef cp_cn_noise noise
    cdef bytes data = octets(payload)
    if n_samples < 0:
        raise UsageError(f"n_samples {n_samples} is negative")
    memset(&noise, 0, sizeof(noise))
    if cp_cn_set(&noise, u8(data), <int32_t>len(data), white) < 0:
        raise PeerError("comfort noise of 0 octets: at least its level")
    cdef bytes out = blank(2 * n_samples)
    cp_cn_generate(&noise, i16(out), n_samples)
    return out


def describe(pcm, int32_t order=10) -> bytes:
    """The payload of int16 samples (frames of 160): level and `order` (0 to 10) coefficients."""
    cdef cp_cn_meter meter
    cdef bytes data = samples(pcm), out = blank(CP_CN_OCTETS)
    cdef int32_t n = <int32_t>(len(data) // 2), at = 0
    if not 0 <= order <= CP_CN_ORDER:
        raise UsageError(f"order {order}; use 0 to {CP_CN_ORDER}")
    memset(&meter, 0, sizeof(meter))
    while at < n:
        cp_cn_measure(&meter, i16(data) + at, min(160, n - at))
        at += 160
    return out[:cp_cn_payload(&meter, order, u8(out))]
