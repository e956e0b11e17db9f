"""One alarm over many networks: one trace, as the commands of a technician show it."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import LegAnswered, LegEnded
from tests.adapters.page_stand import own_network
from tests.cards import needs_card
from tests.interop.matrix_parties import OnTheAir
from tests.interop.matrix_site import Site
from tests.interop.matrix_site import site as everything
from tests.interop.peers import need, until
from tests.interop.test_capture import controlled, said, tshark

TRACE = re.compile(r"trace ([0-9a-f-]{36})")
pytestmark = [pytest.mark.interop, needs_card]


async def alarm(site: Site, network: str) -> str:
    """The panel's broker raises an alarm; somebody of a network hears it and takes it."""
    box, person = site.box, site.callee(network)
    person.prepare()
    skip = len(box.seen)
    raised = json.dumps({"state": "ALARM", "kind": f"m-{network}"})
    await site.broker.publish(f"plant/hall-{network}/fire", raised)
    await person.answer()
    answered = await box.wait(
        LegAnswered, lambda e: e.leg.startswith(f"{person.endpoint}#"), skip=skip
    )
    if isinstance(person, OnTheAir):
        await until(lambda: person.keyed, "the announcement begins")
        await until(lambda: not person.keyed, "it is over", 30.0)
        await person.speak()
    else:
        await person.press("1")
    await box.wait(LegEnded, lambda e: e.leg == answered.leg, skip=skip, within_s=30.0)
    if isinstance(person, OnTheAir):
        await person.be_quiet()
    await person.rest()
    cleared = json.dumps({"state": "NORMAL", "kind": f"m-{network}"})
    await site.broker.publish(f"plant/hall-{network}/fire", cleared)
    await until(lambda: not box.gateway.switchboard.calls, "no call any more")
    return answered.leg


def wires(ladder: dict[str, Any]) -> dict[str, list[str]]:
    """What went over the wires of a trace: texts by endpoint."""
    found: dict[str, list[str]] = {}
    for item in ladder["items"]:
        if item["kind"] in ("in", "out"):
            found.setdefault(item["lane"], []).append(item["text"])
    return found


async def test_an_alarm_in_one_ladder_and_one_file() -> None:
    need("baresip", "kamailio", "mosquitto", "sox", "tshark", "svxlink")
    pytest.importorskip("pyVoIP")
    with tempfile.TemporaryDirectory(prefix="ladder-") as name, own_network():
        home = Path(name)
        async with everything(home) as site, controlled(site.box):
            seen = {}
            for network in ("fxs", "radio", "sip"):
                leg = await alarm(site, network)
                seen[network] = json.loads(await said(site.box, "trace", leg, "--json"))
            text = await said(site.box, "trace", seen["fxs"]["trace"])
            file = home / "all.pcapng"
            await said(site.box, "capture", "--last", "5m", "-o", str(file))
            one = home / "one.pcapng"
            await said(site.box, "capture", seen["fxs"]["trace"], "-o", str(one))
            told = list(site.told.lines)
            protocols = set(" ".join(fields_of(file)).split(":"))
            comments = "\n".join(tshark(one, "-T", "fields", "-e", "frame.comment"))
            signals = "\n".join(tshark(file, "-Y", "syslog", "-T", "fields", "-e", "syslog.msg"))
    traces = {network: ladder["trace"] for network, ladder in seen.items()}
    assert len(set(traces.values())) == 3
    for network, ladder in seen.items():
        # The broker's message begins it, everybody who has to do with it is in it.
        names = [item["name"] for item in ladder["items"]]
        lanes = wires(ladder)
        order = [names.index(name) for name in ("AlarmRaised", "OpenAlarm", "Dial", "LegAnswered")]
        assert order == sorted(order)
        assert names.count("AlarmRaised") == 1, "the other alarms have ladders of their own"
        assert {"Play", "MediaFlowing", "AcknowledgeAlarm", "CloseAlarm", "LegEnded"} <= set(names)
        assert f"route 'alarm to {network}'" in json.dumps(ladder["items"]).replace('\\"', "'")
        assert any(f"plant/hall-{network}/fire" in words for words in lanes["mqtt/plant"])
        assert any("WriteSingleCoil" in words for words in lanes["modbus/contacts"])
        assert lanes["intercom/bus"], "the frames of the station whose relay is switched"
        # And the trace leaves with what is told.
        assert any(traces[network] in words for words in lanes["mqtt/plant"])
        assert any(f"hall-{network}" in line and traces[network] in line for line in told)
    phone = wires(seen["fxs"])["fxs/1"]
    assert any(words.startswith("ring ") for words in phone)
    assert "hook off_hook" in phone
    assert [item["text"] for item in seen["fxs"]["items"] if item["name"] == "DigitPressed"]
    assert "digit=?" in text
    radio = wires(seen["radio"])["radio/north"]
    for edge in ("ptt 1", "ptt 0", "carrier 1", "carrier 0"):
        assert edge in radio, radio
    sip = "\n".join(wires(seen["sip"])["sip/anna"])
    assert "INVITE" in sip
    assert traces["sip"].replace("-", "") in sip, "Session-ID (RFC 7989)"
    # The file of the last minutes holds the same, and tshark knows what it knows.
    assert {"sip", "mqtt", "mbtcp", "modbus", "syslog"} <= protocols
    assert set(TRACE.findall(comments)) == {traces["fxs"]}
    for words in ("ring_off_hook", "ptt 1", "carrier 1", "aa 55 "):
        assert words in signals


def fields_of(file: Path) -> list[str]:
    """Protocols of each packet, as ``ip:udp:sip``."""
    return [f"{line}:" for line in tshark(file, "-T", "fields", "-e", "frame.protocols")]
