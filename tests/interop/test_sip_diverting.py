"""Forwarded calls as a carrier sees them, and as it tells of them; SIPp is the carrier."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.actions import Dial
from gateway.core.events import Diversion
from tests.interop.peers import box
from tests.interop.sipp_flow import Flow, perform

pytestmark = pytest.mark.interop

HOUSE = """
codecs = ["PCMU"]
digest = ["MD5"]
keepalive_s = 0
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.trunks.carrier]
peer = "sip:127.0.2.35:{port}"
keepalive_s = 0
{policy}
"""
OUT = '[[routes]]\nname = "out"\ncalled = "0X."\ntargets = ["sip/carrier:{called}"]\n'
IN = '[[routes]]\nname = "in"\nfrom = ["sip/carrier"]\ntargets = ["sip/bert"]\n'


def forwarding(bert: Flow, reason: str) -> Flow:
    """Bert sends his calls to 0301234, saying why."""
    bert.takes("INVITE").reply(302, f"Diversion: <sip:bert@phone>;reason={reason}", again=True)
    bert.steps[-1] = bert.steps[-1].replace("sip:bert@[local_ip]:[local_port]", "sip:0301234@x.y")
    return bert.takes("ACK")


@pytest.mark.parametrize(
    ("policy", "wanted", "absent"),
    [
        ('diversion = "diversion"', ["Diversion: <sip:202@127.0.0.1>;reason=user-busy"],
         ["History-Info", "bert@phone"]),
        ('diversion = "both"\nnumber = "+49300"',
         ["Diversion: <sip:.49300@127.0.0.1>;reason=user-busy",
          "History-Info: <sip:.49300@127.0.0.1>;index=1",
          "History-Info: <sip:0301234@.*;cause=486>;index=1.1;mp=1"], ["bert@phone", "sip:202@"]),
        ("", [], ["Diversion", "History-Info"]),
    ],
)  # fmt: skip
async def test_a_phone_forwards_to_a_carrier(
    tmp_path: Path, policy: str, wanted: list[str], absent: list[str]
) -> None:
    carrier = Flow("carrier", None, address="127.0.2.35")
    async with box(HOUSE.format(port=carrier.port, policy=policy), OUT) as gateway:
        carrier.box = gateway
        carrier.takes("INVITE", "INVITE sip:0301234@", *wanted, absent=absent)
        carrier.reply(200, body=SDP, again=True).takes("ACK").settled().is_hung_up()
        anna = Flow("anna", gateway, password="a1").call("202").talks().pause(0.2).hangs_up()
        bert = forwarding(Flow("bert", gateway, password="b1"), "user-busy")
        await perform(tmp_path, anna, bert, carrier)


SDP = (
    "v=0\no=s 1 1 IN IP4 [local_ip]\ns=-\nc=IN IP4 [media_ip]\nt=0 0\n"
    "m=audio [media_port] RTP/AVP 0\n"
)


@pytest.mark.parametrize("believed", [True, False])
async def test_a_carrier_tells_who_sent_the_call_on(tmp_path: Path, believed: bool) -> None:
    carrier = Flow("carrier", None, address="127.0.2.35")
    policy = 'diversion = "history-info"' if believed else ""
    async with box(HOUSE.format(port=carrier.port, policy=policy), IN) as gateway:
        carrier.box = gateway
        carrier.call(
            "5551", "History-Info: <sip:4711@far>;index=1",
            "History-Info: <sip:5551@box;cause=408>;index=1.1;mp=1",
        ).talks().pause(0.2).hangs_up()  # fmt: skip
        bert = Flow("bert", gateway, password="b1")
        line = "Diversion: <sip:4711@127.0.0.1>;reason=no-answer"
        bert.takes(
            "INVITE", *([line] if believed else []), absent=[] if believed else ["Diversion"]
        )
        bert.reply(200, body=SDP, again=True).takes("ACK").settled().is_hung_up()
        await perform(tmp_path, carrier, bert)
        dial = await gateway.wait(Dial)
        told = (Diversion(number="4711", reason="no-answer"),)
        assert dial.diverted == (told if believed else ())
