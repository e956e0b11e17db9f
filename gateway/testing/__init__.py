"""What integrators test their adapters with; shipped with the product."""

from gateway.testing.adapters import (
    PROMISES,
    BrokenPromises,
    Report,
    Scenario,
    check_adapter,
)
from gateway.testing.clock import until
from gateway.testing.host import PaperEngine, PaperStream, TestHost

__all__ = [
    "PROMISES",
    "BrokenPromises",
    "PaperEngine",
    "PaperStream",
    "Report",
    "Scenario",
    "TestHost",
    "check_adapter",
    "until",
]
