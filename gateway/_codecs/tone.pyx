"""Call-progress tones: generator, and detector by frequency and cadence."""

from collections import namedtuple

from gateway._codecs.edge cimport blank, i16, samples
from gateway.errors import UsageError




ToneStep = namedtuple("ToneStep", "freqs_hz duration_ms level_dbm0 is_am",
                      defaults=((), 0, -13.0, False))
TonePattern = namedtuple("TonePattern", "id freqs_hz cadence_ms n_cycles min_ms",
                         defaults=((), 2, 400))
ToneEvent = namedtuple("ToneEvent", "id at_sample level_dbm0")


cdef class ToneGenerator:
    """Steps played in turn; repeat_from is the step to go back to at the end, None plays once."""

    cdef cp_tone_tx state

    def __cinit__(self, steps, repeat_from=0, int32_t sample_rate=8000):
        cdef cp_tone_step c_steps[CP_TONE_STEPS]
        cdef int32_t n = 0
        steps = list(steps)
        if not 1 <= len(steps) <= CP_TONE_STEPS:
            raise UsageError(f"{len(steps)} tone steps: 1 to {CP_TONE_STEPS}")
        for step in steps:
            if len(step.freqs_hz) > CP_TONE_FREQS:
                raise UsageError(f"{len(step.freqs_hz)} frequencies: at most {CP_TONE_FREQS}")
            c_steps[n].n_freqs = len(step.freqs_hz)
            for k in range(CP_TONE_FREQS):
                c_steps[n].freq_hz[<int32_t>k] = (
                    step.freqs_hz[k] if k < len(step.freqs_hz) else 0.0)
            c_steps[n].level_dbm0 = step.level_dbm0
            c_steps[n].is_am = step.is_am
            c_steps[n].duration_ms = step.duration_ms
            n += 1
        if cp_tone_tx_init(&self.state, c_steps, n, -1 if repeat_from is None else repeat_from,
                           sample_rate) < 0:
            raise UsageError(
                "tone refused: frequencies below half the sample rate, AM needs two of them, "
                "only the last step may last for ever, repeat_from names a step")

    @property
    def is_over(self) -> bool:
        return bool(self.state.is_over)

    def read(self, int32_t n_samples) -> bytes:
        """The next n_samples; fewer at the end."""
        if n_samples < 0:
            raise UsageError(f"{n_samples} samples")
        cdef bytes out = blank(2 * n_samples)
        cdef int32_t n = cp_tone_tx_read(&self.state, i16(out), n_samples)
        return out[:2 * n]


cdef class ToneDetector:
    """Up to eight patterns on one 8 kHz stream."""

    cdef cp_tone_rx state

    def __cinit__(self, patterns, float min_dbm0=-40.0):
        cdef cp_tone_pattern c_patterns[CP_TONE_PATTERNS]
        cdef int32_t n = 0
        patterns = list(patterns)
        if not 1 <= len(patterns) <= CP_TONE_PATTERNS:
            raise UsageError(f"{len(patterns)} patterns: 1 to {CP_TONE_PATTERNS}")
        for p in patterns:
            if not 1 <= len(p.freqs_hz) <= 2 or len(p.cadence_ms) > CP_TONE_STEPS:
                raise UsageError(f"pattern {p.id}: one or two frequencies, at most "
                                 f"{CP_TONE_STEPS} cadence steps")
            c_patterns[n].id = p.id
            c_patterns[n].n_freqs = len(p.freqs_hz)
            c_patterns[n].freq_hz[0] = p.freqs_hz[0]
            c_patterns[n].freq_hz[1] = p.freqs_hz[len(p.freqs_hz) - 1]
            c_patterns[n].n_cadence = len(p.cadence_ms)
            for k in range(len(p.cadence_ms)):
                c_patterns[n].cadence_ms[<int32_t>k] = p.cadence_ms[k]
            c_patterns[n].n_cycles = p.n_cycles
            c_patterns[n].min_ms = p.min_ms
            n += 1
        if cp_tone_rx_init(&self.state, c_patterns, n, min_dbm0) < 0:
            raise UsageError(
                "pattern refused: 200 to 3800 Hz, cadence in on/off pairs of 60 to 20000 ms, "
                f"at most {CP_TONE_RUNS} steps in all cycles, {CP_TONE_BINS} frequencies in all")

    def push(self, pcm) -> list:
        """Listen to int16 samples, any number; the patterns recognised."""
        cdef bytes src = samples(pcm)
        cdef cp_tone_event events[CP_TONE_PATTERNS]
        cdef int32_t n, i, at = 0, total = <int32_t>(len(src) // 2), take
        found = []
        while at < total:
            take = min(total - at, CP_TONE_HOP)
            n = cp_tone_rx_push(&self.state, i16(src) + at, take, events, CP_TONE_PATTERNS)
            at += take
            for i in range(n):
                found.append(ToneEvent(events[i].id, events[i].at_sample, events[i].level_dbm0))
        return found
