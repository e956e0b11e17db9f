"""11: a serial line pulled in the middle of a frame again and again, noise on it, calls up."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import Any

from tests.adapters.modbus_peer import Cable, Device
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

OFFLINE_S = 3.0
BACK_S = 5.0
ABSENT_CPU = 0.02
LEVEL = 1234
MODBUS = """
[adapters.modbus.lines.pulled]
device = "{pulled}"
[adapters.modbus.lines.other]
device = "{other}"
[adapters.modbus.devices.plant]
line = "pulled"
unit = 7
timeout_s = 0.2
registers.level = {{ address = 5 }}
relays.siren = {{ address = 1 }}
[adapters.modbus.devices.neighbour]
line = "other"
unit = 7
registers.level = {{ address = 5 }}
"""


async def run(lab: Lab) -> None:
    """Lost and found in time, nothing wrong is read, outputs are safe, neighbours do not notice."""
    cables, devices = [], []
    for name in ("pulled", "other"):
        (lab.home / name).mkdir()
        cables.append(Cable(lab.home / name))
        await cables[-1].plug()
        devices.append(Device("rtu", cables[-1].ends[1], "7"))
        await devices[-1].start()
        devices[-1].tell(f"hr 5 {LEVEL}")
    try:
        await _run(lab, cables[0], *devices)
        await lab.daemon.stop()
    finally:
        for device in devices:
            device.stop()
        for cable in cables:
            cable.unplug()


async def _run(lab: Lab, cable: Cable, device: Device, neighbour: Device) -> None:
    other = str(lab.home / "other" / "a")
    await lab.start(routes=MODBUS.format(pulled=cable.ends[0], other=other))
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    await lab.warm(caller)
    lab.check(await _is(lab, "up", BACK_S), "the device is not found at the start")
    began = time.time()
    pairs = await lab.talk(caller, called, lab.load)
    chance = random.Random(11)
    n_cycles, away_s = (50, 20.0) if lab.full else (5, 5.0)
    offline, back, more, rates = 0.0, 0.0, [], []
    for _ in range(n_cycles):
        await _noise(cable, chance)
        here = await _used(lab, neighbour, away_s)
        _write(cable, b"\x07\x03\x02\x04")
        device.stop()
        cable.unplug()
        offline = max(offline, await _until(lab, "down", OFFLINE_S))
        away = await _used(lab, neighbour, away_s)
        more.append(away[0] - here[0])
        rates.append(away[1] / max(1.0, here[1]))
        await cable.plug()
        await device.start()
        device.tell(f"hr 5 {LEVEL}")
        # Somebody has switched it meanwhile.
        device.tell("co 1 1")
        back = max(back, await _until(lab, "up", BACK_S))
        await device.coil_is(1, False, within_s=BACK_S)
    cpu = sorted(more)[len(more) // 2]
    lab.check(cpu <= ABSENT_CPU, f"its absence takes {100 * cpu:.1f} % of a core")
    rate = sorted(rates)[len(rates) // 2]
    lab.check(rate >= 0.9, f"the other line is polled {100 * rate:.0f} % as often meanwhile")
    wrong = await _read(lab, began) - {float(LEVEL)}
    lab.check(not wrong, f"values that nobody sent: {sorted(wrong)[:5]}")
    await lab.hear(pairs, what="after")
    await lab.end(caller, pairs)
    noise = (await lab.daemon.metrics()).get(
        'crosspoint_adapter_counts_total{adapter="modbus",what="modbus.noise_octets"}', 0.0
    )
    lab.check(noise > 0, "no noise was counted")
    lab.figure(
        cycles=n_cycles, offline_after_s=round(offline, 2), back_after_s=round(back, 2),
        absent_cpu_percent=round(100 * cpu, 1), other_line_percent=round(100 * rate),
        noise_octets=int(noise),
    )  # fmt: skip
    await lab.judge(caller, probe)


async def _condition(lab: Lab) -> str:
    found = await lab.daemon.get("endpoints")
    return next((str(each["condition"]) for each in found if each["id"] == "modbus/plant"), "")


async def _is(lab: Lab, condition: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while await _condition(lab) != condition:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def _until(lab: Lab, condition: str, within_s: float) -> float:
    """Seconds until the device is so."""
    began = time.monotonic()
    lab.check(await _is(lab, condition, within_s), f"not {condition} after {within_s:g} s")
    return time.monotonic() - began


async def _used(lab: Lab, neighbour: Device, seconds: float) -> tuple[float, float]:
    """Share of a core that the gateway uses for a while, and how often the other line is asked."""
    n_asked, cpu, began = len(neighbour.asked), lab.daemon.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return (lab.daemon.cpu_s() - cpu) / took, (len(neighbour.asked) - n_asked) / took


def _write(cable: Cable, octets: bytes) -> None:
    """As if the device said it."""
    line = os.open(cable.ends[1], os.O_WRONLY | os.O_NOCTTY)
    try:
        os.write(line, octets)
    finally:
        os.close(line)


async def _noise(cable: Cable, chance: random.Random) -> None:
    """Two seconds of random octets, and of what begins as an answer and is none."""
    for number in range(40):
        _write(cable, chance.randbytes(chance.randint(1, 30)))
        _write(cable, b"\x07\x03\x02" + chance.randbytes(4) + bytes((number,)))
        await asyncio.sleep(0.05)


async def _read(lab: Lab, began: float) -> set[Any]:
    """What the journal says that was read of the register, while it was good."""
    text = await lab.daemon.get("events", since=began, until=time.time(), follow="false")
    found = set()
    for line in text.splitlines():
        data = json.loads(line)["data"]
        if data.get("input") == "level" and data.get("quality", "good") == "good":
            found.add(data["value"])
    return found
