"""Journal: every event and action, in order, as lines of JSON in files that only ever grow.

A segment ``journal-<uuid7>.jsonl`` begins with the alarms that were open when it was begun, then
holds one `Envelope` a line. So the newest segment alone tells which alarms have to be carried on
after a restart, and old segments can be deleted without losing one.

Nothing here raises into the caller when a disk is full, read-only or gone: lines wait in a bounded
queue, the writer tries again, `Journal.state` and the callback say so.
"""

from gateway.journal.alarms import InHand, OpenAlarms
from gateway.journal.lines import encode, segments
from gateway.journal.reader import Reader, read, read_open_alarms
from gateway.journal.writer import Journal, JournalCounters, StorageState

__all__ = [
    "InHand",
    "Journal",
    "JournalCounters",
    "OpenAlarms",
    "Reader",
    "StorageState",
    "encode",
    "read",
    "read_open_alarms",
    "segments",
]
