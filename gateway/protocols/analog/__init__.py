"""Analog lines: what FXS and FXO ports do, neutral of the card behind them. No I/O, no clock.

A port is driven by its line (``signal``, ``digit``), its user (``ring``, ``seize``, ``release``
...) and time (``tick``; ``next_timeout`` says when); then drain ``next_output``.
"""

from gateway.protocols.analog.callerid import CallerId
from gateway.protocols.analog.fxo import FxoConfig, FxoPort, FxoState
from gateway.protocols.analog.fxs import FxsConfig, FxsPort, FxsState
from gateway.protocols.analog.signals import Output, Rule, Signal, ToneName

__all__ = [
    "CallerId",
    "FxoConfig",
    "FxoPort",
    "FxoState",
    "FxsConfig",
    "FxsPort",
    "FxsState",
    "Output",
    "Rule",
    "Signal",
    "ToneName",
]
