"""Modbus: contacts in, relays out, measured values, and the gateway's state for others.

`adapter` is the contract, `config` the section, `device` one server out there with its `inputs`
and `outputs`, `line` the connection it is reached by, `frames` what goes over it; `server` and
`state` are the gateway as a server. What values mean is in `gateway.protocols.modbus_points`.
"""

from gateway.adapters.modbus.adapter import Modbus
from gateway.adapters.modbus.config import Config

__all__ = ["Config", "Modbus"]
