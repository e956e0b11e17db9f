"""Calls with one fault each, injected by foreign programs, all at the same time on one gateway.

`run` gives for each of them the verdict while it was up, and the verdict that journal and records
give when the gateway does not run any more.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.adapters.loopback import Loopback
from gateway.config import Configuration
from gateway.control.desk import Desk
from gateway.control.questions import DiagnosisQuery
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmRaised,
    HangupRequested,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
)
from gateway.diagnosis import Diagnosis, diagnose, gather
from gateway.diagnosis.faults import RANK, Code
from gateway.diagnosis.verdict import CLEAN
from gateway.lab.linecard import BUSY_TONE, Exchange, LineCard
from gateway.runtime import Gateway
from gateway.testing.audio import tone
from tests.adapters.mqtt_broker import Broker
from tests.interop.matrix_parties import TransceiverUser
from tests.interop.matrix_site import first_served
from tests.interop.peers import (
    HERE,
    Box,
    Kamailio,
    Program,
    box,
    need,
    phone,
    sipp,
    until,
)

CARRIER = "127.0.2.30"
OTHER = "127.0.2.31"
SEALED = "127.0.2.32"
KEY = base64.b64encode(bytes(range(30))).decode()
WRONG_KEY = base64.b64encode(bytes(range(30, 60))).decode()
SUITE = "AES_CM_128_HMAC_SHA1_80"
# Nobody's, public, and out of reach from a network of its own.
NOWHERE = "192.88.98.7"
PRIVATE = "10.99.99.99"
STALLS = (Code.LOSS, Code.STARVED, Code.CLOCK_DRIFT)
N_PORTS = 48
FORBIDDEN = 42
"""Port whose caller this machine's packet filter lets nothing be sent to."""

SIP = f"""
digest = ["MD5"]
codecs = ["PCMU"]
srtp_over = "any"
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.phones.nobody]
password = "n1"
number = "299"
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:5060"
keepalive_s = 0
calls = 60
[adapters.sip.trunks.sealed]
peer = "sip:{SEALED}:5060"
keepalive_s = 0
srtp = "required"
"""
LOOPBACK = "[adapters.loopback]\n" + "".join(
    f"[adapters.loopback.ports.t{n}]\nnumber = \"9{n:02}\"\ntone_hz = 425.0\n"
    for n in range(N_PORTS)
)  # fmt: skip
ROUTES = "".join(
    f'[[routes]]\nname = "{n}"\ncalled = "9{n:02}"\ntargets = ["loopback/t{n}"]\n'
    for n in range(N_PORTS)
)  # fmt: skip
ROUTES += "".join(
    f'[[routes]]\nname = "{number}"\ncalled = "{number}"\ntargets = ["{target}"]\n'
    for number, target in {
        "299": "sip/nobody", "0811": "sip/refused:100", "0812": "sip/gone:100", "0827": "fxo/7:100",
        "0831": "radio/quiet", "0832": "radio/second",
        "073": "loopback/t33", "074": "loopback/t34", "075": "loopback/t35", "076": "loopback/t36",
        "078": "loopback/t39",
    }.items()
)  # fmt: skip
ROUTES += (
    '[[routes]]\nname = "alarm"\non = "alarm"\ntargets = ["loopback/t22"]\nacknowledge = "1"\n'
    'acknowledge_s = 30.0\nstrategy = "until_acknowledged"\nannounce = { tone = "busy" }\n'
)
MQTT = """
[adapters.mqtt]
host = "127.0.0.1"
port = {port}
[adapters.mqtt.devices.plant]
[[adapters.mqtt.devices.plant.topics]]
topic = "plant/{{place}}/fire"
[[adapters.mqtt.devices.plant.topics.alarms]]
alarm = "{{place}}"
path = "/state"
raised = ["ALARM"]
cleared = ["NORMAL"]
severity = "critical"
"""


