"""Judge: what a recording of a test says about the path, by its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from gateway.core.events import PathTestKind
from gateway.media import analysis, signals, wav
from gateway.pathtests.section import Limits

SILENT_DBM0: Final = -65.0
"""Below the idle noise of a line (ITU-T O.41): nothing but silence."""
DEAD_DBM0: Final = -78.0
"""Below what any microphone gives in a quiet room: there is none."""
CROSSTALK_DB: Final = 45.0
"""What comes back so much weaker was not looped, but coupled in."""
HALL_MS: Final = 120.0
"""So long a room is heard after the first sound."""

Figures = dict[str, float]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and whether it is good."""

    ok: bool
    verdict: str
    detail: str = ""
    figures: Figures = {}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be judged, and by what."""

    kind: PathTestKind
    signal: str
    limits: Limits
    expect: str = ""
    two_wire: bool = False
    """The port joins both directions in a hybrid."""
    one_way: bool = False
    """Nothing can come back."""
    air: bool = False
    """A radio listens."""
    baseline: Figures | None = None


def judge(question: Question, sent: Path, heard: Path | None) -> Verdict:
    """Read the recordings and judge them; takes a tenth of a second for each second of them.

    sent: of the leg that was played to; heard: of the one that listened instead. Raises
    `DeviceError` for a file that cannot be read, `UsageError` when it holds no test.
    """
    received, played = wav.directions(str(sent), signals.RATE)
    if heard is not None:
        # Both files begin in the same millisecond.
        received, _ = wav.directions(str(heard), signals.RATE)
    if question.kind is PathTestKind.TONE:
        return _tone(question, played, received)
    if question.kind is PathTestKind.LOOP:
        found = analysis.path(played, received)
        return _settle(question, _loop(question, found), found)
    found = analysis.path(played, received, window_ms=HALL_MS, in_pieces=False)
    return _settle(question, _air(found) if question.air else _acoustic(found), found)


def _tone(question: Question, played: bytes, received: bytes) -> Verdict:
    limits = question.limits
    if question.one_way:
        return Verdict(ok=True, verdict="played", detail="nothing can come back from there")
    if not any(received):
        return Verdict(ok=False, verdict="silent", detail="nothing but digital silence comes back")
    found = analysis.quiet(played, received, signals.frequency(question.signal))
    figures = {
        "level_dbm0": found.level_dbm0,
        "tone_dbm0": found.tone_dbm0,
        "hum_dbm0": found.hum_dbm0,
        "hum_hz": found.hum_hz,
        "noise_dbm0": found.noise_dbm0,
        "dc_percent": found.dc_percent,
    }
    if found.hum_dbm0 > limits.max_hum_dbm0:
        detail = (
            f"hum of {found.hum_hz:g} Hz at {found.hum_dbm0:.0f} dBm0, "
            f"more than {limits.max_hum_dbm0:g}"
        )
        return Verdict(ok=False, verdict="hum", detail=detail, figures=figures)
    if found.noise_dbm0 > limits.max_noise_dbm0:
        detail = f"noise at {found.noise_dbm0:.0f} dBm0, more than {limits.max_noise_dbm0:g}"
        return Verdict(ok=False, verdict="noisy", detail=detail, figures=figures)
    if abs(found.dc_percent) > limits.max_dc_percent:
        detail = (
            f"DC of {found.dc_percent:.1f} % of full scale, more than {limits.max_dc_percent:g}"
        )
        return Verdict(ok=False, verdict="dc", detail=detail, figures=figures)
    return Verdict(ok=True, verdict="ok", figures=figures)


def _figures(found: analysis.Path) -> Figures:
    figures = {"sent_dbm0": found.sent_dbm0, "received_dbm0": found.received_dbm0}
    if found.found:
        figures |= {
            "delay_ms": found.delay_ms,
            "attenuation_db": found.attenuation_db,
            "snr_db": found.snr_db,
            "slips_n": float(found.slips),
        }
        figures |= {f"band_{hz}_db": gain for hz, gain in found.bands_db.items()}
    return {name: round(value, 2) for name, value in figures.items()}


def _loop(question: Question, found: analysis.Path) -> Verdict:
    limits, loss = question.limits, found.attenuation_db
    figures = _figures(found)
    expected = question.expect or ("hybrid" if question.two_wire else "closed")
    if not found.found or loss > CROSSTALK_DB:
        if found.found:
            detail = f"only crosstalk comes back, {loss:.0f} dB weaker"
        elif found.received_dbm0 < SILENT_DBM0:
            detail = "nothing comes back"
        else:
            detail = f"what comes back at {found.received_dbm0:.0f} dBm0 is something else"
        return Verdict(ok=expected == "open", verdict="open", detail=detail, figures=figures)
    if expected == "hybrid":
        figures["erl_db"] = figures["attenuation_db"]
        if loss >= limits.min_erl_db:
            return Verdict(ok=True, verdict="hybrid echo", figures=figures)
        detail = (
            f"echo return loss {loss:.1f} dB, less than {limits.min_erl_db:g}: "
            "open pair, short, or wrong impedance"
        )
        return Verdict(ok=False, verdict="wrong level", detail=detail, figures=figures)
    if expected == "open":
        detail = f"closed, {loss:.1f} dB weaker"
        return Verdict(ok=False, verdict="closed", detail=detail, figures=figures)
    if loss > limits.max_attenuation_db:
        detail = f"{loss:.1f} dB weaker, more than {limits.max_attenuation_db:g}"
        return Verdict(ok=False, verdict="wrong level", detail=detail, figures=figures)
    if -loss > limits.max_gain_db:
        detail = f"{-loss:.1f} dB louder, more than {limits.max_gain_db:g}"
        return Verdict(ok=False, verdict="wrong level", detail=detail, figures=figures)
    return Verdict(ok=True, verdict="closed", figures=figures)


def _air(found: analysis.Path) -> Verdict:
    figures = _figures(found)
    if found.found:
        return Verdict(ok=True, verdict="ok", figures=figures)
    if found.received_dbm0 < DEAD_DBM0:
        verdict = "not received"
        detail = "no carrier where it was listened: transmitter, aerial, channel, or squelch there"
    else:
        verdict = "no modulation"
        detail = (
            f"a carrier is heard at {found.received_dbm0:.0f} dBm0, the test is not: "
            "audio to the transmitter, or somebody else's carrier"
        )
    return Verdict(ok=False, verdict=verdict, detail=detail, figures=figures)


def _acoustic(found: analysis.Path) -> Verdict:
    figures = _figures(found)
    if found.found:
        return Verdict(ok=True, verdict="ok", figures=figures)
    if found.received_dbm0 < DEAD_DBM0:
        return Verdict(
            ok=False,
            verdict="microphone silent",
            detail="not even the room is heard",
            figures=figures,
        )
    return Verdict(
        ok=False,
        verdict="loudspeaker silent",
        detail=f"the room is heard at {found.received_dbm0:.0f} dBm0, the test is not",
        figures=figures,
    )


def _settle(question: Question, verdict: Verdict, found: analysis.Path) -> Verdict:
    """What holds for both: delay, noise, and what has changed."""
    if not (verdict.ok and found.found) or verdict.verdict == "open":
        return verdict
    limits, figures = question.limits, verdict.figures

    def bad(name: str, detail: str) -> Verdict:
        return Verdict(ok=False, verdict=name, detail=detail, figures=figures)

    if found.delay_ms > limits.max_delay_ms:
        return bad("late", f"after {found.delay_ms:.0f} ms, more than {limits.max_delay_ms:g}")
    if found.snr_db < limits.min_snr_db:
        return bad(
            "noisy", f"{found.snr_db:.0f} dB over the noise, less than {limits.min_snr_db:g}"
        )
    before = question.baseline or {}
    if "attenuation_db" in before:
        change = found.attenuation_db - before["attenuation_db"]
        figures["change_db"] = round(-change, 2)
        if change > limits.max_change_db:
            return bad("attenuated", f"{change:.1f} dB weaker than the baseline")
        if -change > limits.max_change_db:
            return bad("louder", f"{-change:.1f} dB louder than the baseline")
    for hz, gain in found.bands_db.items():
        then = before.get(f"band_{hz}_db")
        # Far below the rest a band holds but noise, and that varies.
        if then is not None and then > -before["attenuation_db"] - 20.0:
            change = then - gain
            if abs(change) > limits.max_change_db:
                word = "weaker" if change > 0 else "louder"
                return bad("changed", f"{abs(change):.1f} dB {word} at {hz} Hz than the baseline")
    return verdict
