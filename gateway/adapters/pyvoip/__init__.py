"""pyvoip: one account on somebody's PBX, through the library pyVoIP in a process of its own."""

from gateway.adapters.pyvoip.adapter import PyVoip

__all__ = ["PyVoip"]