async def verdict(gateway: Gateway, which: str) -> Diagnosis:
    """What the control interface says of a call."""
    return await Desk(gateway).diagnosis(DiagnosisQuery(id=which))


def said(found: Diagnosis) -> str:
    """The verdict besides what a machine that stands still does to audio, and is rightly said."""
    faults = [fault.code for leg in found.legs for fault in leg.faults]
    rest = sorted((code for code in faults if code not in STALLS), key=lambda code: RANK[code])
    return rest[0] if rest else CLEAN if found.code in STALLS else found.code


@dataclass
class Verdicts:
    """Of one call."""

    up: Diagnosis | None = None
    over: Diagnosis | None = None
    trace: str = ""


@dataclass(eq=False)
class Site:
    """The gateway, and what is needed to call it."""

    box: Box
    home: Path
    sounds: dict[str, Path]
    sender: Program
    proxy: Kamailio
    card: LineCard
    broker: Broker
    radios: dict[str, TransceiverUser]
    expected: Callable[[str, Diagnosis], bool] = lambda _name, _found: True
    found: dict[str, Verdicts] = field(default_factory=dict)

    def send(self, **wish: Any) -> None:
        """Let a stream be sent."""
        wish = {
            "octets": str(self.sounds["speech"]), "type": 0, "seconds": 4.0, "interval_s": 0.02,
            "lose": 0, "stall_s": 0.0, "digits": "", "talk_s": 0.0, "pause_s": 0.0,
            "digit_packets": 25, "digit_ms": 0, "report_percent": 0,
        } | wish  # fmt: skip
        process = self.sender.process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(wish).encode() + b"\n")

    async def judge(self, name: str, leg: str) -> None:
        """Note the verdict on a call that is up."""
        self.found[name] = known = self.found.get(name) or Verdicts()
        for _ in range(8):  # what has just happened is on its way to the journal
            known.up = await verdict(self.box.gateway, leg)
            known.trace = known.up.trace
            if not known.up.live or self.expected(name, known.up):
                break
            await asyncio.sleep(0.2)

    async def ended(self, name: str, offered: LegOffered) -> None:
        """Note a call, and wait for its end."""
        await self.box.wait(LegEnded, lambda e: e.leg == offered.leg, within_s=40)
        known = self.found.setdefault(name, Verdicts())
        known.trace = offered.trace


