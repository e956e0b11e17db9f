"""One call for each fault, injected by a foreign program, and what `gateway diag` says of it.

Who injects what: SIPp its SDP, its hang-up, jitter and keys by INFO; FFmpeg the audio, from a wrong
address, of a wrong type, without a key, silent, too loud, too low, in bursts, by a slow clock;
iptables loss and a firewall; baresip hold, mute and reports of loss; Kamailio refusals and its own
end; mosquitto its end. `test_diag_alone.py` has what takes a gateway of its own.

What a line or a transceiver does - current, battery, tones, carrier, unplugged cables, echo of
its hybrid - comes from the lab's card and transceiver, which are ours: it is a matter of
electricity, and no program has any. The driver under them is tested with DAHDI's own elsewhere.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.events import HangupRequested, LegAnswered, LegEnded, LegOffered
from gateway.diagnosis import Diagnosis
from gateway.diagnosis.faults import RANK, Code, Fault, Layer
from tests.adapters.page_stand import own_network
from tests.cards import needs_card
from tests.interop import diag_run
from tests.interop.diag_site import STALLS, Verdicts, said, verdict
from tests.interop.matrix_parties import OnTheAir
from tests.interop.matrix_site import NUMBERS, PAGE_NUMBER
from tests.interop.matrix_site import Site as Everything
from tests.interop.matrix_site import site as everything
from tests.interop.peers import need, until

pytestmark = [pytest.mark.interop, needs_card]

CLEAN = "clean"
EXPECTED = {
    # call: the verdict, its layer, the endpoint it names, words of the sentence
    "good": (CLEAN, Layer.NONE, "", "BYE"),
    "handset": (CLEAN, Layer.NONE, "", "on hook"),
    "private address": (Code.SDP_ADDRESS, Layer.SIGNALLING, "sip/carrier", "10.99.99.99"),
    "private address behind NAT": (
        Code.SDP_ADDRESS, Layer.SIGNALLING, "sip/carrier", "they come from 127.0.2.30",
    ),
    "no packets": (Code.NO_PACKETS, Layer.NETWORK, "sip/carrier", "tcpdump -n udp port"),
    "from elsewhere": (Code.ELSEWHERE, Layer.NETWORK, "sip/carrier", "come from 127.0.2.31"),
    "wrong payload type": (
        Code.PAYLOAD_TYPE, Layer.SIGNALLING, "sip/carrier", "type 8, but 0 (PCMU)",
    ),
    "no RTP": (Code.ELSEWHERE, Layer.NETWORK, "sip/carrier", "they are no RTP of this call"),
    "unencrypted": (Code.SRTP, Layer.MEDIA, "sip/sealed", "cannot be decrypted"),
    "encrypted": (CLEAN, Layer.NONE, "", "BYE"),
    "wrong key": (Code.SRTP, Layer.MEDIA, "sip/sealed", "cannot be decrypted"),
    "address without a route": (
        Code.SDP_ADDRESS, Layer.SIGNALLING, "sip/carrier", "cannot be reached",
    ),
    "lossy there": (Code.LOSS, Layer.NETWORK, "sip/carl", "the far end loses"),
    "other end muted": (Code.MUTED, Layer.FAR_END, "sip/dora", "digital silence"),
    "lossy and low": (Code.LOSS, Layer.NETWORK, "sip/carrier", "% of the packets are lost"),
    "muted, from elsewhere": (
        Code.ELSEWHERE, Layer.NETWORK, "sip/carrier", "come from 127.0.2.31",
    ),
    "clipped, from a private address": (
        Code.SDP_ADDRESS, Layer.SIGNALLING, "sip/carrier", "they come from 127.0.2.30",
    ),
    "jitter": (Code.JITTER, Layer.NETWORK, "sip/carrier", "jitter is"),
    "muted": (Code.MUTED, Layer.FAR_END, "sip/carrier", "digital silence"),
    "softphone muted": (Code.MUTED, Layer.FAR_END, "sip/bert", "digital silence"),
    "silence": (Code.SILENCE, Layer.FAR_END, "sip/carrier", "open pair"),
    "hold": (Code.HOLD, Layer.FAR_END, "sip/anna", "the far end"),
    "put on hold from the start": (Code.HOLD, Layer.FAR_END, "sip/carrier", "on hold"),
    "clipped": (Code.CLIPPED, Layer.FAR_END, "sip/carrier", "tops cut off"),
    "low": (Code.LOW_LEVEL, Layer.FAR_END, "sip/carrier", "too low"),
    "lossy": (Code.LOSS, Layer.NETWORK, "sip/carrier", "% of the packets are lost"),
    "starved": (Code.STARVED, Layer.NETWORK, "sip/carrier", "jitter buffer ran empty"),
    "slow clock": (Code.CLOCK_DRIFT, Layer.FAR_END, "sip/carrier", "ppm too slow"),
    "keys in the audio": (
        Code.DTMF_NOT_UNDERSTOOD, Layer.DIGITS, "sip/carrier", "digits as tones in the audio",
    ),
    "too many keys": (
        Code.DTMF_DROPPED, Layer.DIGITS, "sip/carl", "digits were not sent",
    ),
    "no address": (Code.NOT_SENT, Layer.SIGNALLING, "sip/carrier", "address is unknown"),
    "own firewall": (Code.NOT_SENT, Layer.GATEWAY, "sip/carrier", "own firewall forbids"),
    "hung up at once": (Code.EARLY_END, Layer.FAR_END, "sip/carrier", "after the answer: BYE"),
    "on hook at once": (Code.EARLY_END, Layer.FAR_END, "fxs/1", "the loop was opened"),
    "dropped current": (Code.EARLY_END, Layer.LINE, "fxo/3", "(CPC)"),
    "reversed battery": (
        Code.EARLY_END, Layer.LINE, "fxo/8", "the exchange reversed the battery",
    ),
    "busy tone": (Code.EARLY_END, Layer.LINE, "fxo/4", "the line played busy tone"),
    "silence rule": (Code.CUT_OFF, Layer.MEDIA, "fxo/5", "the silence rule"),
    "timer": (Code.CUT_OFF, Layer.SIGNALLING, "fxo/6", "max_call_s"),
    "no current": (Code.NO_LINE_CURRENT, Layer.LINE, "", "fxo/7 is down: no battery"),
    "no carrier": (Code.NO_CARRIER, Layer.RADIO, "radio/quiet", "never reported a carrier"),
    "plug pulled": (Code.DEVICE_DOWN, Layer.LINE, "radio/quiet", "is down"),
    "no plug": (Code.DEVICE_DOWN, Layer.LINE, "", "radio/quiet is down"),
    "card gone": (Code.DEVICE_DOWN, Layer.LINE, "fxs/1", "is down: "),
    "floor held": (Code.FLOOR_HELD, Layer.RADIO, "radio/second", "while radio/first#1 held"),
    "no route": (Code.NO_ROUTE, Layer.GATEWAY, "loopback/t20", "no route matched 0999"),
    "unregistered": (Code.REGISTRATION, Layer.SIGNALLING, "", "sip/nobody is down"),
    "refused account": (Code.REGISTRATION, Layer.SIGNALLING, "", "refused: 40"),
    "refused call": (Code.REFUSED, Layer.FAR_END, "sip/gone", "refused the call: 40"),
    "stopped server": (Code.TRUNK_DOWN, Layer.NETWORK, "", "sip/gone is down: no answer"),
    "stopped broker": (Code.TRUNK_DOWN, Layer.NETWORK, "", "mqtt/plant is down"),
}  # fmt: skip


ALONE = {Code.CRASHED, Code.ADAPTER_LOST, Code.NO_STREAM, Code.DTMF_DOUBLED, Code.ECHO}
"""Verdicts of `test_diag_alone.py`."""


def test_every_verdict_has_a_call() -> None:
    assert {expected[0] for expected in EXPECTED.values()} - {CLEAN} == {*Code} - ALONE


@pytest.fixture(scope="module")
def played() -> Iterator[dict[str, Verdicts]]:
    """All calls with a fault, played at the same time."""
    need("baresip", "ffmpeg", "sipp", "kamailio", "mosquitto", "sox")
    with tempfile.TemporaryDirectory(prefix="diag-") as home, own_network():
        yield asyncio.run(diag_run.run(Path(home), EXPECTED, _as_expected))


def _as_expected(name: str, found: Diagnosis) -> bool:
    if name not in EXPECTED:
        return True
    code, layer, _, words = EXPECTED[name]
    return (found.code, found.layer) == (code, layer) and (found.live or words in found.sentence)


def test_every_call_that_is_played_is_judged(played: dict[str, Verdicts]) -> None:
    assert set(played) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(played: dict[str, Verdicts], name: str) -> None:
    assert name in played, "it could not be played: see what the fixture wrote"
    verdicts = played[name]
    assert verdicts.over is not None
    _is(verdicts.over, name)
    if verdicts.up is not None:
        # On a busy machine the call may be over before it was looked at.
        code, found = EXPECTED[name][0], _faults(verdicts.up, name)
        assert (found[0].code if found else CLEAN) == code, verdicts.up


def _is(found: Diagnosis, name: str) -> None:
    code, layer, endpoint, words = EXPECTED[name]
    faults = _faults(found, name)
    assert found.next
    assert found.legs
    if code == CLEAN:
        assert faults == [], found
        assert found.fault or words in found.sentence
        return
    assert faults, found
    first = faults[0]
    assert (first.code, first.layer) == (code, layer), found
    assert first.leg.partition("#")[0] == endpoint
    assert words in f"{first.leg} {first.what}; {first.remedy}"


def _faults(found: Diagnosis, name: str) -> list[Fault]:
    """What is said, most decisive first, without what a machine that stands still does to audio:
    it does so to any call, and is rightly said of it."""
    code, words = EXPECTED[name][0], EXPECTED[name][3]
    first = [fault for leg in found.legs for fault in leg.faults]
    faults = list(dict.fromkeys([*first, *found.others]))
    if found.fault and found.code not in [fault.code for fault in faults]:
        faults.append(_whole(found))
    faults = [
        fault for fault in faults
        if fault.code not in STALLS or (fault.code == code and words in fault.what)
    ]  # fmt: skip
    return sorted(faults, key=lambda fault: RANK[fault.code])


def _whole(found: Diagnosis) -> Fault:
    """The verdict on a call as a whole, which is no leg's."""
    what, _, remedy = found.sentence.partition(": ")[2].partition("; ")
    return Fault(
        code=Code(found.code), layer=Layer(found.layer), leg=found.leg, what=what, remedy=remedy
    )


