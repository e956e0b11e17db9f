"""Automatic gain control and noise gate: levels are mean squares of samples, gains linear."""

from libc.string cimport memcpy, memset

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError


cdef class Shaper:
    """One stream. Control and gate are each on when their level is above 0.

    target: of loud syllables behind the control; most: greatest gain, and its inverse the least;
    attack, release: share of a change of level that is followed in a frame; gate: level that opens
    it; hold_frames: for which it stays open.
    """

    cdef cp_gain state

    def __cinit__(self, *, float target=0.0, float most=1.0, float attack=1.0, float release=1.0,
                  float gate=0.0, uint16_t hold_frames=0):
        cdef cp_gain_config config
        if target < 0 or gate < 0 or most < 1 or not (0 < attack <= 1 and 0 < release <= 1):
            raise UsageError(
                "use target and gate of 0 or more, most of 1 or more, attack and release up to 1"
            )
        memset(&config, 0, sizeof(config))
        config.controls, config.gates = target > 0, gate > 0
        config.target = target if target > 0 else 1.0
        config.most, config.attack, config.release = most, attack, release
        config.gate, config.hold_frames = gate, hold_frames
        cp_gain_init(&self.state, &config)

    def frame(self, pcm) -> bytes:
        """20 ms at any rate. Raises UsageError when its samples are not a multiple of four."""
        cdef bytes src = samples(pcm), out = blank(len(src))
        if not src or len(src) % 8:
            raise UsageError(f"{len(src) // 2} samples; use a frame with a multiple of four")
        memcpy(i16(out), i16(src), len(src))
        cp_gain_frame(&self.state, i16(out), <int32_t>(len(out) // 2))
        return out

    @property
    def gain(self) -> float:
        """Of the control, at the end of the last frame."""
        return self.state.wanted
