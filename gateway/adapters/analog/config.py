"""``[adapters.analog]``: the card's directory, the country, and each port."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.drivers.dahdi import DIRECTORY
from gateway.media.shaping import ECHO_TAILS_MS, GainControl, NoiseGate
from gateway.media.tones import TONES
from gateway.protocols.analog.cadence import RING_CADENCES

_Name = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]*)?$")]
_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9*#A-Dw]*$", max_length=64)]
_Channel = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}$")]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]
_Gain = Annotated[float, msgspec.Meta(ge=-24, le=24)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=60000)]
_EchoMs = Annotated[int, msgspec.Meta(ge=0, le=128)]

CallerIdStandard = Literal["bell202", "v23", "dtmf", "off"]
CallerIdTime = Literal["after_first_ring", "before_ring"]
AnswerRule = Literal["polarity", "voice", "timer", "immediate"]
HangupRule = Literal["cpc", "polarity", "busy", "congestion"]

_BELL_202 = frozenset({"us", "cn", "au", "sg", "in"})


class _Port(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    name: _Name = ""
    """Local part of the endpoint: ``fxs/<name>``; empty: the channel's number."""
    number: _Number = ""
    """FXS: directory number, and the caller number that others see. FXO: the number that callers
    from the exchange are taken to have dialled (DID); routes and the directory then match it."""
    label: str = ""
    location: str = ""
    hotline: _Number = ""
    """FXS: number dialled by lifting the handset. FXO: as `number`, and wins over it."""
    caller_id: CallerIdStandard | None = None
    """``bell202``, ``v23``, ``dtmf`` or ``off``; left out: what the country uses."""
    caller_id_when: CallerIdTime = "after_first_ring"
    """``before_ring`` is announced by a polarity reversal."""
    gain_in_db: _Gain = 0.0
    """Of what comes from the line."""
    gain_out_db: _Gain = 0.0
    echo_ms: _EchoMs = 16
    """Tail of the card's echo canceller (system.conf must name one); 0: off."""
    echo_cancel_ms: int = 0
    """Tail of the gateway's own echo canceller (G.168), which then takes the place of the card's;
    0: off."""
    echo_suppress: bool = True
    """With it: what is left of the echo is taken away too, while only the far end speaks."""
    agc: GainControl | None = None
    """Automatic gain control of what comes from the line."""
    gate: NoiseGate | None = None
    """Noise gate of what comes from the line."""

    def __post_init__(self) -> None:
        if self.echo_cancel_ms and self.echo_cancel_ms not in ECHO_TAILS_MS:
            legal = ", ".join(str(each) for each in (0, *ECHO_TAILS_MS))
            raise ValueError(f"echo_cancel_ms {self.echo_cancel_ms} is none of {legal}")


