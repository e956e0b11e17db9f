"""Intercom: stations, doors and exchanges on a serial bus that a profile file describes.

`adapter` is the contract, `config` the section, `line` an open line with the engine that drives
it, `speech` the audio of a leg, `troubles` what goes wrong out there.
"""

from gateway.adapters.intercom.adapter import Intercom
from gateway.adapters.intercom.config import Config

__all__ = ["Config", "Intercom"]
