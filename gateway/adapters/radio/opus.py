"""Opus (RFC 6716) through the system's libopus, for the reflector's audio.

A foreign library with its own C loops: it is called from a pump's thread and lets go of the
interpreter lock while it works.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from gateway.errors import DeviceError

_VOIP: Final = 2048
_SET_BITRATE: Final = 4002
_LONGEST_MS: Final = 120
_PACKET: Final = 1500


@functools.cache
def _library() -> Any:
    try:
        found = ctypes.CDLL("libopus.so.0")
    except OSError:
        raise DeviceError(
            "a reflector needs libopus, which is not installed (Debian: apt install libopus0)"
        ) from None
    found.opus_encoder_create.restype = found.opus_decoder_create.restype = ctypes.c_void_p
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    found.opus_encode.argtypes = (pointer, text, number, text, ctypes.c_int32)
    found.opus_decode.argtypes = (pointer, text, ctypes.c_int32, pointer, number, number)
    found.opus_encoder_destroy.argtypes = found.opus_decoder_destroy.argtypes = (pointer,)
    return found


class Encoder:
    """Mono samples to packets."""

    def __init__(self, rate: int, bitrate: int) -> None:
        """Raises `DeviceError` when libopus is missing or refuses."""
        self._lib = _library()
        error = ctypes.c_int()
        self._state = ctypes.c_void_p(
            self._lib.opus_encoder_create(rate, 1, _VOIP, ctypes.byref(error))
        )
        if error.value:
            raise DeviceError(f"libopus: no encoder for {rate} Hz: error {error.value}")
        self._lib.opus_encoder_ctl(self._state, _SET_BITRATE, ctypes.c_int32(bitrate))
        self._packet = ctypes.create_string_buffer(_PACKET)

    def encode(self, samples: bytes) -> bytes:
        """One frame of 2.5 to 60 ms of native 16-bit samples."""
        n = self._lib.opus_encode(self._state, samples, len(samples) // 2, self._packet, _PACKET)
        if n < 0:
            raise DeviceError(f"libopus: cannot encode {len(samples)} octets: error {n}")
        return self._packet.raw[:n]

    def close(self) -> None:
        """Free it; harmless when repeated."""
        if self._state:
            self._lib.opus_encoder_destroy(self._state)
            self._state = ctypes.c_void_p()


class Decoder:
    """Packets to mono samples."""

    def __init__(self, rate: int) -> None:
        """Raises `DeviceError` when libopus is missing or refuses."""
        self._lib = _library()
        error = ctypes.c_int()
        self._state = ctypes.c_void_p(self._lib.opus_decoder_create(rate, 1, ctypes.byref(error)))
        if error.value:
            raise DeviceError(f"libopus: no decoder for {rate} Hz: error {error.value}")
        self._most = rate * _LONGEST_MS // 1000
        self._samples = (ctypes.c_int16 * self._most)()

    def decode(self, packet: bytes) -> bytes | None:
        """Native 16-bit samples; None when the packet is none of Opus."""
        n = self._lib.opus_decode(self._state, packet, len(packet), self._samples, self._most, 0)
        return bytes(memoryview(self._samples)[:n]) if n >= 0 else None

    def close(self) -> None:
        """Free it; harmless when repeated."""
        if self._state:
            self._lib.opus_decoder_destroy(self._state)
            self._state = ctypes.c_void_p()
