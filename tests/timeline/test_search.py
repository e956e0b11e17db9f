"""Traces in a journal's files, as several ask for them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import LegEnded
from gateway.journal.lines import encode

TRACE = "01a203be-d67f-7000-aacc-6144b2a96bb2"
_ASKED_AT_ONCE = """
import sys, threading
from pathlib import Path
from gateway.timeline import search
from gateway.timeline.items import Picker
sys.setswitchinterval(1e-6)
begin = threading.Barrier(4)
found = []
def ask():
    begin.wait()
    found.extend(search.read(Path(sys.argv[1]), Picker(sys.argv[2])))
threads = [threading.Thread(target=ask) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print(len(found))
"""


def test_the_first_questions_of_a_process_may_be_asked_at_once(tmp_path: Path) -> None:
    """In a process of its own: what was decoded before is looked up once and for all."""
    envelope = Envelope(
        id=TRACE,
        box="lab",
        at=1.0,
        mono=1.0,
        trace=TRACE,
        event=LegEnded(leg="sip/a#1", cause=Cause.NORMAL),
    )
    lines = encode(envelope) * 50
    (tmp_path / f"journal-{TRACE}.jsonl").write_bytes(lines)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _ASKED_AT_ONCE, str(tmp_path), TRACE],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