def octets(home: Path) -> dict[str, Path]:
    """Sounds as mu-law octets, made by a foreign encoder."""
    need("sox")
    home.mkdir(parents=True, exist_ok=True)
    wishes = {
        # Bursts of a tone with pauses, on a floor of noise: as lively as speech.
        "speech": "synth 0.6 sine 500 vol 0.25 : synth 0.4 whitenoise vol 0.004",
        "digital silence": "trim 0 1",
        "noise": "synth 1 whitenoise vol 0.0003",
        "clipped": "synth 1 sine 500 gain 12",
        "low": "synth 0.6 sine 500 vol 0.003 : synth 0.4 sine 500 vol 0.0015",
    }  # fmt: skip
    found = {}
    for name, effects in wishes.items():
        found[name] = home / f"{name}.ul"
        parts = []
        for n, effect in enumerate(effects.split(" : ")):
            part = home / f"{name}-{n}.wav"
            source = ["-n", "-r", "8000", "-b", "16", "-c", "1"]
            subprocess.run(
                ["sox", "-D", *source, str(part), *effect.split()], check=True, timeout=20
            )
            parts.append(str(part))
        subprocess.run(["sox", "-D", *parts, "-t", "ul", str(found[name])], check=True, timeout=20)
    found["digital silence"].write_bytes(b"\xff" * 8000)
    found["keys"] = home / "keys.ul"
    pairs = [(697, 1209), (770, 1336), (852, 1477), (941, 1336)]
    parts = []
    for n, (low, high) in enumerate(pairs):
        part = home / f"key-{n}.wav"
        subprocess.run(
            ["sox", "-D", "-n", "-r", "8000", "-b", "16", "-c", "1", str(part), "synth", "0.15",
             "sine", str(low), "synth", "sine", "mix", str(high), "vol", "0.3", "pad", "0", "0.35"],
            check=True, timeout=20, capture_output=True,
        )  # fmt: skip
        parts.append(str(part))
    parts += [str(home / f"speech-{n}.wav") for n in range(2)]
    subprocess.run(["sox", "-D", *parts, "-t", "ul", str(found["keys"])], check=True, timeout=20)
    return found


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[Site]:
    """A gateway, and everything that its calls need."""
    sounds = await asyncio.to_thread(octets, home / "sounds")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(first_served())
        enter = stack.enter_async_context
        sender = await enter(
            Program([sys.executable, str(HERE / "rtp_sender.py")], home / "sender")
        )
        proxy = await enter(Kamailio(home / "kam", {"gw": "gwpw"}))
        card = await enter(LineCard.start(fxs=2, fxo=6))
        broker = Broker(home)
        broker.start()
        stack.callback(broker.kill)
        radios = {
            "quiet": TransceiverUser("radio/quiet", "", 500),
            "first": TransceiverUser("radio/first", "", 600),
            "second": TransceiverUser("radio/second", "", 700),
        }
        for radio in radios.values():
            stack.callback(radio.close)
            air = asyncio.create_task(radio.air())
            stack.callback(air.cancel)
        sip = (
            SIP
            + f"""
[adapters.sip.trunks.gone]
peer = "sip:{proxy.address}:{proxy.port}"
keepalive_s = 0.5
no_response_s = 0.5
[adapters.sip.trunks.refused]
peer = "sip:{proxy.address}:{proxy.port}"
register = true
user = "gw"
password = "wrong"
"""
        )
        more = LOOPBACK + _analog(card) + _radios(radios) + MQTT.format(port=broker.port) + ROUTES
        gateway = await enter(box(sip, more, home=home))
        await broker.publish("plant/start/fire", '{"state": "NORMAL"}', "-r")
        await gateway.up(
            "loopback/t0", "sip/carrier", "fxs/1", "mqtt/plant",
            *(f"fxo/{n}" for n in range(3, 9)), *(f"radio/{name}" for name in radios),
        )  # fmt: skip
        yield Site(gateway, home, sounds, sender, proxy, card, broker, radios)


def _analog(card: LineCard) -> str:
    text = (
        f'[adapters.analog]\ndevice_dir = "{card.directory}"\n'
        '[adapters.analog.ports.1]\nkind = "fxs"\nnumber = "211"\nflash_ms = 0\n'
        'caller_id = "off"\n'
    )
    rules = {5: "silence_s = 3.0", 6: "max_call_s = 4.0"}
    for port in range(3, 9):
        text += (
            f'[adapters.analog.ports.{port}]\nkind = "fxo"\ncaller_id = "off"\n'
            f'dial_tone_s = 0.0\nguard_s = 0.3\nfault_s = 0.5\nhotline = "07{port}"\n'
            f"{rules.get(port, '')}\n"
        )
    return text


def _radios(radios: dict[str, TransceiverUser]) -> str:
    text = ""
    for name, radio in radios.items():
        fields = {
            "transmit": True, "idle_s": 1.5, "calls": "0832" if name == "first" else "",
            "full_duplex": name == "second", **radio.config,
        }  # fmt: skip
        text += f"[adapters.radio.radios.{name}]\n"
        text += "".join(f"{key} = {_toml(value)}\n" for key, value in fields.items())
    return text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


# One call each


