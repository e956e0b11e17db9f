"""Digits that a telephone tells twice: as events in its audio (RFC 4733) and by INFO; with SIPp."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.events import DigitPressed
from tests.interop.peers import box
from tests.interop.sipp_flow import Flow, perform, sdp
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="SIPp plays events from a raw socket: root"),
]

TOLD = HOUSE.replace('number = "202"', 'number = "202"\ndtmf = "info"')
RELAY = "application/dtmf-relay"


def info(flow: Flow, digit: str) -> Flow:
    return flow.inside("INFO", body=f"Signal={digit}\nDuration=100", kind=RELAY).gets(200)


async def test_events_and_late_copies_by_info_are_pressed_once(tmp_path: Path) -> None:
    async with box(TOLD, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.3)
        anna.steps.append('<nop><action><exec play_dtmf="12"/></action></nop>')
        anna.pause(0.8)
        info(info(anna, "1"), "2").pause(0.5)
        # What comes alone is a key of its own.
        info(anna.pause(2.2), "3").pause(0.3).hangs_up()
        bert = phone(gateway, "bert").answers(body=sdp())
        for digit in "123":
            bert.takes("INFO", f"Signal= ?{digit}").reply(200)
        await perform(tmp_path, anna, bert.is_hung_up())
        ways = [e.event.via for e in gateway.seen if isinstance(e.event, DigitPressed)]
    assert ways.count("rfc4733") == 2
    assert ways.count("info") == 3
