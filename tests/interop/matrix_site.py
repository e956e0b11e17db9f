"""The site of the matrix: one gateway with every adapter, and foreign programs around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.lab.intercom_bus import CallPoint, CallPointBus
from gateway.lab.linecard import LineCard
from gateway.lab.softphone import Softphone
from gateway.testing.audio import tone, write_wav
from tests.adapters.modbus_peer import Device, device
from tests.adapters.mqtt_broker import Broker, Subscriber, subscribed
from tests.interop.matrix_parties import (
    CallPointUser,
    Handset,
    NodeUser,
    OnTheAir,
    OutsideLine,
    Party,
    SipPhone,
    TransceiverUser,
)
from tests.interop.peers import Box, Kamailio, box, phone
from tests.interop.svxlink import Node

NETWORKS = ("sip", "pyvoip", "fxs", "fxo", "intercom", "radio")
NUMBERS = {
    "sip": "201", "pyvoip": "261", "fxs": "211", "fxo": "251", "intercom": "231", "radio": "241",
}  # fmt: skip
TARGETS = {
    "sip": "sip/anna", "pyvoip": "pyvoip/line:dora", "fxs": "fxs/1", "fxo": "fxo/out:78",
    "intercom": "intercom/a", "radio": "radio/north",
}  # fmt: skip
PAGE_NUMBER, HALL_NUMBER, MEETING_NUMBER = "700", "701", "900"
ALARM_HZ = 1000.0
"""What the announcement of an alarm sounds like."""
CARL_HZ = 2500.0
"""The telephone that is paged."""
ACK_RELAYS = {"contacts": 20, "levels": 21}
"""Coils that tell the two devices of an acknowledgement."""
SIREN_COIL = 10
ACK_KEY = 50
"""The discrete input that acknowledges."""
_BEAT_S = 0.01
STANDSTILL_S = 0.15
"""A program that stands still for longer is dead for what is around it: guards release, stations
let go, calls are lost, as they should be."""
NEXT = "sip/bert"
"""Who is called when nobody takes an alarm."""
_COLLEAGUES = {
    "sip": "sip/bert", "pyvoip": "pyvoip/erik", "fxs": "fxs/2", "intercom": "intercom/b",
}  # fmt: skip
"""Whom somebody of the same network calls."""


def _route(name: str, **fields: Any) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in fields.items()]
    return "\n".join([f'[[routes]]\nname = "{name}"', *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _calls() -> list[str]:
    """Whatever is dialled, from wherever."""
    zones = ["page/hall", "page/yard", "page/staff", "intercom/everywhere", "sip/carl"]
    return [
        _route("page", called=PAGE_NUMBER, page=zones),
        _route("one zone", called=HALL_NUMBER, page=["page/hall"]),
        _route("meeting", called=MEETING_NUMBER, conference="crisis", push_to_talk="*#",
               targets=[TARGETS[each] for each in NETWORKS[1:]]),
        # What comes from the other PBX has its prefix for us in front.
        _route("page from the PBX", called=f"9{PAGE_NUMBER}", page=zones,
               **{"from": ["pyvoip/line"]}),
        *(
            _route(f"{prefix}{network}", called=f"{prefix}{number}", targets=[TARGETS[network]],
                   push_to_talk="*#")
            for prefix in ("", "9")
            for network, number in NUMBERS.items()
        ),
        _route("second at the PBX", called="9262", targets=["pyvoip/line:erik"]),
        _route("second telephone", called="(2XX)", targets=["directory:{1}"], push_to_talk="*#"),
    ]  # fmt: skip


def _alarms() -> list[str]:
    outputs = [
        {"endpoint": endpoint, "output": output, "after": 0.0}
        for endpoint, output in (
            ("mqtt/plant", "siren"), ("modbus/contacts", "siren"), ("intercom/b", "relay"),
        )
    ]  # fmt: skip
    announce = {"file": "alarm.wav", "repeat": 0, "gap_s": 0.1}
    found = [
        _route("alarm to the hall", on="alarm", priority="emergency", kind=["m-page"],
               page=["page/hall"], announce={"file": "alarm.wav", "repeat": 2}),
        _route("key", on="input", **{"from": ["intercom/b"]}, input="a", value=1.0,
               command={"endpoint": "modbus/levels", "verb": "ACKNOWLEDGE"}),
    ]  # fmt: skip
    for network in NETWORKS:
        common = {
            "on": "alarm", "priority": "emergency", "strategy": "until_acknowledged",
            "announce": announce,
        }  # fmt: skip
        found += [
            _route(f"alarm to {network}", **common, kind=[f"{each}-{network}" for each in "mcl"],
                   targets=[TARGETS[network]], outputs=outputs, ring_s=20,
                   acknowledge="talk" if network == "radio" else "1"),
            _route(f"alarm that {network} does not take", **common, kind=[f"e-{network}"],
                   targets=[TARGETS[network], NEXT], ring_s=2.0, acknowledge="1",
                   acknowledge_s=5.0),
        ]  # fmt: skip
    return found


def _modbus(port: int) -> str:
    text = ""
    for name, relay in ACK_RELAYS.items():
        text += (
            f'[adapters.modbus.devices.{name}]\nhost = "127.0.0.1"\nport = {port}\npoll_s = 0.05\n'
            f'ack_relay = "told"\n'
            f"[adapters.modbus.devices.{name}.relays.told]\naddress = {relay}\n"
        )
    text += f"[adapters.modbus.devices.contacts.relays.siren]\naddress = {SIREN_COIL}\n"
    text += (
        f"[adapters.modbus.devices.contacts.contacts.key]\naddress = {ACK_KEY}\ndebounce_ms = 40\n"
        'acknowledges = ["modbus/contacts"]\n'
    )
    for at, network in enumerate(NETWORKS):
        text += (
            f"[adapters.modbus.devices.contacts.contacts.{network}]\naddress = {at}\n"
            f'debounce_ms = 40\nalarm = {{ kind = "c-{network}" }}\n'
            f"[adapters.modbus.devices.levels.registers.{network}]\naddress = {at}\n"
            f'hi = 10.0\nkind = "l-{network}"\n'
        )
    return text


_MQTT = """
[adapters.mqtt]
host = "127.0.0.1"
port = {port}
[adapters.mqtt.devices.plant]
ack_topic = "plant/ack"
[[adapters.mqtt.devices.plant.topics]]
topic = "plant/{{place}}/fire"
[[adapters.mqtt.devices.plant.topics.alarms]]
alarm = "{{place}}"
path = "/state"
raised = ["ALARM"]
cleared = ["NORMAL"]
kind_path = "/kind"
severity = "critical"
[adapters.mqtt.devices.plant.outputs.siren]
topic = "plant/siren/set"
retain = true
"""
_PAGE = """
[adapters.page]
interface = "127.0.0.1"
[adapters.page.zones.hall]
group = "239.0.1.1:5004"
[adapters.page.zones.yard]
dialect = "poly"
[adapters.page.zones.staff]
dialect = "spa"
group = "239.0.1.2:5006"
"""
_INTERCOM = """
[adapters.intercom]
port = "{path}"
baud = 921600
[adapters.intercom.stations]
a = {{ address = 1, number = "231", duplex = "full" }}
b = {{ address = 2, number = "232", duplex = "full" }}
[adapters.intercom.zones.everywhere]
address = 255
"""
_SIP = """
digest = ["MD5"]
codecs = ["PCMU"]
[adapters.sip.phones]
anna = { password = "a1", number = "201", calls = 1 }
bert = { password = "b1", number = "202" }
carl = { password = "c1", number = "203", auto_answer = true }
"""


@dataclass(eq=False)
class Site:
    """Everything that a cell may use."""

    box: Box
    people: dict[str, Party]
    """By endpoint: those who are called."""
    lines_in: dict[str, OutsideLine]
    """Outside lines by the number that their calls reach."""
    radios_in: dict[str, TransceiverUser]
    """Radios by the number that they call."""
    carl: Softphone
    listener_station: CallPoint
    io: Device
    broker: Broker
    told: Subscriber
    still: list[float]
    """How long this program stood still, each time that it did."""

    def caller(self, network: str, number: str) -> Party:
        """Somebody of a network who can call this number."""
        if network == "fxo":
            return self.lines_in[number]
        if network == "radio":
            return self.radios_in[number]
        return self.people[endpoint(network)]

    def callee(self, network: str, caller: str = "") -> Party:
        """Somebody who can be called there, and is not the caller."""
        at = endpoint(network)
        if network == caller:
            at = _COLLEAGUES.get(network, at)
        return self.people[at]


def endpoint(network: str) -> str:
    """The endpoint that stands for a network."""
    return TARGETS[network].partition(":")[0]


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[Site]:
    """Set everything up. Call it in a network of its own: pages are multicast."""
    sounds = home / "sounds"
    sounds.mkdir(parents=True)
    write_wav(sounds / "alarm.wav", tone(ALARM_HZ, 1.5))
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.enter_context(first_served())
        reached = (*NUMBERS.values(), PAGE_NUMBER)
        card = await enter(LineCard.start(fxs=2, fxo=1 + len(reached)))
        bus = await enter(CallPointBus(a := CallPoint(1, True), b := CallPoint(2, True)))
        still = stack.enter_context(_standstill(bus))
        broker = Broker(home)
        broker.start()
        stack.callback(broker.kill)
        io = await enter(device("tcp", "0"))
        proxy = await enter(Kamailio(home / "kam", {"gw": "gwpw", "dora": "dorapw", "erik": "e1"}))
        node = await enter(Node(home / "svx"))
        north = NodeUser("radio/north", NUMBERS["radio"], 1550, node)
        radios_in = {
            number: TransceiverUser(f"radio/to-{number}", "", 1400) for number in reached
        }  # fmt: skip
        for radio in radios_in.values():
            stack.callback(radio.close)
            air = asyncio.create_task(radio.air())
            stack.callback(air.cancel)
        configuration = "\n".join([
            _analog(card, reached), _INTERCOM.format(path=bus.path), _PAGE,
            _MQTT.format(port=broker.port), "[adapters.modbus]", _modbus(io.port),
            _pyvoip(proxy), _radios(north, radios_in), *_calls(), *_alarms(),
        ])  # fmt: skip
        found = await enter(box(_SIP, configuration, home=home))
        anna = await enter(phone(home, "anna", "a1", found, hz=500))
        bert = await enter(phone(home, "bert", "b1", found, hz=560))
        carl = await enter(phone(home, "carl", "c1", found, hz=CARL_HZ, answer="auto"))
        dora = await enter(phone(home, "dora", "dorapw", proxy.at, hz=640))
        erik = await enter(phone(home, "erik", "e1", proxy.at, hz=400))
        await dora.registered()
        await erik.registered()
        told = await enter(subscribed(broker, "plant/ack"))
        gateway_at, proxy_at = f"127.0.0.1:{found.port}", f"{proxy.address}:{proxy.port}"
        everybody: tuple[Party, ...] = (
            SipPhone("sip", "sip/anna", "201", 500, phone=anna, at=gateway_at),
            SipPhone("sip", "sip/bert", "202", 560, phone=bert, at=gateway_at),
            SipPhone("pyvoip", "pyvoip/line", "261", 640, phone=dora, at=proxy_at, prefix="9"),
            Handset("fxs/1", "211", 730, card, 1),
            Handset("fxs/2", "212", 810, card, 2),
            OutsideLine("fxo/out", "251", 900, card, 3),
            CallPointUser("intercom/a", "231", 1130, a),
            CallPointUser("intercom/b", "232", 1270, b),
            north,
        )
        lines_in = {
            number: OutsideLine(f"fxo/to-{number}", "", 1050, card, 4 + at)
            for at, number in enumerate(reached)
        }
        # A device is up when it has said something.
        # Kept by the broker: the gateway may not have subscribed yet.
        await broker.publish("plant/start/fire", '{"state": "NORMAL"}', "-r")
        await found.up(
            "sip/carl", "page/hall", "page/yard", "page/staff", "intercom/everywhere",
            "mqtt/plant", "modbus/contacts", "modbus/levels",
            *(each.endpoint for each in (*everybody, *lines_in.values(), *radios_in.values())),
        )  # fmt: skip
        people = {each.endpoint: each for each in everybody}
        people["pyvoip/erik"] = SipPhone("pyvoip", "pyvoip/line", "262", 400, phone=erik,
                                         at=proxy_at, prefix="9")  # fmt: skip
        yield Site(
            box=found, people=people, lines_in=lines_in,
            radios_in=radios_in, carl=carl, listener_station=b, io=io, broker=broker, told=told,
            still=still,
        )  # fmt: skip


@contextlib.contextmanager
def first_served() -> Iterator[None]:
    """The gateway has its machine for itself, or before the others that share it with a test."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextlib.contextmanager
