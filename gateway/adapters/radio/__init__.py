"""Radio: half-duplex endpoints behind key lines, sound devices and radio networks."""

from gateway.adapters.radio.adapter import Radio

__all__ = ["Radio"]