async def carrier_calls(
    site: Site,
    name: str,
    n: int,
    *,
    address: str = CARRIER,
    caddr: str = CARRIER,
    family: str = "IP4",
    source: str | None = CARRIER,
    way: str = "sendrecv",
    profile: str = "AVP",
    more: str = "ptime:20",
    seconds: float = 5.0,
    judge: bool = True,
    key: str = "",
    **wish: Any,
) -> None:
    """SIPp calls port `n`; the audio that it promised comes from `source`, or not at all. With a
    key it comes from FFmpeg, encrypted."""
    # Below the ports that the system gives to whoever asks for any.
    media = 20000 + 2 * n
    number, skip = f"9{n:02}", len(site.box.seen)
    async with contextlib.AsyncExitStack() as stack:
        caller = await stack.enter_async_context(sipp(
            site.home / f"sipp-{n}", "diag.xml", f"127.0.0.1:{site.box.port}", address=address,
            arguments=("-s", number, "-key", "caddr", caddr, "-key", "family", family,
                       "-key", "mport", str(media), "-key", "way", way,
                       "-key", "profile", profile, "-key", "more", more,
                       "-d", str(round(seconds * 1000))),
        ))  # fmt: skip
        offered = await site.box.wait(LegOffered, lambda e: e.called == number, skip=skip)
        await site.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
        if source:
            stream = site.box.gateway.patchbay.stream(offered.leg)
            assert stream is not None
            if key:
                await stack.enter_async_context(
                    _encrypted(site.home / f"ffmpeg-{n}", source, media, stream.local, key)
                )
            else:
                ends = {"from": [source, media], "to": list(stream.local)}
                site.send(**ends | {"seconds": seconds - 0.3} | wish)
        if judge:
            await asyncio.sleep(seconds - 1.8)
            await site.judge(name, offered.leg)
        await site.ended(name, offered)
        assert await caller.done(40) == 0, caller.said()


def _encrypted(home: Path, source: str, port: int, to: tuple[str, int], key: str) -> Program:
    """FFmpeg sends a tone that comes and goes, in SRTP, a packet each 20 ms."""
    need("ffmpeg")
    tones = "aevalsrc=0.2*sin(2*PI*500*t)*lt(mod(t\\,1)\\,0.6)+0.003*(random(0)-0.5):s=8000:n=160"
    ends = f"{to[0]}:{to[1]}?localaddr={source}&localport={port}&localrtcpport={port + 1}"
    command = [
        "ffmpeg", "-loglevel", "error", "-re", "-f", "lavfi", "-i", tones,
        "-af", "asetnsamples=160:p=0", "-c:a", "pcm_mulaw", "-f", "rtp",
        "-srtp_out_suite", SUITE, "-srtp_out_params", key, f"srtp://{ends}&pkt_size=188",
    ]  # fmt: skip
    return Program(command, home)


