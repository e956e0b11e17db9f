"""Analog lines: telephones at FXS ports, exchange lines at FXO ports, through DAHDI."""

from gateway.adapters.analog.adapter import Analog

__all__ = ["Analog"]
