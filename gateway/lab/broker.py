"""The lab's MQTT side: an embedded broker, and an alarm panel that speaks to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from gateway.errors import DeviceError
from gateway.lab.softphone import free_port

STATE, COMMAND, ACKNOWLEDGED = "lab/house/state", "lab/house/set", "lab/house/ack"
_ARMED = {"ARM_AWAY": "armed_away", "ARM_HOME": "armed_home", "DISARM": "disarmed"}


@contextlib.asynccontextmanager
async def broker() -> AsyncIterator[int]:
    """Run a broker on a free loopback port, open to this machine only; its port.

    Raises `DeviceError` when the package is missing.
    """
    try:
        from amqtt.broker import Broker
    except ImportError:
        raise DeviceError("the lab needs amqtt: pip install 'crosspoint-gateway[lab]'") from None
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    port = free_port()
    running = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await running.start()
    try:
        yield port
    finally:
        await running.shutdown()


class Panel:
    """An alarm panel of the house: Home Assistant's convention, over MQTT."""

    def __init__(self, port: int) -> None:
        self.state = "disarmed"
        self.acknowledged: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=100)
        """What came on its acknowledgement topic."""
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="lab-panel")
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(COMMAND, 0), (ACKNOWLEDGED, 1)]
        )

    async def __aenter__(self) -> Panel:
        await asyncio.to_thread(self._client.connect, "127.0.0.1", self._port)
        self._client.loop_start()
        self.report("disarmed")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._client.disconnect)
        await asyncio.to_thread(self._client.loop_stop)

    def report(self, state: str) -> None:
        """Change its state and say so."""
        self.state = state
        self._client.publish(STATE, state, qos=1, retain=True)

    def _message(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        text = message.payload.decode("utf-8", "replace")
        if message.topic == COMMAND and text in _ARMED:
            self._loop.call_soon_threadsafe(self.report, _ARMED[text])
        elif message.topic == ACKNOWLEDGED:
            with contextlib.suppress(ValueError):
                self._loop.call_soon_threadsafe(self._acknowledged, json.loads(text))

    def _acknowledged(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self.acknowledged.put_nowait(document)
