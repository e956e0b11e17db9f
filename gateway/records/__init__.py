"""Call detail records: one row for each leg, one for each call, and the measures of them."""

from gateway.records.database import Database, parse_url
from gateway.records.measures import Measures, Options, Variant, measure
from gateway.records.ops import Unfinished
from gateway.records.recorder import Recorder, RecorderCounters
from gateway.records.store import Store, StoreCounters
from gateway.records.tables import CallRecord, Kind, LegRecord, Outcome, StreamRecord

__all__ = [
    "CallRecord",
    "Database",
    "Kind",
    "LegRecord",
    "Measures",
    "Options",
    "Outcome",
    "Recorder",
    "RecorderCounters",
    "Store",
    "StoreCounters",
    "StreamRecord",
    "Unfinished",
    "Variant",
    "measure",
    "parse_url",
]