# Calls without fault


SECONDS = 4.0


async def _talk(
    site: Everything, caller: str, callee: str, number: str = ""
) -> tuple[str, Diagnosis]:
    """Two networks talk; the caller's leg, and what is said of the call while it is up."""
    box = site.box
    number = number or NUMBERS[callee]
    a, b = site.caller(caller, number), site.callee(callee, caller)
    for each in (a, b):
        each.prepare()
    skip = len(box.seen)
    await a.call(number)
    offered = await box.wait(LegOffered, lambda e: e.endpoint == a.endpoint, skip=skip)
    await b.answer()
    await box.wait(LegAnswered, lambda e: e.leg == offered.leg, skip=skip)
    await a.speak()
    await asyncio.sleep(0.5)
    if isinstance(b, OnTheAir):
        await asyncio.sleep(1.0)
    await b.speak()
    await asyncio.sleep(SECONDS)
    if isinstance(b, OnTheAir):
        await b.be_quiet()
    up = await verdict(box.gateway, offered.leg)
    assert up.live
    box.gateway.emit(HangupRequested(leg=offered.leg))
    await box.wait(LegEnded, lambda e: e.leg == offered.leg)
    for each in (a, b):
        await each.hang_up()
    return offered.leg, up


async def _page(site: Everything) -> tuple[str, Diagnosis]:
    """A telephone pages every zone."""
    box, caller = site.box, site.caller("fxo", PAGE_NUMBER)
    caller.prepare()
    skip = len(box.seen)
    await caller.call(PAGE_NUMBER)
    offered = await box.wait(LegOffered, lambda e: e.called == PAGE_NUMBER, skip=skip)
    await box.wait(LegAnswered, lambda e: e.leg.startswith("page/hall#"), skip=skip)
    await caller.speak()
    await asyncio.sleep(SECONDS)
    up = await verdict(box.gateway, offered.leg)
    box.gateway.emit(HangupRequested(leg=offered.leg))
    await box.wait(LegEnded, lambda e: e.leg == offered.leg)
    await caller.hang_up()
    return offered.leg, up


