"""What a stream's counters say: each rule one fault, or none.

A rule looks at the counters of one leg's stream alone; what the rest of the call says about it,
such as a hold, is weighed in `gateway.diagnosis.calls`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from gateway.diagnosis.faults import Code, Fault, Layer
from gateway.media.streams import Direction, StreamStats

SILENT_S: Final = 5.0
MUTED_S: Final = 10.0
LOSS_PERCENT: Final = 2.0
"""Concealment hides single packets; from about here gaps are heard."""
LATE_PERCENT: Final = 1.0
THROWN_PERCENT: Final = 5.0
JITTER_MS: Final = 40.0
OVERLOAD_DBM0: Final = 0.5
"""Speech that is this loud in the mean is beyond the scale in its peaks."""
CLIPPED_SHARE: Final = 0.02
LOW_DBM0: Final = -38.0
"""Speech lies between -30 and -10 dBm0; what never gets louder than this cannot be understood."""
JUDGED_S: Final = 2.0
"""Audio that is needed to judge its level."""
WHOLE: Final = 0.9
"""Share of the time in which audio was heard, from which on nothing is missing."""
FEW: Final = 10
"""Packets that may go wrong at any change of a call."""
DRIFT_PPM: Final = 250.0
"""Sound cards are within 100 ppm; from here a frame is lost or doubled every 80 s or sooner."""
ECHO_JUDGED_S: Final = 4.0
"""So long a talker may hear himself: a canceller has to learn a line, and what changes there."""
ECHO_SHARE: Final = 0.8
"""Of the time in which there was an echo: whatever moves it is heard for a second or two, which is
no fault of the line."""
DIGITS: Final = 2
"""Speech is hardly ever taken for so many digits."""
_FORBIDDEN: Final = os.strerror(errno.EPERM)
"""What a send says that a rule of the box's packet filter drops."""


class Heard(NamedTuple):
    """A stream, and what is expected of it."""

    leg: str
    stats: StreamStats
    speaks: bool = True
    """It is expected to send to us."""
    talks: bool = True
    """And that there is speech in it: not of who waits for his turn."""
    seconds: float = 0.0
    """How long it has been connected; 0: not known."""
    now: bool = False
    """Somebody listens now and asks why it is silent; else the call is judged as a whole."""


_Rule = Callable[[Heard], Fault | None]


def faults(heard: Heard) -> Iterator[Fault]:
    """What is wrong with a stream."""
    for rule in RULES:
        found = rule(heard)
        if found is not None:
            yield found


def _packets(heard: Heard) -> Fault | None:
    """Nothing that could be played has come."""
    stats, leg = heard.stats, heard.leg
    if stats.packets_received or not heard.speaks or not stats.codec:
        return None
    if stats.direction in (Direction.SENDONLY, Direction.INACTIVE):
        return None
    if max(stats.packets_elsewhere, stats.packets_wrong_type, stats.srtp_failed) > FEW:
        return None
    if not stats.local:
        return Fault(
            code=Code.NO_PACKETS,
            layer=Layer.LINE,
            leg=leg,
            what="nothing has arrived: nothing was read from the device",
            remedy="look at its wiring and driver",
            next=f"gateway endpoints {_place(leg)} --detail",
        )
    why = unreachable(stats)
    if why:
        return Fault(
            code=Code.SDP_ADDRESS,
            layer=Layer.SIGNALLING,
            leg=leg,
            what=f"nothing has arrived, and the far end's SDP names {stats.signalled}, {why}",
            remedy="let the far end give its public address (its NAT or STUN setting, or an SBC)",
            next=f"gateway trace {leg}",
        )
    port = stats.local.rpartition(":")[2]
    whence = f" from {stats.remote}" if stats.remote else ""
    return Fault(
        code=Code.NO_PACKETS,
        layer=Layer.NETWORK,
        leg=leg,
        what=f"nothing has arrived{whence}",
        remedy=(
            f"the far end does not send to {stats.local}, or a firewall or NAT drops it: "
            f"tcpdump -n udp port {port}"
        ),
        next=f"tcpdump -n udp port {port}",
    )


def unreachable(stats: StreamStats) -> str:
    """Why the address that the far end named cannot be right; empty when it may be."""
    if stats.send_errors and not stats.packets_sent and stats.send_error != _FORBIDDEN:
        return f"which cannot be reached ({stats.send_error})"
    there, here = _ip(stats.signalled), _ip(stats.local)
    if there is None or here is None or there.version != here.version:
        return ""
    if there.is_unspecified:
        return "which is no address"
    if there.is_loopback != here.is_loopback and (there.is_loopback or there.is_private):
        return "which is private"
    if there.is_private and not here.is_private:
        return "which is private"
    return ""


