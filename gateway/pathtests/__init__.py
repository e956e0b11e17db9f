"""Path tests: when they are due, what their recordings say, and who is told."""

from gateway.pathtests.section import SECONDS, Limits, ScheduledTest, signal_of
from gateway.pathtests.tester import Tester

__all__ = ["SECONDS", "Limits", "ScheduledTest", "Tester", "signal_of"]
