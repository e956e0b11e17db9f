"""Call-progress tones by country: what a telephone user hears and what a trunk sends us.

Frequencies and cadences are those of ITU-T E.180 and its Supplement 2 (national tone plans);
the special information tone is E.180 section 5. Levels are per frequency, in dBm0, within
E.180's -10 +-5 dBm0 for the sum.

A plan is written as steps ``frequencies/ms`` separated by commas: ``480+620/500,0/500`` is two
frequencies for half a second and then silence, repeated; ``400*25`` is 400 Hz modulated by 25 Hz;
a step with ``!`` is played once, before what repeats; a step without ``/ms`` lasts for ever;
``@-20`` sets a step's level. When every step has ``!`` the tone ends by itself.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import UsageError

_DUAL_DBM0 = -13.0
_SINGLE_DBM0 = -10.0
_HOWLER_DBM0 = -10.0


ENDING: Final = ("busy", "congestion")
"""Tones after which a call may be ended: speech and music must never be taken for one."""
ENDING_CYCLES: Final = 3
"""Whole cycles of their cadence, pauses and all, before they count."""


class ToneStep(msgspec.Struct, frozen=True):
    """A stretch of constant sound."""

    frequencies_hz: tuple[float, ...]
    """Summed; none is silence. With `modulated`, the second modulates the first."""
    level_dbm0: float
    modulated: bool
    duration_ms: int
    """0: for ever."""


class Tone(msgspec.Struct, frozen=True):
    """A cadence of steps."""

    steps: tuple[ToneStep, ...]
    repeat_from: int
    """Index of the step to go on with after the last one; -1: the tone ends."""

    @property
    def cadence_ms(self) -> tuple[int, ...]:
        """Repeating part as on, off, on, off...; empty when the tone is continuous."""
        if self.repeat_from < 0:
            return ()
        parts = self.steps[self.repeat_from :]
        if any(not step.duration_ms for step in parts):
            return ()
        runs: list[int] = []
        for step in parts:
            on = bool(step.frequencies_hz)
            if len(runs) % 2 == int(on):
                runs[-1:] = [runs[-1] + step.duration_ms] if runs else [step.duration_ms]
            else:
                runs.append(step.duration_ms)
        return tuple(runs) if len(runs) % 2 == 0 else ()


def parse(plan: str) -> Tone:
    """Tone of a plan string (see the module's text); ValueError when it makes no sense."""
    steps: list[ToneStep] = []
    repeat_from = -1
    for index, text in enumerate(plan.split(",")):
        once, body = text.startswith("!"), text.lstrip("!")
        body, _, level = body.partition("@")
        sound, _, ms = body.partition("/")
        modulated = "*" in sound
        frequencies = tuple(float(f) for f in sound.replace("*", "+").split("+") if float(f))
        if not once and repeat_from < 0:
            repeat_from = index
        plain = _DUAL_DBM0 if len(frequencies) == 2 and not modulated else _SINGLE_DBM0
        if len(frequencies) > 2:
            plain = _HOWLER_DBM0
        steps.append(
            ToneStep(frequencies, float(level) if level else plain, modulated, int(ms or 0))
        )
    return Tone(tuple(steps), repeat_from)


def _once(sound: str, on_ms: int, off_ms: int, times: int) -> str:
    return ",".join([f"!{sound}/{on_ms},!0/{off_ms}"] * times)


_SIT = "!950/330,!1400/330,!1800/330,!0/1000"
_SIT_REPEATED = "950/330,1400/330,1800/330,0/1000"
_HOWLER = "1400+2060+2450+2600/100,0/100"


def _plan(
    dial: str,
    ringback: str,
    busy: str,
    congestion: str,
    call_waiting: str,
    *,
    stutter: str = "",
    intercept: str = _SIT_REPEATED,
    special_information: str = _SIT_REPEATED,
) -> dict[str, str]:
    sound = dial.split(",", maxsplit=1)[0].split("/", maxsplit=1)[0]
    return {
        "dial": dial,
        "stutter": stutter or _once(sound, 100, 100, 5) + f",{dial}",
        "ringback": ringback,
        "busy": busy,
        "congestion": congestion,
        "call_waiting": call_waiting,
        "special_information": special_information,
        "intercept": intercept,
        "howler": _HOWLER,
        "hold": f"{sound}/150@-24,0/9850",
        "confirmation": _once(sound, 100, 100, 3),
    }


_PLANS: dict[str, dict[str, str]] = {
    "us": _plan(
        "350+440",
        "440+480/2000,0/4000",
        "480+620/500,0/500",
        "480+620/250,0/250",
        "440/300,0/9700",
        special_information=_SIT,
        intercept=_SIT,
    ),
    "uk": _plan(
        "350+440",
        "400+450/400,0/200,400+450/400,0/2000",
        "400/375,0/375",
        "400/400,0/350,400/225,0/525",
        "400/100,0/4000",
        stutter="350+440/750,440/750",
        intercept="400",
    ),
    "cn": _plan(
        "450",
        "450/1000,0/4000",
        "450/350,0/350",
        "450/700,0/700",
        "450/400,0/4000",
        special_information="450/100,0/100,450/100,0/100,450/100,0/100,450/400,0/400",
    ),
    "de": _plan(
        "425",
        "425/1000,0/4000",
        "425/480,0/480",
        "425/240,0/240",
        "425/200,0/200,425/200,0/5000",
        stutter="425+400",
    ),
    "fr": _plan("440", "440/1500,0/3500", "440/500,0/500", "440/250,0/250", "440/300,0/10000"),
    "it": _plan(
        "425/200,0/200,425/600,0/1000",
        "425/1000,0/4000",
        "425/500,0/500",
        "425/200,0/200",
        "425/400,0/100,425/250,0/100,425/150,0/14000",
        stutter="470/400,425/400",
    ),
    "es": _plan(
        "425",
        "425/1500,0/3000",
        "425/200,0/200",
        "425/200,0/200,425/200,0/200,425/200,0/600",
        "425/175,0/175,425/175,0/3500",
    ),
    "jp": _plan("400", "400*15/1000,0/2000", "400/500,0/500", "400/500,0/500", "400*16/500,0/8000"),
    "au": _plan(
        "415+440",
        "413+438/400,0/200,413+438/400,0/2000",
        "425/375,0/375",
        "425/375,0/375,425/375@-20,0/375",
        "425/200,0/200,425/200,0/4400",
        intercept="425/2500,0/500",
    ),
    "br": _plan(
        "425", "425/1000,0/4000", "425/250,0/250", "425/250,0/250,425/750,0/250", "425/50,0/1000"
    ),
    "in": _plan(
        "400*25",
        "400*25/400,0/200,400*25/400,0/2000",
        "400/750,0/750",
        "400/250,0/250",
        "400/200,0/100,400/200,0/7500",
        intercept="400/2500,0/500",
    ),
    "za": _plan(
        "400*33",
        "400*33/400,0/200,400*33/400,0/2000",
        "400/500,0/500",
        "400/250,0/250",
        "400*33/400,0/4000",
        intercept="400/2500,0/500",
    ),
    "sg": _plan(
        "425",
        "425*24/400,0/200,425*24/400,0/2000",
        "425/750,0/750",
        "425/250,0/250",
        "425*24/300,0/200,425*24/300,0/3200",
        intercept="425/2500,0/500",
    ),
    "ru": _plan(
        "425", "425/1000,0/4000", "425/350,0/350", "425/175,0/175", "425/200,0/600,425/200,0/5000"
    ),
}

TONES: dict[str, dict[str, Tone]] = {
    country: {name: parse(plan) for name, plan in plans.items()}
    for country, plans in _PLANS.items()
}
"""Country (ISO 3166 code in lower case, ``uk`` for the United Kingdom) -> tone name -> tone."""


def tone(country: str, name: str) -> Tone:
    """The tone, or `UsageError` naming the legal countries or names."""
    plan = TONES.get(country.lower())
    if plan is None:
        raise UsageError(f"no tone plan for {country!r}; there are: {', '.join(sorted(TONES))}")
    found = plan.get(name)
    if found is None:
        raise UsageError(f"no tone {name!r}; there are: {', '.join(sorted(plan))}")
    return found
