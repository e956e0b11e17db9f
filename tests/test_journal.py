"""The journal: order, secrets, bounds, torn files, full disks, sudden death."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.actions import (
    AcknowledgeAlarm,
    Action,
    CloseAlarm,
    Command,
    Dial,
    Hangup,
    OpenAlarm,
    SendDigits,
)
from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    Event,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
)
from gateway.core.ids import Ids
from gateway.errors import DeviceError
from gateway.journal import (
    Journal,
    Reader,
    StorageState,
    encode,
    read,
    read_open_alarms,
    segments,
)
from gateway.journal.alarms import OpenAlarms
from tests.small_disk import SmallDisk

AT = 1_700_000_000.0
IDS = Ids()


def wear(body: Event | Action, n: int = 0, *, trace: str = "", call: str = "") -> Envelope:
    at = AT + n
    event = body if isinstance(body, Event) else None
    action = None if event is not None else body
    return Envelope(
        id=IDS.uuid7(at), box="b", at=at, mono=1000.0 + n, trace=trace, call=call,
        event=event, action=action,  # type: ignore[arg-type]
    )  # fmt: skip


def alarm(name: str, raised_at: float = 990.0) -> AlarmRaised:
    return AlarmRaised(endpoint="mqtt/panel", alarm=name, trace=f"t-{name}", raised_at=raised_at)


def raise_(journal: Journal, raised: AlarmRaised) -> None:
    """It is written down, and the switchboard is given it."""
    envelope = wear(raised)
    journal.append(envelope)
    journal.taken(envelope.id, now=envelope.mono, at=envelope.at)


def opened(directory: Path, **options: object) -> Journal:
    journal = Journal(directory, **options)  # type: ignore[arg-type]
    journal.open(now=1000.0, at=AT)
    return journal


def test_everything_comes_back_in_order(tmp_path: Path) -> None:
    bodies: list[Event | Action] = [
        LegOffered(leg="fxs/1#1", endpoint="fxs/1", trace="t1", demanded_at=1.5, called="100"),
        Dial(leg="sip/a#2", endpoint="sip/a", trace="t1", call="c1"),
        LegAnswered(leg="sip/a#2"),
        Hangup(leg="sip/a#2", cause=Cause.BUSY, detail='a "detail"\n'),
        LegEnded(leg="sip/a#2", cause=Cause.BUSY),
    ]
    envelopes = [wear(body, n, trace="t1", call="c1") for n, body in enumerate(bodies)]
    journal = opened(tmp_path)
    for envelope in envelopes:
        assert journal.append(envelope)
    assert journal.close()
    assert list(read(tmp_path)) == envelopes
    # What another program sees: one JSON object a line.
    lines = [json.loads(line) for line in segments(tmp_path)[0].read_text().splitlines()]
    assert [line.get("event", line.get("action", {})).get("type") for line in lines[2:]] == [
        "LegOffered", "Dial", "LegAnswered", "Hangup", "LegEnded",
    ]  # fmt: skip


def test_filters(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for n in range(10):
        journal.append(wear(LegAnswered(leg=f"fxs/{n}#1"), n, trace=f"t{n % 2}", call=f"c{n % 3}"))
    journal.close()
    assert [e.at - AT for e in read(tmp_path, trace="t1")] == [1, 3, 5, 7, 9]
    assert [e.at - AT for e in read(tmp_path, call="c2", trace="t0")] == [2, 8]
    assert [e.at - AT for e in read(tmp_path, since=AT + 3, until=AT + 5)] == [3, 4, 5]
    assert [e.at - AT for e in read(tmp_path, leg="fxs/7#1")] == [7]


def test_secrets_stay_out(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append(wear(Command(command="1", endpoint="p/1", verb="DISARM", code="4711")))
    journal.append(wear(DigitPressed(leg="fxs/1#1", digit="7")))
    journal.append(wear(SendDigits(leg="fxs/1#1", digits="4711")))
    journal.close()
    text = segments(tmp_path)[0].read_text()
    assert "4711" not in text
    assert '"7"' not in text
    kept = encode(wear(DigitPressed(leg="fxs/1#1", digit="7")), keep_digits=True)
    assert b'"7"' in kept
    still = wear(Command(command="1", endpoint="p/1", verb="DISARM", code="4711"))
    assert b"4711" not in encode(still, keep_digits=True)


def test_octets_that_are_no_text_are_kept_as_replacement(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    body = LegOffered(leg="s/1#1", endpoint="s/1", trace="t", demanded_at=0.0, display=odd)
    journal.append_durable(wear(body)).result(5)
    journal.close()
    (envelope,) = read(tmp_path)
    assert isinstance(envelope.event, LegOffered)
    assert envelope.event.display == "caf?"


def test_an_entry_without_a_json_form_does_not_end_the_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    body = DigitPressed(leg="s/1#1", digit="1", duration_ms=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        journal.append_durable(wear(body)).result(5)
    good = wear(LegAnswered(leg="s/1#1"))
    journal.append_durable(good).result(5)
    assert journal.close()
    assert list(read(tmp_path)) == [good]
    assert journal.counters.refused == 1


def test_a_durable_entry_is_on_disk_when_its_future_is_done(tmp_path: Path) -> None:
    journal = opened(tmp_path, sync_s=3600.0)
    envelope = wear(LegEnded(leg="s/1#1", cause=Cause.NORMAL))
    journal.append_durable(envelope).result(5)
    assert list(read(tmp_path)) == [envelope]
    journal.close()


@pytest.mark.parametrize("tail", [b"", b"\0" * 700, b"\0\n", b"\xff\xfe\n", b"42\n"])
def test_a_torn_end_is_cut_off_and_nothing_else(tmp_path: Path, tail: bytes) -> None:
    first = [wear(LegAnswered(leg=f"s/1#{n}"), n) for n in range(3)]
    journal = opened(tmp_path)
    for envelope in first:
        journal.append(envelope)
    journal.close()
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    torn = encode(wear(LegAnswered(leg="s/1#9"), 9))
    for size in {0, 1, len(torn) // 2, len(torn) - 1}:
        path.write_bytes(whole + torn[:size] + tail)
        more = wear(LegAnswered(leg="s/1#3"), 3)
        again = opened(tmp_path)
        again.append(more)
        assert again.close()
        assert again.counters.repaired_bytes == size + len(tail)
        reader = Reader(tmp_path)
        assert list(reader.poll()) == [*first, more]
        assert reader.unreadable == 0


@settings(max_examples=60, deadline=None)
@given(garbage=st.binary(max_size=400))
def test_any_content_is_survived(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    directory = tmp_path_factory.mktemp("garbage")
    (directory / f"journal-{IDS.uuid7(AT)}.jsonl").write_bytes(garbage)
    (directory / "journal-other.jsonl").write_bytes(b"not ours")
    list(Reader(directory).poll())
    read_open_alarms(directory)
    journal = opened(directory)
    envelope = wear(alarm("a"))
    journal.append_durable(envelope).result(5)
    journal.close()
    assert list(read(directory))[-1] == envelope
    assert [a.alarm for a in read_open_alarms(directory).raised(now=0.0, at=AT)] == ["a"]
    assert (directory / "journal-other.jsonl").read_bytes() == b"not ours"


def test_old_segments_go_and_open_alarms_stay(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=4000, total_bytes=20_000)
    raise_(journal, alarm("fire"))
    journal.append(wear(OpenAlarm(endpoint="mqtt/panel", alarm="fire", route="r", trace="t-fire")))
    raise_(journal, alarm("over"))
    over = CloseAlarm(endpoint="mqtt/panel", alarm="over", outcome="acknowledged")
    journal.append(wear(over))
    for n in range(2000):
        journal.append(wear(LegAnswered(leg=f"s/1#{n}"), n))
    journal.close()
    found = segments(tmp_path)
    assert journal.counters.segments_deleted > 10
    assert sum(path.stat().st_size for path in found) < 20_000 + 4000 + 2000
    assert not any(isinstance(e.event, AlarmRaised) for e in read(tmp_path))
    legs = [e.event.leg for e in read(tmp_path) if isinstance(e.event, LegAnswered)]
    assert legs == [f"s/1#{n}" for n in range(2000 - len(legs), 2000)]
    again = Journal(tmp_path)
    carried = again.open(now=50.0, at=AT + 100)
    again.close()
    # It was 10 s old when written, and that was 100 s ago: before this machine was started.
    assert carried == [alarm("fire", raised_at=-60.0)]


def test_segments_stay_in_order_when_the_clock_is_set_back(tmp_path: Path) -> None:
    future = tmp_path / f"journal-{IDS.uuid7(4_000_000_000.0)}.jsonl"
    first = wear(LegAnswered(leg="s/1#1"))
    future.write_bytes(b'{"carried":[]}\n' + encode(first))
    journal = opened(tmp_path, segment_bytes=1)
    second, third = wear(LegAnswered(leg="s/1#2")), wear(LegAnswered(leg="s/1#3"))
    journal.append(second)
    journal.append(third)
    journal.close()
    assert len(segments(tmp_path)) == 3
    assert list(read(tmp_path)) == [first, second, third]


def test_which_alarms_are_open(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for name in ("bare", "cleared", "waiting-cleared", "planned", "planned-cleared", "closed"):
        raise_(journal, alarm(name))
    for name in ("planned", "planned-cleared", "closed"):
        journal.append(
            wear(OpenAlarm(endpoint="mqtt/panel", alarm=name, route="r", trace=f"t-{name}"))
        )
    for name in ("cleared", "waiting-cleared", "planned-cleared"):
        journal.append(wear(AlarmCleared(endpoint="mqtt/panel", alarm=name)))
    journal.append(wear(CloseAlarm(endpoint="mqtt/panel", alarm="cleared", outcome="cleared")))
    journal.append(wear(CloseAlarm(endpoint="mqtt/panel", alarm="closed", outcome="exhausted")))
    journal.close()
    found = read_open_alarms(tmp_path).raised(now=1000.0, at=AT)
    # Whether a clear ends it, is the route's business: it is over when that is said.
    assert {a.alarm for a in found} == {"bare", "waiting-cleared", "planned", "planned-cleared"}


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
def test_an_alarm_written_down_ahead_of_an_older_clear_stays_open(
    tmp_path: Path, segment_bytes: int
) -> None:
    """The clear waited for the switchboard, the alarm did not wait to be written."""
    journal = opened(tmp_path, segment_bytes=segment_bytes)
    envelope = wear(alarm("fire"))
    clear = wear(AlarmCleared(endpoint="mqtt/panel", alarm="fire"))
    plan = OpenAlarm(endpoint="mqtt/panel", alarm="fire", route="r", trace="t-fire")
    closed = CloseAlarm(endpoint="mqtt/panel", alarm="fire", outcome="exhausted")

    def still_open() -> list[str]:
        journal.append_durable(wear(LegAnswered(leg="s/1#1"))).result(5)
        return [a.trace for a in read_open_alarms(tmp_path).raised(now=1000.0, at=AT)]

    journal.append_durable(envelope).result(5)
    for older in (clear, wear(closed), clear):
        journal.append(older)
        assert still_open() == ["t-fire"]
    journal.taken(envelope.id, now=1001.0, at=AT)
    journal.append(wear(plan))
    assert still_open() == ["t-fire"]
    journal.append(clear)
    assert still_open() == ["t-fire"], "its plan goes on"
    journal.append(wear(closed))
    assert still_open() == []
    lost = wear(alarm("smoke"))
    journal.append_durable(lost).result(5)
    journal.lost(lost.id)
    assert still_open() == ["t-smoke"]
    # The switchboard never knew of it.
    journal.append(wear(AlarmCleared(endpoint="mqtt/panel", alarm="smoke")))
    assert still_open() == []
    journal.close()


def test_what_an_earlier_run_did_not_act_on_is_carried_on_and_can_end(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append_durable(wear(alarm("fire"))).result(5)
    journal.append_durable(wear(AlarmCleared(endpoint="mqtt/panel", alarm="fire"))).result(5)
    journal.close()
    again = Journal(tmp_path)
    assert [a.trace for a in again.open(now=1000.0, at=AT)] == ["t-fire"]
    raise_(again, alarm("fire"))
    closed = CloseAlarm(endpoint="mqtt/panel", alarm="fire", outcome="cleared")
    again.append_durable(wear(closed)).result(5)
    again.close()
    assert read_open_alarms(tmp_path).raised(now=1000.0, at=AT) == []


def test_a_plan_of_an_earlier_run_keeps_no_alarm_open(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    raise_(journal, alarm("fire"))
    journal.append(wear(OpenAlarm(endpoint="mqtt/panel", alarm="fire", route="r", trace="t-fire")))
    journal.close()
    clear = wear(AlarmCleared(endpoint="mqtt/panel", alarm="fire"))
    again = Journal(tmp_path)
    assert len(again.open(now=1000.0, at=AT)) == 1
    again.append_durable(clear).result(5)
    assert len(read_open_alarms(tmp_path).raised(now=1000.0, at=AT)) == 1, "nobody was told yet"
    raise_(again, alarm("fire"))  # and no route takes it now
    close = CloseAlarm(endpoint="mqtt/panel", alarm="fire", outcome="cleared")
    again.append_durable(wear(close)).result(5)
    again.close()
    assert read_open_alarms(tmp_path).raised(now=1000.0, at=AT) == []


def test_follow_sees_what_is_written_later_once(tmp_path: Path) -> None:
    journal = opened(tmp_path, segment_bytes=300)
    sent = [wear(LegAnswered(leg=f"s/1#{n}"), n) for n in range(6)]
    journal.append_durable(sent[0]).result(5)
    left = sent[1:]

    def wait() -> bool:
        if not left:
            return False
        journal.append_durable(left.pop(0)).result(5)
        return True

    assert list(Reader(tmp_path).follow(wait)) == sent
    late = Reader(tmp_path)
    late.skip()
    assert list(late.poll()) == []
    more = wear(LegAnswered(leg="s/1#7"), 7)
    journal.append_durable(more).result(5)
    assert list(late.poll()) == [more]
    journal.close()
    assert len(segments(tmp_path)) > 1


def test_earlier_runs_are_told_from_this_one(tmp_path: Path) -> None:
    first, second, third = (wear(LegAnswered(leg=f"s/1#{n}"), n) for n in range(3))
    for envelope in (first, second):
        journal = opened(tmp_path)
        journal.append(envelope)
        journal.close()
    journal = opened(tmp_path)
    journal.append_durable(third).result(5)
    assert list(journal.earlier(0.0)) == [None, first, None, second]
    assert list(journal.earlier(AT + 1)) == [None, None, second]
    journal.close()


def test_full_queue_drops_ordinary_entries_and_keeps_alarms(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    states: list[StorageState] = []
    told = threading.Event()

    def on_state(state: StorageState) -> None:
        states.append(state)
        told.set()

    journal = opened(blocked, queue=10, retry_s=0.02, on_state=on_state)
    assert told.wait(5)
    assert states[-1].degraded
    assert str(blocked) in states[-1].reason
    told.clear()
    taken = [journal.append(wear(LegAnswered(leg=f"s/1#{n}"), n)) for n in range(15)]
    assert taken == [True] * 10 + [False] * 5
    future = journal.append_durable(wear(alarm("fire")))
    assert journal.append(wear(alarm("gas")))
    assert journal.counters.dropped == 5
    assert not future.done()
    blocked.unlink()
    future.result(5)
    assert told.wait(5)
    assert not states[-1].degraded
    journal.close()
    bodies = [e.event for e in read(blocked)]
    assert [b.leg for b in bodies if isinstance(b, LegAnswered)] == [f"s/1#{n}" for n in range(10)]
    assert [b.alarm for b in bodies if isinstance(b, AlarmRaised)] == ["fire", "gas"]


def test_closing_a_broken_journal_fails_what_waits(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    journal = opened(blocked, retry_s=0.02)
    future = journal.append_durable(wear(alarm("fire")))
    assert not journal.close()
    with pytest.raises(DeviceError, match="blocked"):
        future.result(5)
    late = journal.append_durable(wear(alarm("late")))
    with pytest.raises(DeviceError):
        late.result(0)


def test_full_disk_loses_nothing_and_says_so(small_disk: SmallDisk) -> None:
    directory = small_disk.path / "journal"
    states: list[StorageState] = []
    changed = threading.Condition()

    def on_state(state: StorageState) -> None:
        with changed:
            states.append(state)
            changed.notify_all()

    journal = opened(directory, retry_s=0.02, on_state=on_state)
    sent = [wear(LegEnded(leg=f"s/1#{n}", cause=Cause.NORMAL), n) for n in range(400)]
    for envelope in sent[:50]:
        journal.append_durable(envelope).result(5)
    ballast = small_disk.fill()
    futures = [journal.append_durable(envelope) for envelope in sent[50:]]
    with changed:
        assert changed.wait_for(lambda: bool(states), 5)
    assert states[0].degraded
    assert "No space left" in states[0].reason
    assert not futures[-1].done()
    ballast.unlink()
    for future in futures:
        future.result(5)
    with changed:
        assert changed.wait_for(lambda: not states[-1].degraded, 5)
    assert journal.close()
    assert list(read(directory)) == sent


CHILD = """
import sys
from pathlib import Path
from gateway.journal import Journal
from gateway.core.envelope import Envelope
from gateway.core.events import LegAnswered, LegEnded
from gateway.core.causes import Cause
from gateway.core.ids import Ids