async def _few_at_a_time(n: int, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Let calls be made; who could not be made is told of, and missing."""
    free = asyncio.Semaphore(n)

    async def one(call: Coroutine[Any, Any, None]) -> None:
        async with free:
            await call

    for failed in await asyncio.gather(*map(one, calls), return_exceptions=True):
        if isinstance(failed, BaseException):
            print("not played:", *traceback.format_exception(failed))


async def sip_calls(site: Site, only: Container[str] | None = None, at_once: int = 7) -> None:
    """What can be wrong with the audio of a SIP call; `only` these."""
    sounds = {name: str(path) for name, path in site.sounds.items()}
    calls: dict[str, tuple[int, dict[str, Any]]] = {}

    def call(name: str, n: int, **how: Any) -> None:
        calls[name] = n, how

    sealed: dict[str, Any] = {
        "address": SEALED, "caddr": SEALED, "source": SEALED, "profile": "SAVP",
        "more": f"crypto:1 {SUITE} inline:{KEY}",
    }  # fmt: skip
    # The long one first; the machine has other things to do.
    call("slow clock", 12, interval_s=0.02002, seconds=16.0)
    call("good", 0)
    call("private address", 1, caddr=PRIVATE, source=None)
    call("private address behind NAT", 2, caddr=PRIVATE)
    call("no packets", 3, source=None)
    call("from elsewhere", 4, source=OTHER)
    call("wrong payload type", 5, type=8)
    call("unencrypted", 38, **sealed)
    call("encrypted", 25, key=KEY, **sealed)
    call("wrong key", 26, key=WRONG_KEY, **sealed)
    call("address without a route", 27, caddr=NOWHERE, source=None)
    call("lossy there", 28, report_percent=25)
    call("muted", 6, octets=sounds["digital silence"])
    call("silence", 7, octets=sounds["noise"])
    call("clipped", 8, octets=sounds["clipped"])
    call("low", 9, octets=sounds["low"])
    call("lossy", 10, lose=8)
    call("starved", 11, stall_s=0.45)
    call("keys in the audio", 13, octets=sounds["keys"])
    call("keys twice", 14, octets=sounds["keys"], digits="123")
    call("hung up at once", 15, source=None, seconds=0.7, judge=False)
    call("put on hold from the start", 16, way="sendonly")
    call("no address", 41, caddr="::", family="IP6", source=None)
    call("own firewall", FORBIDDEN)
    call("too many keys", 43, digits="0123456789" * 12, digit_packets=3, digit_ms=400, seconds=9.0)
    wanted = {name: calls[name] for name in calls if only is None or name in only}
    await _few_at_a_time(
        at_once, [carrier_calls(site, name, n, **how) for name, (n, how) in wanted.items()]
    )


# Other networks


async def _loopback_calls(site: Site, name: str, n: int, number: str) -> LegOffered:
    """Somebody inside calls a number."""
    adapter = site.box.gateway.hosts["loopback"].adapter
    assert isinstance(adapter, Loopback)
    leg = adapter.call(f"t{n}", number)
    offered = await site.box.wait(LegOffered, lambda e: e.leg == leg)
    site.found[name] = Verdicts(trace=offered.trace)
    return offered


async def registrar_calls(site: Site) -> None:
    """A telephone that is not there, an account that is refused, a server that has gone."""
    box, proxy = site.box, site.proxy
    await site.ended("no route", await _loopback_calls(site, "no route", 20, "0999"))
    await site.ended("unregistered", await _loopback_calls(site, "unregistered", 20, "299"))
    await box.up("sip/refused", condition=Condition.DOWN)
    await box.up("sip/gone")
    await site.ended("refused account", await _loopback_calls(site, "refused account", 21, "0811"))
    # A number that this server does not know: it says so.
    await site.ended("refused call", await _loopback_calls(site, "refused call", 20, "0812"))
    process = proxy.process
    assert process is not None
    process.terminate()
    await process.wait()
    # The first call finds out by itself, the next one is told.
    await box.up("sip/gone", condition=Condition.DOWN)
    await site.ended("stopped server", await _loopback_calls(site, "stopped server", 21, "0812"))


async def broker_alarm(site: Site) -> None:
    """The broker of an alarm's source dies while people are told of it."""
    box, broker = site.box, site.broker
    await broker.publish("plant/hall/fire", '{"state": "ALARM"}')
    raised = await box.wait(AlarmRaised)
    site.found["stopped broker"] = Verdicts(trace=raised.trace)
    leg = await box.wait(LegAnswered, lambda e: e.leg.startswith("loopback/t22#"))
    await asyncio.to_thread(broker.kill)
    await box.up("mqtt/plant", condition=Condition.DOWN)
    await site.judge("stopped broker", leg.leg)
    box.gateway.emit(AcknowledgeRequested(endpoint="mqtt/plant", alarm=raised.alarm))


async def softphone_calls(site: Site) -> None:
    """baresip on hold, and muted."""
    box = site.box
    await asyncio.gather(_hold(site, box), _mute(site, box))


async def _hold(site: Site, box: Box) -> None:
    async with phone(site.home, "anna", "a1", box, hz=440) as anna:
        await box.up("sip/anna")
        await anna.dial(box.uri("917"))
        offered = await box.wait(LegOffered, lambda e: e.called == "917")
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(1.0)
        await anna.command("hold")
        await box.wait(LegHeld, lambda e: e.leg == offered.leg)
        await asyncio.sleep(1.5)
        await site.judge("hold", offered.leg)
        await anna.hang_up()
        await site.ended("hold", offered)


async def _mute(site: Site, box: Box) -> None:
    async with phone(site.home, "bert", "b1", box, hz=440) as bert:
        await box.up("sip/bert")
        await bert.dial(box.uri("918"))
        offered = await box.wait(LegOffered, lambda e: e.called == "918")
        await bert.wait("CALL_ESTABLISHED")
        await asyncio.sleep(1.0)
        await bert.command("mute")
        await asyncio.sleep(13.0)
        await site.judge("softphone muted", offered.leg)
        await bert.hang_up()
        await site.ended("softphone muted", offered)


async def analog_calls(site: Site) -> None:
    """How analog lines end calls, and one that has no current."""
    await asyncio.gather(
        _handset(site),
        exchange_calls(site),
        _no_current(site),
    )


async def _handset(site: Site) -> None:
    gate = site.card.telephone(1)
    for name, number, seconds in (("handset", "919", 4.0), ("on hook at once", "937", 1.0)):
        skip = len(site.box.seen)
        await gate.lift()
        await asyncio.sleep(0.4)
        await gate.dial_dtmf(number)
        offered = await site.box.wait(LegOffered, lambda e: e.endpoint == "fxs/1", skip=skip)
        await site.box.wait(LegAnswered, lambda e, o=offered: e.leg == o.leg)  # type: ignore[misc]
        await gate.say(tone(440.0, 6.0).tobytes())
        await asyncio.sleep(seconds)
        if seconds > 3:
            await site.judge(name, offered.leg)
        await gate.hang_up()
        await site.ended(name, offered)
        await gate.stop()
        await asyncio.sleep(1.5)


async def exchange_calls(site: Site, only: Container[str] | None = None) -> None:
    """How an exchange ends calls; `only` these."""
    calls = {
        "dropped current": (3, _drop), "busy tone": (4, _busy), "silence rule": (5, _nothing),
        "timer": (6, _talk_on), "reversed battery": (8, _reverse),
    }  # fmt: skip
    await asyncio.gather(
        *(_exchange_calls(site, name, *calls[name]) for name in calls if not only or name in only)
    )


async def _exchange_calls(
    site: Site, name: str, port: int, act: Callable[[Exchange], Awaitable[None]]
) -> None:
    exchange, skip = site.card.exchange(port), len(site.box.seen)
    await exchange.ring((800, 1200))
    offered = await site.box.wait(LegOffered, lambda e: e.endpoint == f"fxo/{port}", skip=skip)
    await site.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
    await exchange.stop_ring()
    await act(exchange)
    await site.ended(name, offered)
    await exchange.stop()


async def _drop(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 3.0).tobytes())
    await asyncio.sleep(1.0)
    await exchange.drop(600)