async def test_a_good_call_of_every_network_has_a_clean_bill() -> None:
    need("baresip", "kamailio", "mosquitto", "sox")
    pytest.importorskip("pyVoIP")
    with tempfile.TemporaryDirectory(prefix="good-") as home, own_network():
        async with everything(Path(home)) as site:
            plays = [
                lambda: _talk(site, "sip", "intercom"),
                lambda: _talk(site, "fxs", "fxo"),
                lambda: _talk(site, "fxo", "pyvoip"),
                lambda: _page(site),
                lambda: _talk(site, "sip", "radio"),
            ]
            calls = list(await asyncio.gather(*(play() for play in plays[:4])))
            # The radio after them: who calls it is free again.
            await _nobody_talks(site)
            calls.append(await plays[4]())
            await _nobody_talks(site)
            over = [await verdict(site.box.gateway, leg) for leg, _ in calls]
            for at, play in enumerate(plays):
                # What a machine that stands still does to audio is a fault indeed: once more.
                for _ in range(2):
                    if not (calls[at][1].fault or over[at].fault):
                        break
                    calls[at] = await play()
                    await _nobody_talks(site)
                    over[at] = await verdict(site.box.gateway, calls[at][0])
    assert [up for _, up in calls if said(up) != CLEAN] == []
    assert [found for found in over if said(found) != CLEAN or found.live] == []


async def _nobody_talks(site: Everything) -> None:
    await until(lambda: not site.box.gateway.switchboard.calls, "no call any more")
