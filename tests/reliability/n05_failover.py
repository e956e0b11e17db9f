"""5: the first server of a trunk falls silent and comes back; then the name server does."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time

from tests.reliability import invariants
from tests.reliability.daemon import CALLER
from tests.reliability.lab import Lab
from tests.reliability.net import CLIENT, FAR, FURTHER
from tests.reliability.sippers import caller

FAILOVER_S = 4.0
RETURN_S = 60.0
FIRST, SECOND = FAR, FURTHER[0]
TRUNK = """
[adapters.sip.trunks.called]
peer = "sip:carrier.test;transport=udp"
keepalive_s = 5
no_response_s = 3
calls = 10000
"""


async def run(lab: Lab) -> None:
    """Calls go on by the second server within 4 s, back to the first within 60 s of its return;
    without a name server the known addresses serve."""
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
    assert program, "dnsmasq is not installed"
    names = subprocess.Popen(
        lab.net.command(
            "b", program, "--keep-in-foreground", "--conf-file=/dev/null", "--port=5353",
            "--no-resolv", "--no-hosts", f"--listen-address={FAR}", "--bind-interfaces",
            "--local-ttl=10", "--local=/test/", "--user=root",
            f"--pid-file={lab.home / 'dns.pid'}",
            f"--host-record=a.carrier.test,{FIRST}", f"--host-record=b.carrier.test,{SECOND}",
            "--srv-host=_sip._udp.carrier.test,a.carrier.test,5060,10,1",
            "--srv-host=_sip._udp.carrier.test,b.carrier.test,5060,20,1",
        ),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    lab.net.processes.append(names)
    await _through(lab, names)


async def _through(lab: Lab, names: subprocess.Popen[bytes]) -> None:
    # They answer OPTIONS as well, which SIPp's scenario does not.
    one, other = lab.party("b", FIRST), lab.party("b", SECOND, first_hz=2003)
    await lab.start(trunks=CALLER + TRUNK, sip=f'nameservers = ["{FAR}:5353"]', media_timeout_s=0)
    probe = lab.party("b", FURTHER[1])
    await caller(lab.net, lab.home / "warm", 10, 10, 200).done(30)
    lab.was = await invariants.before(lab.daemon, lab.net)
    # The trunk's own OPTIONS go on: they are transactions too.
    lab.may_differ = ('adapter_holds{adapter="sip",what="transactions"}', "tasks")
    seconds = 60.0
    n = int(5 * seconds)
    calling = caller(lab.net, lab.home / "calls", n, 5, 500)
    await asyncio.sleep(5.0)
    lab.check(one.seen["INVITE"] > 0, "the first server gets no calls")
    one.mute = True
    await asyncio.sleep(FAILOVER_S + 3.0)
    after = calling.figures()["FailedCall(C)"]
    before = other.seen["INVITE"]
    await asyncio.sleep(8.0)
    taken = other.seen["INVITE"] - before
    lab.check(taken >= 5 * 8 * 0.8, f"the second server got {taken} calls in 8 s")
    one.mute = False
    back, began = one.seen["INVITE"], time.monotonic()
    while one.seen["INVITE"] < back + 10 and time.monotonic() - began < RETURN_S + 5:
        await asyncio.sleep(0.5)
    took = time.monotonic() - began
    lab.check(took <= RETURN_S, f"it took {took:.0f} s to return to the first server")
    await calling.done(n / 5 + 60)
    figures = calling.figures()
    lab.check(
        figures["FailedCall(C)"] == 0, f"{figures['FailedCall(C)']} calls failed ({after} at first)"
    )
    lab.figure(calls=figures["SuccessfulCall(C)"], back_after_s=round(took, 1))

    names.terminate()
    names.wait(5)
    # Longer than the records live.
    seconds = 600.0 if lab.full else 30.0
    n = int(5 * seconds)
    calling = caller(lab.net, lab.home / "dark", n, 5, 500)
    slowest = 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        took = sorted([await probe.options() for _ in range(20)])[18]
        slowest = max(slowest, took)
        await asyncio.sleep(1.0)
    await calling.done(60)
    figures = calling.figures()
    lab.check(
        figures["SuccessfulCall(C)"] == n,
        f"{figures['SuccessfulCall(C)']} of {n} calls without a name server",
    )
    lab.check(slowest <= 0.25, f"the loop stood for {1000 * slowest:.0f} ms without a name server")
    lab.figure(without_dns=figures["SuccessfulCall(C)"], slowest_options_ms=round(1000 * slowest))
    end = lab.party("a", CLIENT, first_hz=400)
    lab.expected = {}
    await lab.judge(end, probe, records=False)
