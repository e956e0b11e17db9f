"""Octets in and out at the Python edge of the codec modules."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int16_t, uint8_t


cdef inline bytes octets(object data):
    """What a buffer holds, as bytes: contiguous, and aligned as CPython aligns bytes."""
    return data if type(data) is bytes else bytes(memoryview(data))


cdef inline bytes samples(object pcm):
    """The same for int16 samples."""
    cdef bytes data = octets(pcm)
    if len(data) % 2:
        raise ValueError(f"PCM of {len(data)} octets: int16 samples have an even count")
    return data


cdef inline bytes blank(Py_ssize_t n):
    return PyBytes_FromStringAndSize(NULL, n)


cdef inline uint8_t *u8(bytes data) noexcept:
    return <uint8_t *>PyBytes_AS_STRING(data)


cdef inline int16_t *i16(bytes data) noexcept:
    return <int16_t *>PyBytes_AS_STRING(data)