async def _reverse(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 3.0).tobytes())
    await asyncio.sleep(1.0)
    await exchange.battery("reversed")


async def _busy(exchange: Exchange) -> None:
    await exchange.tone(BUSY_TONE)


async def _nothing(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 1.0).tobytes())


async def _talk_on(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 10.0).tobytes())


async def _no_current(site: Site) -> None:
    await site.card.exchange(7).battery("off")
    await site.box.up("fxo/7", condition=Condition.DOWN)
    await site.ended("no current", await _loopback_calls(site, "no current", 23, "0827"))


async def radio_calls(site: Site) -> None:
    """Nobody on the air, and two who speak at once."""
    await asyncio.gather(_quiet(site), _doubling(site))


async def _quiet(site: Site) -> None:
    offered = await _loopback_calls(site, "no carrier", 24, "0831")
    leg = await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/quiet#"))
    await asyncio.sleep(6.0)
    await site.judge("no carrier", leg.leg)
    site.box.gateway.emit(HangupRequested(leg=leg.leg))
    await site.ended("no carrier", offered)


async def _doubling(site: Site) -> None:
    first, second = site.radios["first"], site.radios["second"]
    await first.speak()
    offered = await site.box.wait(LegOffered, lambda e: e.endpoint == "radio/first")
    leg = await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/second#"))
    await asyncio.sleep(0.5)
    await second.speak()
    await asyncio.sleep(1.5)
    await second.be_quiet()
    await asyncio.sleep(0.3)
    await site.judge("floor held", leg.leg)
    await first.be_quiet()
    await site.ended("floor held", offered)


