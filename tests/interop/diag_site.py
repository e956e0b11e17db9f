"""The site whose calls are judged: one gateway, and the foreign programs around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.control.desk import Desk
from gateway.control.questions import DiagnosisQuery
from gateway.core.events import LegEnded, LegOffered
from gateway.diagnosis import Diagnosis
from gateway.diagnosis.faults import RANK, Code
from gateway.diagnosis.verdict import CLEAN
from gateway.lab.linecard import LineCard
from gateway.runtime import Gateway
from tests.adapters.mqtt_broker import Broker
from tests.interop import ffmpeg
from tests.interop.matrix_parties import TransceiverUser
from tests.interop.matrix_site import first_served
from tests.interop.peers import Box, Kamailio, box

CARRIER = "127.0.2.30"
OTHER = "127.0.2.31"
SEALED = "127.0.2.32"
STALLS = (Code.LOSS, Code.STARVED, Code.JITTER, Code.CLOCK_DRIFT)
N_PORTS = 48
SIP = f"""
digest = ["MD5"]
codecs = ["PCMU", "PCMA"]
srtp_over = "any"
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.phones.carl]
password = "c1"
number = "203"
[adapters.sip.phones.dora]
password = "d1"
number = "204"
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
        "203": "sip/carl", "204": "sip/dora",
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
    """WAV files by name."""
    proxy: Kamailio
    card: LineCard
    broker: Broker
    radios: dict[str, TransceiverUser]
    expected: Callable[[str, Diagnosis], bool] = lambda _name, _found: True
    found: dict[str, Verdicts] = field(default_factory=dict)

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


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[Site]:
    """A gateway, and everything that its calls need."""
    sounds = {
        name: await asyncio.to_thread(ffmpeg.sound, home / "sounds", name)
        for name in ("speech", "digital silence", "noise", "clipped", "low", "keys")
    }
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(first_served())
        enter = stack.enter_async_context
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
        yield Site(gateway, home, sounds, proxy, card, broker, radios)


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


async def few_at_a_time(n: int, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Let calls be made; who could not be made is told of, and missing."""
    free = asyncio.Semaphore(n)

    async def one(call: Coroutine[Any, Any, None]) -> None:
        async with free:
            await call

    for failed in await asyncio.gather(*map(one, calls), return_exceptions=True):
        if isinstance(failed, BaseException):
            print("not played:", *traceback.format_exception(failed))
