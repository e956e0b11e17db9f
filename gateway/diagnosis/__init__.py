"""What was wrong with a call: one verdict, from the journal, the records and the live counters.

`evidence` collects, `streams` and `calls` hold the rules, `verdict` chooses.
"""

from gateway.diagnosis.evidence import CallEvidence, LegEvidence
from gateway.diagnosis.verdict import Diagnosis, diagnose

__all__ = ["CallEvidence", "Diagnosis", "LegEvidence", "diagnose"]
