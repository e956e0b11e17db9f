"""What integrators test their adapters with; shipped with the product."""

from gateway.testing.adapters import check_adapter
from gateway.testing.clock import until
from gateway.testing.host import PaperEngine, PaperStream, TestHost
from gateway.testing.promises import PROMISES, BrokenPromises, Report
from gateway.testing.stage import Scenario

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
