"""A telephone behind the kernel's NAT, which gives it other ports in the middle of a call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered
from gateway.lab import softphone
from tests.interop.kernel_nat import HERE, INSIDE, OUTSIDE, KernelNat, why_not
from tests.interop.peers import Box, Program, box, microphone, need, phone, until

pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(why_not()), reason=why_not())]

PHONES = """
listen = ["udp:127.0.0.1:0", "udp:10.88.177.2:0"]
codecs = ["PCMU"]
digest = ["MD5"]
inside = ["192.168.0.0/16", "127.0.0.0/8"]
min_expires_s = 10
keepalive_s = 0
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
"""


def behind(nat: KernelNat, home: Path, port: int) -> Program:
    """A baresip behind the NAT that answers by itself, registering each nine seconds."""
    need("baresip")
    directory = home / "bert"
    (directory / "heard").mkdir(parents=True)
    config = softphone._CONFIG.format(
        address=INSIDE, sip=5060, transport="udp", microphone=microphone(home, 440), rtp=7000,
        rtp_last=7040, modules=softphone._MODULES, control=4444,
        heard=directory / "heard", extra="",
    )  # fmt: skip
    (directory / "config").write_text(config.replace("127.0.0.1", INSIDE))
    (directory / "accounts").write_text(
        f"<sip:bert@{HERE}:{port}>;auth_pass=b1;audio_codecs=PCMU/8000/1;answermode=auto;regint=10\n"
    )
    (directory / "contacts").touch()
    return Program(nat.inside(["baresip", "-4", "-s", "-f", str(directory)]), directory)


def sip_port(gateway: Box) -> int:
    """The gateway's port on the network before the NAT."""
    (port,) = [s.local[1] for s in gateway.sip._wires._udp if s.local[0] == HERE]
    return int(port)


async def test_a_nat_that_rebinds_in_mid_call(tmp_path: Path) -> None:
    with KernelNat() as nat:
        async with (
            box(PHONES) as gateway,
            behind(nat, tmp_path, sip_port(gateway)) as bert,
            phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        ):
            await gateway.up("sip/anna", "sip/bert")
            now = gateway.gateway.hosts["sip"].now
            (binding,) = gateway.sip._phones.bindings("bert", now())
            assert INSIDE in binding.contact
            assert binding.flow.host == OUTSIDE
            await anna.dial(gateway.uri("202"))
            await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/bert"))
            leg = gateway.sip._calls._legs["sip/bert#1"]
            stream = leg.audio.stream
            assert stream is not None
            # Its ACK arrived, or baresip would not speak for long; its audio comes by the NAT.
            await until(lambda: stream.stats().remote.startswith(f"{OUTSIDE}:300"), "audio by NAT")
            await asyncio.sleep(5.2)  # the window for learning is over
            nat.rebind("31000-31099")
            await until(lambda: stream.stats().moves, "the new port is learned", 5.0)
            assert stream.stats().remote.startswith(f"{OUTSIDE}:310")
            n_received = stream.stats().packets_received
            await until(lambda: stream.stats().packets_received > n_received + 50, "audio goes on")
            # Its next REGISTER moves the dialog too: our BYE reaches it.
            await until(
                lambda: gateway.sip._phones.bindings("bert", now())[0].flow.port >= 31000,
                "it registers by the new port", 15.0,
            )  # fmt: skip
            await anna.hang_up()
            await bert.says("BYE sip:bert-")
            await gateway.legs(2)
