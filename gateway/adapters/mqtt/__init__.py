"""MQTT: alarm panels, detectors, sirens, and the gateway's own events for everybody else.

`adapter` is the contract, `config` the section, `places` what is known of each endpoint, `link`
the connection, `spool` what waits to be published. What payloads mean is in
`gateway.protocols.alarms`.
"""

from gateway.adapters.mqtt.adapter import Mqtt
from gateway.adapters.mqtt.config import Config

__all__ = ["Config", "Mqtt"]
