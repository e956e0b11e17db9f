"""Why is there no audio: what a call's counters say, in a technician's words."""

from __future__ import annotations

from typing import Final

from gateway.control.shapes import CallView, Finding, LegView
from gateway.core.calls import LegState
from gateway.media.streams import StreamStats

SETTLE_S: Final = 2.0
"""A leg that was answered this recently is not judged: its first packets are on their way."""
SILENT_S: Final = 5.0
LOSS_PERCENT: Final = 2.0
"""Concealment hides single packets; from about here gaps are heard."""
JITTER_MS: Final = 40.0
LATE_PERCENT: Final = 1.0
OVERLOAD_DBM0: Final = -1.0


def findings(call: CallView) -> list[Finding]:
    """What explains missing or bad audio; most decisive first within each leg."""
    found: list[Finding] = []
    for leg in call.legs:
        for what, remedy in _of_leg(leg, call):
            found.append(Finding(leg=leg.id, what=what, remedy=remedy))
    return found


def _of_leg(leg: LegView, call: CallView) -> list[tuple[str, str]]:
    talks = leg.state in (LegState.CONNECTED, LegState.HELD)
    if not talks:
        if leg.early or leg.state is LegState.CLOSING:
            return []
        return [(f"is {leg.state}: there is no audio before it is answered", "wait, or hang up")]
    found: list[tuple[str, str]] = []
    if leg.state is LegState.HELD:
        found.append(("the far end put us on hold", "take the call off hold there"))
    waits = [each.id for each in call.legs if each.answered_s is None and each is not leg]
    if not leg.bridge and waits:
        found.append((f"waits for {', '.join(waits)} to answer", "wait, or hang up"))
    elif not leg.bridge:
        found.append(
            (
                "is joined with nobody: it hears a tone or an announcement, or waits for a digit",
                f"see what its route does: gateway events --call {call.id[-8:]} --last 50",
            )
        )
    if call.bridge == "floor":
        found += _floor(leg, call)
    settled = leg.answered_s is not None and leg.answered_s >= SETTLE_S
    if leg.audio is None:
        if settled:
            remedy = "see its adapter: gateway endpoints --counters, and the log"
            found.append(("has no audio stream", remedy))
    elif settled:
        found += _counters(leg.audio, listens=call.bridge == "page" and leg.direction == "out")
    return found


def _floor(leg: LegView, call: CallView) -> list[tuple[str, str]]:
    holder = next((other.id for other in call.legs if other.floor), None)
    if holder is None:
        return [
            (
                "half duplex and nobody has the floor: nobody is heard",
                "press to talk (radio: push-to-talk; telephone: as its route says)",
            )
        ]
    if holder == leg.id:
        return []
    return [(f"half duplex: only {holder} is heard now", "wait until it releases the floor")]


def _counters(audio: StreamStats, *, listens: bool) -> list[tuple[str, str]]:
    """What the counters of an answered leg's stream say."""
    found: list[tuple[str, str]] = []
    arrived = audio.packets_received
    whence = f" from {audio.remote}" if audio.remote else ""
    if not arrived and not audio.packets_refused and not listens and audio.codec:
        port = audio.local.rpartition(":")[2]
        remedy = (
            f"the far end does not send to {audio.local}, or a firewall or NAT drops it: "
            f"tcpdump -n udp port {port}"
            if port
            else "nothing was read from the device: look at its wiring and driver"
        )
        found.append((f"nothing has arrived{whence}", remedy))
    if audio.packets_refused > max(5, arrived // 10):
        found.append(
            (
                f"{audio.packets_refused} packets refused: not from{whence[5:] or ' the agreed'} "
                "address, or not of the agreed payload type",
                "the far end must send from the address in its SDP and with the codec agreed",
            )
        )
    if audio.digits_dropped:
        found.append(
            (
                f"{audio.digits_dropped} digits were not sent: 64 were waiting already",
                "they come quicker than they can be sent: a digit and its pause take 200 ms",
            )
        )
    if not audio.packets_sent and audio.codec:
        found.append(
            (
                "we send nothing: the far end's address is unknown, or it asked us not to",
                "look for hold (a=sendonly, a=inactive) or a missing answer in the far end's SDP",
            )
        )
    if arrived and audio.silent_s >= SILENT_S and not listens:
        found.append(
            (
                f"packets arrive, but nothing louder than -60 dBm0 for {audio.silent_s:.0f} s",
                "muted, wrong microphone, or open pair at the far end: let somebody speak there",
            )
        )
    expected = arrived + audio.packets_lost
    loss = 100.0 * audio.packets_lost / expected if expected else 0.0
    if loss >= LOSS_PERCENT:
        found.append(
            (f"{loss:.1f} % of the packets are lost on the way to us", f"the network{whence}")
        )
    if audio.remote_loss_percent >= LOSS_PERCENT:
        found.append(
            (
                f"the far end loses {audio.remote_loss_percent:.1f} % of what we send",
                f"the network towards {audio.remote or 'it'}",
            )
        )
    if arrived and 100.0 * audio.packets_late / arrived >= LATE_PERCENT:
        found.append(
            (
                f"{audio.packets_late} packets came too late to be played "
                f"(jitter {audio.jitter_ms:.0f} ms)",
                "the network; or allow a deeper jitter buffer on this adapter",
            )
        )
    elif audio.jitter_ms >= JITTER_MS:
        found.append((f"jitter is {audio.jitter_ms:.0f} ms: speech is delayed", "the network"))
    if audio.level_in_dbm0 >= OVERLOAD_DBM0:
        found.append(
            (f"overloaded: {audio.level_in_dbm0:+.0f} dBm0 arrive", "lower the gain there or here")
        )
    return found