uuid7 = Ids().uuid7
journal = Journal(Path(sys.argv[1]), segment_bytes=30_000, total_bytes=100_000_000)
journal.open(now=0.0, at=1.7e9)
run, n = sys.argv[2], 0
print("ready", flush=True)
while True:
    for _ in range(5):
        n += 1
        event = LegAnswered(leg=f"x/{run}#{n}")
        journal.append(Envelope(id=uuid7(1.7e9), box="b", at=1.7e9, mono=1.0, event=event))
    n += 1
    event = LegEnded(leg=f"x/{run}#{n}", cause=Cause.NORMAL)
    done = journal.append_durable(
        Envelope(id=uuid7(1.7e9), box="b", at=1.7e9, mono=1.0, event=event)
    )
    done.add_done_callback(lambda _, n=n: print(n, flush=True))
    if n % 60 == 0:
        done.result()
"""


def test_killed_at_any_moment_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    chance = random.Random(5)
    for run in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(run)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        told = b"".join(child.stdout.readline() for _ in range(chance.randrange(20, 300)))
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read()
        child.wait()
        child.stdout.close()
        # The last line of the pipe may be torn by the kill as well.
        acknowledged = int(told.split(b"\n")[-2])
        opened(tmp_path).close()
        reader = Reader(tmp_path)
        legs = [e.event.leg for e in reader.poll() if isinstance(e.event, LegAnswered | LegEnded)]
        mine = [int(leg.partition("#")[2]) for leg in legs if leg.startswith(f"x/{run}#")]
        assert reader.unreadable == 0
        assert mine == list(range(1, len(mine) + 1))
        assert len(mine) >= acknowledged > 0


def test_lines_are_envelopes_for_everybody(tmp_path: Path) -> None:
    envelope = wear(alarm("a"), trace="t-a")
    assert msgspec.json.decode(encode(envelope), type=Envelope) == envelope


def test_an_alarm_that_got_worse_is_carried_on_at_its_worst(tmp_path: Path) -> None:
    from gateway.core.events import Severity

    open_alarms = OpenAlarms()
    for second, severity in enumerate((Severity.MINOR, Severity.CRITICAL, Severity.MAJOR)):
        raised = AlarmRaised(
            endpoint="mqtt/p", alarm="a", severity=severity, trace=f"t{second}", raised_at=second
        )
        open_alarms.see(
            Envelope(id=str(second), box="b", at=AT + second, mono=float(second), event=raised)
        )
    (alarm,) = open_alarms.raised(now=100.0, at=AT + 10)
    assert alarm.severity is Severity.CRITICAL
    assert alarm.trace == "t0"
    assert alarm.raised_at == pytest.approx(90.0)


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
def test_what_is_acknowledged_is_known_until_its_cause_goes(
    tmp_path: Path, segment_bytes: int
) -> None:
    at = time.time()
    journal = opened(tmp_path, segment_bytes=segment_bytes)

    def in_hand() -> list[str]:
        journal.append_durable(wear(LegAnswered(leg="s/1#1"))).result(5)
        found = read_open_alarms(tmp_path).in_hand(now=1000.0, at=at)
        return [f"{each.alarm.alarm} by {each.by}" for each in found]

    def take(name: str, *, cleared: bool = False) -> None:
        place = {"endpoint": "mqtt/panel", "alarm": name, "trace": f"t-{name}"}
        raise_(journal, alarm(name))
        journal.append(wear(OpenAlarm(route="r", **place)))
        if cleared:
            journal.append(wear(AlarmCleared(endpoint="mqtt/panel", alarm=name)))
        journal.append(wear(AcknowledgeAlarm(by="sip/g", **place)))
        journal.append(wear(CloseAlarm(outcome="acknowledged", by="sip/g", **place)))

    def raise_(journal: Journal, raised: AlarmRaised) -> None:
        envelope = wear(raised)
        journal.append_durable(envelope).result(5)
        journal.taken(envelope.id, now=1001.0, at=at)

    take("fire")
    take("smoke")
    take("over", cleared=True)
    assert in_hand() == ["fire by sip/g", "smoke by sip/g"]
    journal.append(wear(AlarmCleared(endpoint="mqtt/panel", alarm="smoke")))
    assert in_hand() == ["fire by sip/g"]
    journal.close()
    # Over a restart, and over one more after which nothing was said of it.
    for _ in range(2):
        again = Journal(tmp_path)
        assert again.open(now=1000.0, at=time.time()) == []
        assert [each.by for each in again.in_hand] == ["sip/g"]
        again.append_durable(wear(LegAnswered(leg="s/1#1"))).result(5)
        again.close()
    # After so long nobody trusts it, and no later run does either.
    newest = segments(tmp_path)[-1]
    os.utime(newest, (at - 1000.0, at - 1000.0))
    for _ in range(2):
        again = Journal(tmp_path)
        again.open(now=1000.0, at=time.time())
        assert again.in_hand == []
        again.append_durable(wear(LegAnswered(leg="s/1#1"))).result(5)
        again.close()


def test_of_an_input_that_is_acknowledged_it_is_known_what_it_was_last(tmp_path: Path) -> None:
    open_alarms = OpenAlarms()
    place = {"endpoint": "modbus/gate", "alarm": "level"}
    began = InputChanged(endpoint="modbus/gate", input="level", value=71.0, raised_at=1.0)
    lower = InputChanged(endpoint="modbus/gate", input="level", value=60.0)
    for body in (began, OpenAlarm(route="r", trace="t", **place), lower):
        open_alarms.see(envelope := wear(body))
        open_alarms.settle(envelope.id)
    open_alarms.see(wear(CloseAlarm(outcome="acknowledged", by="x", trace="t", **place)))
    for once in (open_alarms, OpenAlarms()):
        for envelope in open_alarms.envelopes():
            once.see(envelope)
            once.settle(envelope.id)
        (known,) = once.in_hand(now=1000.0, at=AT)
        assert (known.last and known.last.value) == 60.0
    open_alarms.see(wear(began))
    assert open_alarms.in_hand(now=1000.0, at=AT) == []


def test_what_was_to_be_closed_as_in_hand_is_open_after_a_kill(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append_durable(wear(msgspec.structs.replace(alarm("fire"), by="sip/g"))).result(5)
    journal.close()
    (carried,) = read_open_alarms(tmp_path).raised(now=1000.0, at=AT)
    assert (carried.alarm, carried.by) == ("fire", "")


def test_an_alarm_of_the_gateway_itself_ends_though_it_was_told(tmp_path: Path) -> None:
    place = {"endpoint": "gateway/records", "alarm": "storage"}
    journal = opened(tmp_path)
    raise_(journal, msgspec.structs.replace(alarm("storage"), endpoint="gateway/records"))
    journal.append(wear(OpenAlarm(route="r", trace="t", **place)))
    journal.close()
    again = Journal(tmp_path)
    assert len(again.open(now=1000.0, at=AT)) == 1
    again.append_durable(wear(AlarmCleared(**place))).result(5)
    again.close()
    assert read_open_alarms(tmp_path).raised(now=1000.0, at=AT) == []
