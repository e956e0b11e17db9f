"""A call over a radio module as a technician sees it: the commands, and tshark; and texts between
the mobile network and SIPp's telephones.

The module is simulated (`gateway.lab.radio_module`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered, LegEnded, LegOffered
from gateway.lab.radio_module import RadioModule, delivered
from gateway.protocols.modem import pdu
from tests.interop.peers import box, need, until
from tests.interop.sipp_flow import finished, played
from tests.interop.test_capture import controlled, said, tshark
from tests.interop.test_sip_services import HOUSE, phone

pytestmark = pytest.mark.interop

ROUTES = """
[adapters.loopback.ports.bob]
number = "102"
tone_hz = 440.0

[adapters.lte]
kind = "modem"

[adapters.lte.modems.a]
port = "{port}"
audio = "{audio}"
calls = "102"
audio_within_s = 10
texts = "202"

[[routes]]
name = "out"
from = ["sip/*"]
called = "90X."
strip = 1
targets = ["lte/a:{{called}}"]

[[routes]]
name = "from outside"
from = ["lte/*"]
called = "102"
targets = ["loopback/bob"]
"""


async def test_the_at_dialogue_in_the_ladder_and_in_the_file() -> None:
    need("tshark")
    with tempfile.TemporaryDirectory(prefix="modem-") as name:
        async with RadioModule() as module:
            routes = ROUTES.format(port=module.path, audio=module.pcm_path)
            async with box("", routes, home=Path(name)) as gateway, controlled(gateway):
                await gateway.up("lte/a")
                module.say(module.ring("030123456"))
                leg = (await gateway.wait(LegOffered)).leg
                await gateway.wait(LegAnswered, lambda e: e.leg == leg)
                await until(lambda: len(module.heard) >= 1600, "it is spoken to")
                module.call = None
                module.say(b"\r\nNO CARRIER\r\n")
                await gateway.wait(LegEnded, lambda e: e.leg == leg)
                ladder = json.loads(await said(gateway, "trace", leg, "--json"))
                text = await said(gateway, "trace", "last")
                file = Path(name) / "one.pcapng"
                await said(gateway, "capture", ladder["trace"], "-o", str(file))
                shown = await said(gateway, "endpoints", "lte/a", "--detail")
                signals = tshark(file, "-Y", "syslog", "-T", "fields", "-e", "syslog.msg")
                assert not tshark(file, "-Y", "_ws.malformed")
    wires = [
        (item["kind"], item["text"]) for item in ladder["items"]
        if item["lane"] == "lte/a" and item["kind"] in ("in", "out")
    ]  # fmt: skip
    for each in (("in", "RING"), ("in", '+CLIP: "030123456",129'), ("out", "AT+QPCMV=1,0"),
                 ("out", "ATA"), ("in", "OK"), ("in", "NO CARRIER")):  # fmt: skip
        assert each in wires, wires
    assert wires.index(("out", "AT+QPCMV=1,0")) < wires.index(("out", "ATA"))
    # The module has a column of its own, with the leg's events beside what was said.
    head = next(line for line in text.splitlines() if line.split()[:2] == ["gateway", "lte"])
    column = head.index("lte")
    marks = {line.split(maxsplit=1)[1]: line[column] for line in text.splitlines() if "ATA" in line}
    assert set(marks.values()) == {"<"}
    assert "at: ATA" in text
    assert any("ATA" in line for line in signals)
    assert any("NO CARRIER" in line for line in signals)
    for fact in ("Simulated Net", "LTE", "-79 dBm", "texts"):
        assert fact in shown


async def test_texts_between_sip_and_the_mobile_network(tmp_path: Path) -> None:
    need("sipp")
    async with RadioModule() as module:
        routes = ROUTES.format(port=module.path, audio=module.pcm_path)
        async with box(HOUSE, routes) as gateway:
            await gateway.up("lte/a")
            writer = phone(gateway, "anna").send(
                "MESSAGE", "90170123", body="Pegel hoch: 4 m, наводнение", kind="text/plain"
            )
            await played(writer.gets(202).program(tmp_path, "writes"))
            await until(module.texts, "a text is sent")
            assert module.texts() == [("0170123", "Pegel hoch: 4 m, наводнение")]
            reader = phone(gateway, "bert")
            await reader.registered(tmp_path)
            reader.takes("MESSAGE", "I am on my way", "From: .*sip:.49170123@").reply(200)
            async with reader.program(tmp_path, "reads") as reads:
                for part in pdu.submitted("+49170123", "I am on my way", 1):
                    module.say(module.deliver(delivered(part.hexadecimal)))
                await finished(reads)
            assert not module.stored