async def pulled_plugs(site: Site) -> None:
    """A transceiver whose cables are pulled during a call, and one that is called without them."""
    radio = site.radios["quiet"]
    skip = len(site.box.seen)
    offered = await _loopback_calls(site, "plug pulled", 29, "0831")
    await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/quiet#"), skip=skip)
    await asyncio.sleep(1.0)
    radio.close()
    await site.box.up("radio/quiet", condition=Condition.DOWN)
    await site.ended("plug pulled", offered)
    await site.ended("no plug", await _loopback_calls(site, "no plug", 30, "0831"))


async def card_gone(site: Site) -> None:
    """The line card vanishes during a call."""
    offered = await _loopback_calls(site, "card gone", 31, "211")
    skip = len(site.box.seen)
    await site.card.telephone(1).lift()
    await site.box.wait(LegAnswered, lambda e: e.leg.startswith("fxs/1#"), skip=skip)
    await asyncio.sleep(1.0)
    await site.card.stop()
    await site.ended("card gone", offered)


async def other_calls(site: Site) -> None:
    """All but those of SIPp."""
    calls = (registrar_calls(site), radio_calls(site), analog_calls(site), broker_alarm(site))
    await _few_at_a_time(2, calls)


async def run(home: Path, expected: Callable[[str, Diagnosis], bool]) -> dict[str, Verdicts]:
    """All calls. A machine that stalls brings faults of its own into a call: whatever is not said
    as `expected` of SIP's audio and of a busy tone is played again, twice at most and with less
    beside it."""
    _forbid(CARRIER, 20000 + 2 * FORBIDDEN)
    async with site(home) as found:
        found.expected = expected
        calls = (sip_calls(found), softphone_calls(found), other_calls(found))
        await _few_at_a_time(3, calls)
        for at_once in (4, 2):
            configuration = found.box.gateway.configuration
            await asyncio.to_thread(found.box.gateway.store.drain, 5.0)
            wrong = {
                name for name, verdicts in found.found.items()
                if not expected(name, _over(configuration, verdicts.trace))
                or (verdicts.up is not None and not expected(name, verdicts.up))
            }  # fmt: skip
            await sip_calls(found, wrong, at_once)
            if "busy tone" in wrong:
                await exchange_calls(found, {"busy tone"})
        await _few_at_a_time(1, [pulled_plugs(found), card_gone(found)])
        # What could not be played to its end must not keep the others from being judged.
        for call in list(found.box.gateway.switchboard.calls):
            found.box.gateway.emit(HangupRequested(call=call))
        await until(lambda: not found.box.gateway.switchboard.calls, "no call any more", 20)
        configuration = found.box.gateway.configuration
    for verdicts in found.found.values():
        verdicts.over = _over(configuration, verdicts.trace)
    return found.found


def _over(configuration: Configuration, trace: str) -> Diagnosis:
    call, _ = gather.past(configuration.journal_dir, trace)
    gather.recorded(configuration.records_url, call)
    return diagnose(call)


def _forbid(address: str, port: int) -> None:
    """Let this network's packet filter drop whatever is sent there."""
    need("iptables")
    rule = ["-p", "udp", "-d", address, "--dport", str(port), "-j", "DROP"]
    subprocess.run(["iptables", "-w", "10", "-A", "OUTPUT", *rule], check=True, timeout=20)