def _standstill(bus: CallPointBus) -> Iterator[list[float]]:
    """The stations share a thread with the gateway, so a busy machine stops both.

    What it gives is how long this program stood still each time it did.
    """
    loop = asyncio.get_running_loop()
    found: list[float] = []

    def beat(due: float) -> None:
        nonlocal timer
        late = loop.time() - due
        # A handle, not a task: it comes before the stations look at the clock.
        bus.forgive(max(0.0, late - _BEAT_S))
        if late > STANDSTILL_S:
            found.append(late)
        timer = loop.call_later(_BEAT_S, beat, loop.time() + _BEAT_S)

    timer = loop.call_later(_BEAT_S, beat, loop.time() + _BEAT_S)
    try:
        yield found
    finally:
        timer.cancel()


def _analog(card: LineCard, reached: tuple[str, ...]) -> str:
    quick = (
        'kind = "fxo"\ncaller_id = "off"\ndial_tone_s = 0.0\ndial_delay_s = 0.3\n'
        'answer = ["polarity"]\n'
    )
    text = f'[adapters.analog]\ndevice_dir = "{card.directory}"\n'
    for port in (1, 2):
        text += (
            f'[adapters.analog.ports.{port}]\nkind = "fxs"\nnumber = "21{port}"\nflash_ms = 0\n'
            'caller_id = "off"\n'
        )
    text += f'[adapters.analog.ports.3]\n{quick}name = "out"\n'
    for at, number in enumerate(reached):
        text += (
            f'[adapters.analog.ports.{4 + at}]\n{quick}name = "to-{number}"\nhotline = "{number}"\n'
        )
    return text


def _pyvoip(proxy: Kamailio) -> str:
    return (
        f'[adapters.pyvoip]\nserver = "{proxy.address}"\nport = {proxy.port}\nuser = "gw"\n'
        'password = "gwpw"\nlocal_ip = "127.0.0.1"\nexpires_s = 30\ncalls = 2\n'
    )


def _radios(north: OnTheAir, radios_in: dict[str, TransceiverUser]) -> str:
    text = ""
    users: list[tuple[OnTheAir, str]] = [(north, "")]
    users += [(radio, number) for number, radio in radios_in.items()]
    for radio, calls in users:
        fields = {
            "transmit": True, "number": radio.number, "calls": calls, "idle_s": 1.5,
            **radio.config,
        }  # fmt: skip
        text += f"[adapters.radio.radios.{radio.endpoint.partition('/')[2]}]\n"
        text += "".join(f"{key} = {_toml(value)}\n" for key, value in fields.items())
    return text
