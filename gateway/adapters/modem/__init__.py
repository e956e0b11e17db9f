"""Modems: radio modules (GSM to LTE) as trunks, by AT commands and PCM on serial ports.

`adapter` is the contract, `config` the section, `trunk` one module with its call, `speech` its
audio.
"""

from gateway.adapters.modem.adapter import ModemTrunks
from gateway.adapters.modem.config import Config

__all__ = ["Config", "ModemTrunks"]