class Fxs(_Port, frozen=True, kw_only=True, tag="fxs"):
    """``[adapters.analog.ports.<channel>]`` with ``kind = "fxs"``: a telephone."""

    hotline_delay_s: _Seconds = 0.0
    """0: calls at once, without dial tone; else a digit within this time dials by hand."""
    first_digit_s: _Seconds = 15.0
    """From dial tone to the first digit; then congestion tone."""
    inter_digit_s: _Seconds = 4.0
    extensible_s: _Seconds = 2.0
    """Wait for more digits when the number fits a route already and might become a longer one."""
    terminator: Literal["#", "*", ""] = "#"
    """Ends dialling at once."""
    ring_ms: Annotated[tuple[Annotated[int, msgspec.Meta(ge=50, le=10000)], ...],
                       msgspec.Meta(max_length=16)] = ()  # fmt: skip
    """Ringing on, off, on, off ... in milliseconds; empty: the country's."""
    flash_ms: _Ms = 700
    """An open loop of 200 ms up to this is the recall key, a longer one a hang-up; 0: no recall
    key, and quicker hang-ups."""
    answer_reversal: bool = False
    """Reverse the polarity while the far end is answered (payphones, a PBX's trunk)."""
    battery_drop: bool = True
    """Drop the battery when the far end releases (CPC; for door phones, recorders and PBXs)."""
    busy_s: _Seconds = 30.0
    """Busy tone after the far end released; then the howler."""
    howler_s: _Seconds = 60.0
    """Receiver-off-hook tone; then the port is silent and down until the handset is put back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ring_ms) % 2:
            raise ValueError("ring_ms has a time too many: write on, off, on, off ...")
        if 0 < self.flash_ms < 250:
            raise ValueError("flash_ms must be 250 or more: up to 200 ms is a dial pulse")


class Fxo(_Port, frozen=True, kw_only=True, tag="fxo"):
    """``[adapters.analog.ports.<channel>]`` with ``kind = "fxo"``: a line of an exchange."""

    use: Literal["calls", "lent"] = "calls"
    """``lent``: only for speech of legs that are controlled elsewhere (an intercom's ``audio``);
    its ringing is no call, and it is not dialled."""
    ring_min_s: _Seconds = 0.3
    """A burst of ringing shorter than this is noise."""
    ring_timeout_s: _Seconds = 10.0
    """No ringing for so long: the caller gave up. Longer than the exchange's pause."""
    caller_id_window_s: _Seconds = 3.5
    """How long to wait for caller ID before the call is offered without."""
    dial_tone_s: _Seconds = 3.0
    """Wait so long for dial tone before dialling; 0: wait `dial_delay_s` instead."""
    dial_without_tone: bool = True
    """Dial although no dial tone was heard; else the call ends (``no dial tone``)."""
    dial_delay_s: _Seconds = 2.0
    dialling: Literal["dtmf", "pulse"] = "dtmf"
    digit_ms: Annotated[int, msgspec.Meta(ge=40, le=1000)] = 100
    digit_pause_ms: Annotated[int, msgspec.Meta(ge=40, le=1000)] = 100
    answer: tuple[AnswerRule, ...] = ("polarity", "voice", "timer")
    """What counts as the answer to a call of ours; the first to come."""
    answer_timer_s: _Seconds = 30.0
    """For ``timer``: from the end of dialling."""
    no_answer_s: _Seconds = 120.0
    hangup: tuple[HangupRule, ...] = ("cpc", "polarity", "busy", "congestion")
    """What counts as the far end's release (disconnect supervision)."""
    cpc_min_s: _Seconds = 0.25
    """A shorter battery drop is none."""
    silence_s: _Seconds = 0.0
    """Nothing above -60 dBm0 heard for so long ends the call; 0: never."""
    max_call_s: _Seconds = 0.0
    """Longest call; 0: any."""
    guard_s: _Seconds = 1.5
    """On hook between two calls; exchanges want 0.6 at least."""
    glare_s: _Seconds = 0.5
    """Ringing so soon after we seized the line is a call that came in meanwhile."""
    fault_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0
    """No battery for so long while idle: the line is down."""
    flash_ms: Annotated[int, msgspec.Meta(ge=50, le=2000)] = 300
    """Length of a hook flash that we send (the digit ``!``)."""


class AnalogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.analog]``."""

    device_dir: str = DIRECTORY
    """Where the DAHDI device nodes are."""
    country: str = "us"
    """Tones, ringing cadence and caller ID of the ports."""
    ports: Annotated[dict[_Channel, Fxs | Fxo], msgspec.Meta(min_length=1)]
    """By DAHDI channel number."""

    def __post_init__(self) -> None:
        if self.country not in TONES:
            raise ValueError(f"country {self.country!r} is none of {', '.join(sorted(TONES))}")
        seen: dict[str, str] = {}
        for channel, port in self.ports.items():
            endpoint = endpoint_of(channel, port)
            if endpoint in seen:
                raise ValueError(f"ports {seen[endpoint]} and {channel} are both {endpoint}")
            seen[endpoint] = channel

    def cadence_ms(self, port: Fxs) -> tuple[int, ...]:
        """How this port rings."""
        return port.ring_ms or RING_CADENCES.get(self.country, RING_CADENCES["us"])

    def caller_id(self, port: Fxs | Fxo) -> CallerIdStandard:
        """How caller ID travels on this port."""
        return port.caller_id or ("bell202" if self.country in _BELL_202 else "v23")


def endpoint_of(channel: str, port: Fxs | Fxo) -> str:
    """The endpoint of a port."""
    return f"{'fxs' if isinstance(port, Fxs) else 'fxo'}/{port.name or channel}"
