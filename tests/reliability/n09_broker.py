"""9: ``kill -9`` of the broker again and again, with calls up and events under way."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import time
from collections import Counter, defaultdict

from gateway.testing import until
from tests.adapters.mqtt_broker import Broker, Subscriber
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

AWAY_S = 30.0
PER_S = 5.0
"""Calls, of about ten events each."""
BACK_S = 60.0
"""The longest pause between two attempts."""
RETAINED_S = 5.0
KEEPALIVE_S = 5
DOUBLE = 1.05
MQTT = """
[adapters.mqtt]
host = "127.0.0.1"
port = {port}
box = "box1"
keepalive_s = {keepalive_s}
"""


async def run(lab: Lab) -> None:
    """Every event arrives in order, hardly any twice; retained state is right, the will seen."""
    if shutil.which("mosquitto") is None:
        lab.check(False, "mosquitto is not installed")
        return
    home = lab.home / "broker"
    home.mkdir()
    with lab.net.inside("b"):
        broker = Broker(home)
        broker.start()
    try:
        await _run(lab, broker)
        await lab.daemon.stop()
    finally:
        broker.kill()


async def _run(lab: Lab, broker: Broker) -> None:
    await lab.start(routes=MQTT.format(port=broker.port, keepalive_s=KEEPALIVE_S))
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    judge = Subscriber(broker, "gw/box1/event/#", "-c", "-i", "judge", "-x", "3600")
    with lab.net.inside("b"):
        await judge.start()
    try:
        await lab.warm(caller)
        pairs = await lab.talk(caller, called, lab.load)
        began = time.time()
        enough = asyncio.Event()
        calling = asyncio.create_task(lab.churn(caller, PER_S, enough))
        n_cycles, longest, slowest = (20 if lab.full else 2), 0.0, 0.0
        for _ in range(n_cycles):
            await asyncio.sleep(5.0)
            broker.kill()
            await asyncio.sleep(AWAY_S)
            back, retained = await _back(lab, broker, judge)
            longest, slowest = max(longest, back), max(slowest, retained)
        enough.set()
        talks = await calling
        refused = [talk.status for talk in talks if not talk.answered_at]
        lab.check(not refused, f"{len(refused)} calls were refused: {refused[:5]}")
        lab.expected |= {talk.calling: Expected(answered=bool(talk.answered_at)) for talk in talks}
        await lab.hear(pairs, what="after")
        await lab.end(caller, pairs)
        await _all(lab, broker, judge, began)
        lab.check(longest <= BACK_S, f"it took {longest:.0f} s to find the broker again")
        lab.check(slowest <= RETAINED_S, f"retained state was right after {slowest:.1f} s")
        lab.figure(cycles=n_cycles, back_after_s=round(longest, 1))
        await _will(lab, broker)
    finally:
        await judge.stop()
    await lab.judge(caller, probe)


async def _back(lab: Lab, broker: Broker, judge: Subscriber) -> tuple[float, float]:
    """Start the broker again; seconds until the gateway is there, and until its state is."""
    here = broker.log.count("New client connected")
    known = len(re.findall(r"New client connected .* as box1-mqtt", broker.log))
    with lab.net.inside("b"):
        broker.start()
    began = time.monotonic()

    def back() -> bool:
        found = re.findall(r"New client connected .* as box1-mqtt", broker.log)
        return len(found) > known

    await until(back, f"the gateway at the broker ({here} connections before)", BACK_S + 10.0)
    took = time.monotonic() - began
    began = time.monotonic()
    with lab.net.inside("b"):
        await broker.shows("gw/box1/status", "online")
    retained = time.monotonic() - began
    # Mosquitto confirms before it is on its disk: what it holds for a subscriber that is away it
    # may lose when it is killed next, which would be judged as our loss.
    await judge.wait(len(judge.lines) + 5, 60.0)
    return took, retained


async def _all(lab: Lab, broker: Broker, judge: Subscriber, began: float) -> None:
    """What the journal holds has come to the subscriber, in its order, and nothing else."""
    await asyncio.sleep(1.0)
    text = await lab.daemon.get("events", since=began, until=time.time(), follow="false")
    journal = [json.loads(line) for line in text.splitlines()]
    sent = [
        each["id"] for each in journal
        if ".event." in each["type"] and not each["type"].endswith(".DigitPressed")
    ]  # fmt: skip
    lab.check(len(sent) > 100, f"there were only {len(sent)} events")

    def documents() -> list[tuple[str, str]]:
        lines = [line.split("|", 2) for line in judge.lines]
        return [(topic, json.loads(payload)["id"]) for topic, _, payload in lines]

    deadline = time.monotonic() + 60.0
    while missing := set(sent) - {each for _, each in documents()}:
        if time.monotonic() > deadline:
            lab.check(False, f"{len(missing)} of {len(sent)} events have not come")
            break
        await asyncio.sleep(0.5)
    order = {each: at for at, each in enumerate(sent)}
    topics: dict[str, list[int]] = defaultdict(list)
    for topic, each in dict.fromkeys(documents()):
        if each in order:
            topics[topic].append(order[each])
    wrong = [topic for topic, places in topics.items() if places != sorted(places)]
    lab.check(not wrong, f"events out of order: {wrong}")
    # Where they arrive: mosquitto itself repeats to its subscriber after a kill.
    came = re.findall(r"Received PUBLISH from box1-mqtt \(.*'gw/box1/event/", broker.log)
    distinct = len({each for _, each in documents()})
    lab.check(len(came) <= DOUBLE * distinct, f"{len(came)} messages for {distinct} events")
    twice = sum(n - 1 for n in Counter(each for _, each in documents()).values())
    lab.figure(events=len(sent), published=len(came), seen_again=twice)


async def _will(lab: Lab, broker: Broker) -> None:
    """A gateway that hangs is told to be offline in time, and online when it goes on."""
    status = Subscriber(broker, "gw/box1/status")
    with lab.net.inside("b"):
        await status.start()
    try:
        lab.daemon.signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            await until(
                lambda: bool(status.lines) and status.lines[-1].endswith("offline"), "will", 20.0
            )
        finally:
            lab.daemon.signal(signal.SIGCONT)
        took = time.monotonic() - began
        lab.check(took <= 1.5 * KEEPALIVE_S + 1.0, f"the will was seen after {took:.1f} s")
        lab.figure(will_after_s=round(took, 1))
        await until(lambda: status.lines[-1].endswith("online"), "online again", BACK_S)
    finally:
        await status.stop()
