"""SIP: phones that register here, and trunks to other exchanges."""

from gateway.adapters.sip.adapter import Sip

__all__ = ["Sip"]