def _matters(heard: Heard, n_refused: int) -> bool:
    """Whether packets that were refused are missing: strangers' do no harm while ours come."""
    stats = heard.stats
    if n_refused <= max(FEW, stats.packets_received // 10):
        return False
    return not heard.seconds or stats.heard_s < WHOLE * heard.seconds


def _elsewhere(heard: Heard) -> Fault | None:
    stats = heard.stats
    if not _matters(heard, stats.packets_elsewhere):
        return None
    named = stats.signalled or "no address yet"
    code, layer = Code.ELSEWHERE, Layer.NETWORK
    remedy = (
        "the far end must send from the address in its SDP: look for NAT on the way, or for "
        "another device that sends to our port"
    )
    why = unreachable(stats)
    if why and not stats.packets_received:
        code, layer, named = Code.SDP_ADDRESS, Layer.SIGNALLING, f"{named}, {why}"
        remedy = "let the far end give its public address (its NAT or STUN setting, or an SBC)"
    return Fault(
        code=code,
        layer=layer,
        leg=heard.leg,
        what=(
            f"{stats.packets_elsewhere} packets refused: they come from {stats.elsewhere}, but "
            f"the far end's SDP names {named}"
        ),
        remedy=remedy,
        next=f"gateway trace {heard.leg}",
    )


def _payload_type(heard: Heard) -> Fault | None:
    stats = heard.stats
    if not _matters(heard, stats.packets_wrong_type):
        return None
    return Fault(
        code=Code.PAYLOAD_TYPE,
        layer=Layer.SIGNALLING,
        leg=heard.leg,
        what=(
            f"{stats.packets_wrong_type} packets refused: they have payload type "
            f"{stats.wrong_type}, but {stats.payload_type} ({stats.codec}) was agreed"
        ),
        remedy="the far end must send the codec that its SDP agreed to: set it to that one alone",
        next=f"gateway trace {heard.leg}",
    )


def _srtp(heard: Heard) -> Fault | None:
    stats = heard.stats
    if not _matters(heard, stats.srtp_failed):
        return None
    return Fault(
        code=Code.SRTP,
        layer=Layer.MEDIA,
        leg=heard.leg,
        what=(
            f"{stats.srtp_failed} packets cannot be decrypted: they were not encrypted with the "
            f"key agreed ({stats.srtp_suite})"
        ),
        remedy="the far end sends in the clear or with an old key: its SRTP setting, or a proxy "
        "that changes the SDP",
        next=f"gateway trace {heard.leg}",
    )


def _refused(heard: Heard) -> Fault | None:
    """Refused for other reasons: no RTP, or of a version or length that cannot be."""
    stats = heard.stats
    others = stats.packets_refused - stats.packets_elsewhere - stats.packets_wrong_type
    if not _matters(heard, others):
        return None
    return Fault(
        code=Code.ELSEWHERE,
        layer=Layer.NETWORK,
        leg=heard.leg,
        what=f"{others} packets refused: they are no RTP of this call",
        remedy="the far end must send from the address in its SDP and with the codec agreed",
        next=f"gateway capture {heard.leg} --follow",
    )


def _sent(heard: Heard) -> Fault | None:
    stats = heard.stats
    if stats.packets_sent or not stats.codec:
        return None
    if stats.send_error == _FORBIDDEN:
        return Fault(
            code=Code.NOT_SENT,
            layer=Layer.GATEWAY,
            leg=heard.leg,
            what=f"we send nothing: this box's own firewall forbids it ({stats.send_error})",
            remedy=f"allow UDP to {stats.remote or stats.signalled}: nft list ruleset",
            next="nft list ruleset",
        )
    if stats.send_errors:
        return Fault(
            code=Code.SDP_ADDRESS,
            layer=Layer.SIGNALLING,
            leg=heard.leg,
            what=(
                f"hears nothing: {stats.signalled or stats.remote}, which its SDP names, "
                f"cannot be reached ({stats.send_error})"
            ),
            remedy="let the far end give an address that this box has a route to",
            next=f"gateway trace {heard.leg}",
        )
    return Fault(
        code=Code.NOT_SENT,
        layer=Layer.SIGNALLING,
        leg=heard.leg,
        what="we send nothing: the far end's address is unknown, or it asked us not to",
        remedy="look for hold (a=sendonly, a=inactive) or a missing answer in the far end's SDP",
        next=f"gateway trace {heard.leg}",
    )


def _silence(heard: Heard) -> Fault | None:
    stats = heard.stats
    if not stats.packets_received or not (heard.speaks and heard.talks):
        return None
    flat = stats.flat_s >= 0.98 * stats.heard_s > 0
    if stats.active_s:
        # He has spoken and listens now, perhaps; but one who was never so quiet before is muted.
        quiet_s = stats.silent_s
        flat = abs(stats.flat_s - quiet_s) <= 1.0
        if not heard.now and not (flat and quiet_s >= MUTED_S):
            return None
    else:
        quiet_s = max(stats.heard_s, stats.silent_s)
    if quiet_s < SILENT_S and not (quiet_s >= JUDGED_S and not heard.now):
        return None
    listen = "let somebody speak there"
    said = f"packets arrive, but nothing louder than -60 dBm0 for {quiet_s:.0f} s"
    if flat:
        return Fault(
            code=Code.MUTED,
            layer=Layer.FAR_END,
            leg=heard.leg,
            what=f"{said}: digital silence, as a muted microphone gives it",
            remedy=f"muted, or no microphone at the far end: {listen}",
            next=f"gateway call {heard.leg}",
        )
    return Fault(
        code=Code.SILENCE,
        layer=Layer.FAR_END,
        leg=heard.leg,
        what=said,
        remedy=f"muted, wrong microphone, or open pair at the far end: {listen}",
        next=f"gateway call {heard.leg}",
    )


def _loss(heard: Heard) -> Fault | None:
    stats = heard.stats
    expected = stats.packets_received + stats.packets_lost
    loss = 100.0 * stats.packets_lost / expected if expected else 0.0
    if loss < LOSS_PERCENT or stats.packets_lost < FEW:
        return None
    whence = f" from {stats.remote}" if stats.remote else ""
    return Fault(
        code=Code.LOSS,
        layer=Layer.NETWORK,
        leg=heard.leg,
        what=f"{loss:.1f} % of the packets are lost on the way to us",
        remedy=f"the network{whence}",
        next=f"gateway capture {heard.leg} --follow",
    )


def _remote_loss(heard: Heard) -> Fault | None:
    stats = heard.stats
    if stats.remote_loss_percent < LOSS_PERCENT:
        return None
    return Fault(
        code=Code.LOSS,
        layer=Layer.NETWORK,
        leg=heard.leg,
        what=f"the far end loses {stats.remote_loss_percent:.1f} % of what we send",
        remedy=f"the network towards {stats.remote or 'it'}",
        next=f"gateway capture {heard.leg} --follow",
    )


def _starved(heard: Heard) -> Fault | None:
    stats = heard.stats
    arrived = max(1, stats.packets_received)
    late = stats.packets_late > FEW and 100.0 * stats.packets_late / arrived >= LATE_PERCENT
    # After a stall everything comes at once: what is older than the deepest buffer is given up.
    thrown = stats.slips if stats.local else 0
    bursts = thrown > FEW and 100.0 * thrown / arrived >= THROWN_PERCENT
    if late or bursts:
        return Fault(
            code=Code.STARVED,
            layer=Layer.NETWORK,
            leg=heard.leg,
            what=(
                f"{stats.packets_late + thrown} packets came too late to be played: the jitter "
                f"buffer ran empty (jitter {stats.jitter_ms:.0f} ms)"
            ),
            remedy="the network; or allow a deeper jitter buffer on this adapter",
            next=f"gateway capture {heard.leg} --follow",
        )
    return None


def _jitter(heard: Heard) -> Fault | None:
    """The buffer is deep enough for it, and so delays speech."""
    stats = heard.stats
    if stats.jitter_ms < JITTER_MS or _starved(heard):
        return None
    return Fault(
        code=Code.JITTER,
        layer=Layer.NETWORK,
        leg=heard.leg,
        what=f"jitter is {stats.jitter_ms:.0f} ms: speech is delayed",
        remedy="the network",
        next=f"gateway capture {heard.leg} --follow",
    )


def _clipped(heard: Heard) -> Fault | None:
    stats = heard.stats
    level = max(stats.active_dbm0, stats.level_in_dbm0 if not stats.heard_s else -99.0)
    share = stats.clipped_s / stats.active_s if stats.active_s else 0.0
    if share < CLIPPED_SHARE and level < OVERLOAD_DBM0:
        return None
    flat = f", {100.0 * share:.0f} % of it with its tops cut off" if share else ""
    return Fault(
        code=Code.CLIPPED,
        layer=Layer.FAR_END,
        leg=heard.leg,
        what=f"overloaded: {level:+.0f} dBm0 arrive{flat}",
        remedy="lower the gain there or here",
        next=f"gateway call {heard.leg}",
    )


def _low(heard: Heard) -> Fault | None:
    stats = heard.stats
    if (
        stats.active_s < JUDGED_S
        or stats.loudest_dbm0 >= LOW_DBM0
        or not (heard.speaks and heard.talks)
    ):
        return None
    return Fault(
        code=Code.LOW_LEVEL,
        layer=Layer.FAR_END,
        leg=heard.leg,
        what=(
            f"too low: the loudest in {stats.active_s:.0f} s is {stats.loudest_dbm0:.0f} dBm0 "
            "(speech: -30 to -10)"
        ),
        remedy="raise the gain of the far end's microphone, or gain_in_db of this endpoint here",
        next=f"gateway call {heard.leg}",
    )


def _echo(heard: Heard) -> Fault | None:
    stats = heard.stats
    if stats.erl_db is None or stats.erle_db is None:
        return None
    if stats.echo_heard_s < max(ECHO_JUDGED_S, ECHO_SHARE * stats.echo_s):
        return None
    return Fault(
        code=Code.ECHO,
        layer=Layer.LINE,
        leg=heard.leg,
        what=(
            f"reflects what it is sent: the echo is {stats.erl_db:.0f} dB weaker (ERL), and the "
            f"canceller takes {stats.erle_db:.0f} dB more away (ERLE): the other side heard "
            f"itself for {stats.echo_heard_s:.0f} of {stats.echo_s:.0f} s"
        ),
        remedy=(
            "a longer echo_cancel_ms, lower gains where it clips, "
            "and the line's balance (fxotune, the telephone's impedance)"
        ),
        next=f"gateway call {heard.leg}",
    )


def _digits(heard: Heard) -> Fault | None:
    stats = heard.stats
    if stats.inband_digits < DIGITS:
        return None
    if stats.event_digits:
        return Fault(
            code=Code.DTMF_DOUBLED,
            layer=Layer.DIGITS,
            leg=heard.leg,
            what=(
                f"sends digits twice: {stats.event_digits} as RFC 4733 events and "
                f"{stats.inband_digits} as tones in the audio"
            ),
            remedy="let the far end send digits as RFC 4733 alone",
            next=f"gateway events --leg {heard.leg}",
        )
    return Fault(
        code=Code.DTMF_NOT_UNDERSTOOD,
        layer=Layer.DIGITS,
        leg=heard.leg,
        what=(
            f"sent {stats.inband_digits} digits as tones in the audio, although RFC 4733 events "
            "were agreed: nobody listens for them"
        ),
        remedy='let the far end send RFC 4733 events, or set dtmf = "inband" for this endpoint',
        next=f"gateway events --leg {heard.leg}",
    )


def _dropped(heard: Heard) -> Fault | None:
    if not heard.stats.digits_dropped:
        return None
    return Fault(
        code=Code.DTMF_DROPPED,
        layer=Layer.DIGITS,
        leg=heard.leg,
        what=f"{heard.stats.digits_dropped} digits were not sent: 64 were waiting already",
        remedy="they come quicker than they can be sent: a digit and its pause take 200 ms",
        next=f"gateway trace {heard.leg}",
    )


def _drift(heard: Heard) -> Fault | None:
    ppm = heard.stats.drift_ppm
    if ppm is None or abs(ppm) < DRIFT_PPM:
        return None
    return Fault(
        code=Code.CLOCK_DRIFT,
        layer=Layer.FAR_END,
        leg=heard.leg,
        what=(
            f"its clock is {abs(ppm):.0f} ppm too {'slow' if ppm > 0 else 'fast'}: a frame is "
            f"{'missing' if ppm > 0 else 'too many'} every {0.02e6 / abs(ppm):.0f} s"
        ),
        remedy="let the far end take its clock from the network (NTP, or the line card's timing)",
        next=f"gateway capture {heard.leg} --follow",
    )


def _ip(at: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = at.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _place(leg: str) -> str:
    return leg.rpartition("#")[0]


RULES: Final[tuple[_Rule, ...]] = (
    _packets, _elsewhere, _payload_type, _srtp, _refused, _sent, _silence, _loss, _remote_loss,
    _starved, _jitter, _clipped, _low, _echo, _digits, _dropped, _drift,
)  # fmt: skip
"""One for each thing that can be wrong with a stream; another transport adds its own here."""
