"""The store: nothing lost and nothing twice, through kills, full, locked and read-only disks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy

from gateway.core.ids import Ids
from gateway.errors import ConfigError, DeviceError
from gateway.journal import StorageState
from gateway.records import CallRecord, Database, LegRecord, Store, parse_url
from gateway.records.ops import Beat, Forget, PutCall, PutLeg, PutOpen, StoreOp
from gateway.records.spill import Spill
from tests.small_disk import SmallDisk

WALL = 1_700_000_000.0
IDS = Ids()


def leg(n: int, *, ended_at: float = WALL, **more: object) -> PutLeg:
    fields: dict[str, object] = {
        "id": f"id-{n:06}", "box": "b", "leg": f"sip/a#{n}", "call": f"c-{n}", "trace": f"t-{n}",
        "endpoint": "sip/a", "network": "sip", "direction": "in", "calling": "", "called": "",
        "route": "", "priority": 0, "demanded_at": WALL, "offered_at": WALL, "ringing_at": None,
        "answered_at": None, "ended_at": ended_at, "wait_s": 0.0, "talk_s": 1.5, "held_s": 0.0,
        "cause": "normal", "q850": 16, "detail": "", "released": "far", "codec": "",
        "packets_sent": 0, "packets_received": 0, "packets_lost": 0, "loss_percent": 0.0,
        "jitter_ms": 0.0, "level_dbm0": None, "recording": "", "clock_step_s": 0.0,
    } | more  # fmt: skip
    return PutLeg(record=LegRecord(**fields))  # type: ignore[arg-type]


def call(n: int) -> PutCall:
    return PutCall(
        record=CallRecord(
            id=f"c-{n}", box="b", call=f"k-{n}", trace=f"t-{n}", kind="call", endpoint="sip/a",
            network="sip", calling="", called="", route="", priority=0, demanded_at=WALL + n,
            answered_at=None, ended_at=WALL + n + 1, wait_s=1.0, talk_s=0.0, held_s=0.0,
            outcome="failed", cause="busy", q850=17, answered_by="", legs=1,
        )
    )  # fmt: skip


class States:
    """What a store reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[StorageState] = []
        self._changed = threading.Condition()

    def __call__(self, state: StorageState) -> None:
        with self._changed:
            self.all.append(state)
            self._changed.notify_all()

    def wait(self, test: Callable[[StorageState], bool], timeout_s: float = 60.0) -> StorageState:
        with self._changed:
            assert self._changed.wait_for(
                lambda: bool(self.all) and test(self.all[-1]), timeout_s
            ), self.all
            return self.all[-1]


def rows(path: Path, query: str = "SELECT leg FROM legs ORDER BY id") -> list[str]:
    """What the sqlite3 module, and not our own code, finds in the file."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = [row[0] for row in connection.execute(query)]
    connection.close()
    return found


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server of our own, reached by a socket only."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    tool = shutil.which("pg_ctl") or (str(found[-1]) if found else None)
    if tool is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    programs = Path(tool).resolve().parent
    where = tmp_path_factory.mktemp("postgresql")
    # PostgreSQL refuses to run as root.
    run = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv cannot start a PostgreSQL server")
        run = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(where, "postgres", "postgres")
        # Its user must get through to it; pytest keeps its directories to their owner.
        for parent in where.parents:
            if parent.name.startswith(("pytest-", "popen-")):
                parent.chmod(0o711)
    data = where / "data"
    made = subprocess.run(
        [*run, programs / "initdb", "-D", data, "-U", "gateway", "-A", "trust", "--no-sync"],
        capture_output=True,
        check=False,
        cwd="/",
    )
    assert made.returncode == 0, made.stderr.decode()
    options = f"-c listen_addresses='' -c unix_socket_directories={where}"
    subprocess.run(
        [
            *run,
            programs / "pg_ctl",
            "-D",
            data,
            "-w",
            "-t",
            "180",
            "-l",
            where / "log",
            "-o",
            options,
            "start",
        ],
        stdout=subprocess.DEVNULL,
        check=True,
        cwd="/",
    )
    yield f"postgresql://gateway@/postgres?host={where}"
    subprocess.run(
        [*run, programs / "pg_ctl", "-D", data, "-w", "-t", "180", "-m", "immediate", "stop"],
        stdout=subprocess.DEVNULL,
        check=True,
        cwd="/",
    )


def test_urls(tmp_path: Path) -> None:
    assert parse_url(str(tmp_path / "r.db")).database == str(tmp_path / "r.db")
    assert parse_url("postgresql://u@h/d").drivername == "postgresql+psycopg"
    for bad in ("mysql://h/d", "sqlite://", "://", "postgresql://h:port/x"):
        with pytest.raises(ConfigError):
            parse_url(bad)


def test_rows_as_another_program_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    store = Store(str(path))
    store.open("b")
    for n in range(300):
        store.put((leg(n), call(n), Forget(id=f"c-{n}")))
    store.put((leg(7, cause="busy"),))
    assert store.drain(60)
    assert store.close()
    assert rows(path) == [f"sip/a#{n}" for n in range(300)]
    assert rows(path, "SELECT cause FROM legs WHERE id = 'id-000007'") == ["busy"]
    assert rows(path, "PRAGMA journal_mode") == ["wal"]
    read = Database(str(path), read_only=True)
    assert [found.id for found in read.legs(trace="t-9")] == ["id-000009"]
    assert [found.id for found in read.calls(since=WALL + 1, until=WALL + 3)] == ["c-2", "c-1"]
    assert sum(1 for _ in read.legs()) == 300
    assert next(read.legs(call="c-5")) == leg(5).record
    assert len(list(read.legs(limit=10))) == 10
    read.close()


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(sqlalchemy.exc.OperationalError):
        list(Database(str(tmp_path / "none.db"), read_only=True).calls())
    assert not list(tmp_path.iterdir())


def test_a_database_without_tables_yet_is_empty_to_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    early = Database(str(path), read_only=True)
    assert (list(early.calls()), list(early.legs()), list(early.streams(trace="t"))) == ([], [], [])
    database = Database(str(path))
    database.write([leg(1)])
    database.close()
    assert [each.leg for each in early.legs()] == ["sip/a#1"]
    early.close()


def test_the_tables_and_their_version_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    seen = set()

    def look(*_: object) -> None:
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        seen.add(reader.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        reader.close()

    database = Database(str(path))
    sqlalchemy.event.listen(database._engine, "before_cursor_execute", look)
    database.connect()
    database.close()
    whole = sqlite3.connect(path)
    n = whole.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    whole.close()
    assert n > 5
    assert seen == {0, n}


def test_a_full_disk_loses_nothing(small_disk: SmallDisk) -> None:
    path = small_disk.path / "r.db"
    states = States()
    store = Store(str(path), retry_s=0.05, on_state=states)
    store.open("b")
    for n in range(100):
        store.put((leg(n),))
    assert store.drain(60)
    ballast = small_disk.fill()
    for n in range(100, 1000):
        store.put((leg(n, detail="x" * 100),))
    state = states.wait(lambda state: state.degraded)
    assert "full" in state.reason
    ballast.unlink()
    states.wait(lambda state: not state.degraded)
    assert store.drain(60)
    store.close()
    assert rows(path) == [f"sip/a#{n}" for n in range(1000)]
    assert set(rows(path, "SELECT length(detail) FROM legs WHERE id >= 'id-000100'")) == {100}
    assert store.counters.dropped == 0


def test_a_disk_that_is_read_only_for_a_while(small_disk: SmallDisk) -> None:
    path = small_disk.path / "r.db"
    first = Store(str(path))
    first.open("b")
    first.put((leg(0),))
    assert first.drain(60)
    first.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk.path)], check=True)
    states = States()
    store = Store(str(path), retry_s=0.05, on_state=states)
    store.open("b")
    store.put((leg(1),))
    # SQLite says "unable to open" here: it cannot make its WAL beside the file.
    assert str(path) in states.wait(lambda state: state.degraded).reason
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk.path)], check=True)
    states.wait(lambda state: not state.degraded)
    assert store.drain(60)
    store.close()
    assert rows(path) == ["sip/a#0", "sip/a#1"]


def test_locked_by_another_program(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    states = States()
    store = Store(str(path), retry_s=0.05, on_state=states)
    store.open("b")
    store.put((leg(0),))
    assert store.drain(60)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.put((leg(1),))
    state = states.wait(lambda state: state.degraded, 5.0)
    assert "locked" in state.reason
    store.put((leg(2),))
    other.execute("COMMIT")
    other.close()
    states.wait(lambda state: not state.degraded)
    assert store.drain(60)
    store.close()
    assert rows(path) == ["sip/a#0", "sip/a#1", "sip/a#2"]


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "blocked" / "r.db"
    (tmp_path / "blocked").write_text("")
    states = States()
    store = Store(str(path), queue=10, retry_s=0.05, on_state=states)
    store.open("b")
    states.wait(lambda state: state.degraded)
    for n in range(30):
        store.put((leg(n),))
    (tmp_path / "blocked").unlink()
    states.wait(lambda state: not state.degraded)
    store.drain(60)
    store.close()
    kept = rows(path)
    # A batch may have been on its way while more came.
    assert 10 <= len(kept) <= 20
    assert len(kept) + store.counters.dropped == 30


def test_spilled_rows_survive_the_gateway(tmp_path: Path) -> None:
    path = tmp_path / "blocked" / "r.db"
    (tmp_path / "blocked").write_text("")
    states = States()
    store = Store(str(path), spill=tmp_path / "spill", queue=10, retry_s=0.05, on_state=states)
    store.open("b")
    states.wait(lambda state: state.degraded)
    for n in range(500):
        store.put((leg(n),))
        if n % 9 == 8:
            with store._wake:
                assert store._wake.wait_for(lambda: not (store._pending or store._busy), 60)
    assert store.close()
    assert store.counters.spilled == 500
    assert store.counters.dropped == 0
    with (tmp_path / "spill").open("ab") as file:
        file.write(b'{"type":"PutLeg","rec')
    (tmp_path / "blocked").unlink()
    again = Store(str(path), spill=tmp_path / "spill")
    again.open("b")
    again.put((leg(500),))
    assert again.drain(60)
    assert again.close()
    assert rows(path) == [f"sip/a#{n}" for n in range(501)]
    assert not (tmp_path / "spill").exists()


def test_spill_is_bounded_and_keeps_order(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", maximum_bytes=2000)
    beats: list[StoreOp] = [Beat(box="b", run="r", at=float(n), mono=0.0) for n in range(100)]
    taken = [op for op in beats if spill.add([op])]
    assert 0 < len(taken) < 100
    assert (tmp_path / "spill").stat().st_size <= 2000
    found: list[StoreOp] = []
    while not spill.empty:
        found += spill.first(7)
        spill.done()
    assert found == taken
    assert spill.add(beats[:1])


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    path.write_bytes(b"this is no database at all" * 1000)
    states = States()
    store = Store(str(path), retry_s=0.05, on_state=states)
    store.open("b")
    store.put((leg(1),))
    assert "damaged-1" in states.wait(lambda state: True).reason
    states.wait(lambda state: not state.degraded)
    assert store.drain(60)
    store.close()
    assert rows(path) == ["sip/a#1"]
    assert (tmp_path / "r.db.damaged-1").read_bytes().startswith(b"this is no database")


def test_tables_of_another_version_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    first = Store(str(path))
    first.open("b")
    assert first.drain(60)
    first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    states = States()
    store = Store(str(path), retry_s=0.05, on_state=states)
    store.open("b")
    store.put((leg(1),))
    assert "version 99" in states.wait(lambda state: state.degraded).reason
    assert not store.close()
    assert rows(path) == []


def test_tables_of_the_version_before_are_brought_forward(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    database = Database(str(path))
    database.write([leg(1)])
    database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE legs DROP COLUMN played")
        connection.execute("ALTER TABLE legs DROP COLUMN missing")
        for table in ("legs", "calls"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN partial")
        connection.execute("UPDATE schema_version SET version = 1")
    connection.close()
    with pytest.raises(DeviceError, match="version 1"):
        Database(str(path), read_only=True).connect()
    database = Database(str(path))
    new = leg(2)
    database.write([msgspec.structs.replace(
        new, record=msgspec.structs.replace(new.record, played="Hall (rtcp)", missing="Gate")
    )])  # fmt: skip
    found = {each.leg: (each.played, each.missing) for each in database.legs()}
    database.close()
    assert found == {"sip/a#1": ("", ""), "sip/a#2": ("Hall (rtcp)", "Gate")}


def test_retention_deletes_the_oldest_in_small_batches(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "r.db"))
    database.write([leg(n, ended_at=WALL + n) for n in range(100)])
    database.write([call(n) for n in range(100)])
    assert database.prune(before=WALL + 30, maximum=None, most=20) == 20 + 20
    assert database.prune(before=WALL + 30, maximum=None, most=20) == 10 + 9
    assert database.prune(before=WALL + 30, maximum=None, most=20) == 0
    assert database.prune(before=None, maximum=50, most=100) == 20 + 21
    database.close()
    assert rows(tmp_path / "r.db") == [f"sip/a#{n}" for n in range(50, 100)]


CHILD = """
import os, random, sys, time
from pathlib import Path
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import Event, LegAnswered, LegEnded, LegOffered
from gateway.core.ids import Ids
from gateway.journal import Journal
from gateway.records import Recorder, Store

where, run, with_journal = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "journal"
uuid7 = Ids().uuid7
journal = Journal(where / "journal")
journal.open(now=time.monotonic(), at=time.time())
store = Store(str(where / "r.db"))
store.open("b", journal.earlier if with_journal else None)
recorder = Recorder("b", store.put, run=store.run, checkpoint_s=0.2)
chance = random.Random(int(run))

def tell(what, name):
    # In one piece: two threads write.
    os.write(1, f"{what} {name}\\n".encode())

def put(body, call):
    at = time.time()
    which = {"event": body} if isinstance(body, Event) else {"action": body}
    envelope = Envelope(
        id=uuid7(at), box="b", at=at, mono=time.monotonic(), call=call, **which
    )
    if isinstance(body, LegEnded):
        name = body.leg
        journal.append_durable(envelope).add_done_callback(
            lambda _: with_journal and tell("ended", name)
        )
    else:
        journal.append(envelope)
    recorder.receive(envelope)

live, n = [], 0
os.write(1, b"ready\\n")
while True:
    n += 1
    a, b, c = f"sip/{run}#{n}", f"fxs/{run}#{n}", f"{run}-{n}"
    put(LegOffered(leg=a, endpoint="sip/a", trace=c, demanded_at=time.monotonic()), c)
    put(Dial(leg=b, endpoint="fxs/1", trace=c, call=c), c)
    put(LegAnswered(leg=b), c)
    live.append((a, b, c))
    if len(live) > 20:
        a, b, c = live.pop(chance.randrange(len(live)))
        put(LegEnded(leg=a, cause=Cause.NORMAL), c)
        put(LegEnded(leg=b, cause=Cause.NORMAL), c)
    recorder.tick(time.monotonic(), time.time())
    if n % 50 == 0:
        assert store.drain(60)
        if not with_journal:
            for name in [f"sip/{run}#{k}" for k in range(1, n + 1)]:
                if name not in {leg for legs in live for leg in legs}:
                    tell("ended", name)
        for a, b, c in live:
            tell("begun", a)
"""


@pytest.mark.parametrize("how", ["journal", "database"])
def test_killed_at_any_moment(tmp_path: Path, how: str) -> None:
    """Acknowledged ends are stored, every leg has one row, the cut ones say crashed."""
    chance = random.Random(3)
    path = tmp_path / "r.db"
    over: set[str] = set()
    begun: set[str] = set()
    for run in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(run), how], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        told = b"".join(child.stdout.readline() for _ in range(chance.randrange(100, 900)))
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read()
        child.wait()
        child.stdout.close()
        for line in told.decode().split("\n")[:-1]:
            kind, name = line.split()
            (over if kind == "ended" else begun).add(name)
        assert rows(path, "SELECT count(*) FROM legs") != []
    # One more start finishes what the last kill left.
    from gateway.journal import Journal

    journal = Journal(tmp_path / "journal")
    journal.open(now=0.0, at=WALL)
    last = Store(str(path))
    last.open("b", journal.earlier if how == "journal" else None)
    assert last.drain(60)
    last.close()
    journal.close()
    legs = rows(path, "SELECT leg FROM legs")
    crashed = set(rows(path, "SELECT leg FROM legs WHERE cause = 'crashed'"))
    assert len(legs) == len(set(legs))
    assert len(over) > 100
    assert over <= set(legs) - crashed
    assert begun - over <= set(legs)
    assert crashed
    assert rows(path, "SELECT count(*) FROM open_calls") == [0]
    assert rows(path, "SELECT count(*) FROM legs WHERE call NOT IN (SELECT id FROM calls)") == [0]
    late = "SELECT max(ended_at - offered_at) FROM legs WHERE cause = 'crashed'"
    assert 0 <= float(rows(path, late)[0]) < 60


def test_postgresql_holds_the_same(postgresql: str) -> None:
    import psycopg

    store = Store(postgresql)
    store.open("b")
    for n in range(200):
        state = PutOpen(id=f"c-{n}", box="b", run="r", data="{}")
        store.put((leg(n), leg(n, cause="busy"), call(n), state))
        store.put((Forget(id=f"c-{n}"), Beat(box="b", run="r", at=WALL, mono=float(n))))
    # A row that no PostgreSQL takes must not keep out the others.
    store.put((leg(900, detail="a\0b"), leg(901)))
    assert store.drain(60)
    assert store.counters.refused == 1
    store.close()
    with psycopg.connect(postgresql) as connection:
        found = connection.execute("SELECT leg, cause, talk_s FROM legs ORDER BY id").fetchall()
        assert found[:200] == [(f"sip/a#{n}", "busy", 1.5) for n in range(200)]
        assert found[200][0] == "sip/a#901"
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (200,)
        assert connection.execute("SELECT count(*) FROM open_calls").fetchone() == (0,)
        assert connection.execute("SELECT mono FROM boxes").fetchall() == [(199.0,)]
    database = Database(postgresql)
    assert [one.id for one in database.calls(limit=2)] == ["c-199", "c-198"]
    assert database.prune(before=WALL + 50, maximum=150, most=500) > 0
    database.close()


def test_postgresql_that_is_killed_loses_nothing(postgresql: str, tmp_path: Path) -> None:
    import psycopg

    states = States()
    store = Store(postgresql, retry_s=0.05, on_state=states)
    store.open("other")
    with psycopg.connect(postgresql, autocommit=True) as connection:
        for n in range(2000, 2100):
            store.put((leg(n),))
            if n % 25 == 0:
                assert store.drain(60)
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
        assert store.drain(60)
        store.close()
        found = connection.execute(
            "SELECT leg FROM legs WHERE id >= 'id-002000' ORDER BY id"
        ).fetchall()
    assert [name for (name,) in found] == [f"sip/a#{n}" for n in range(2000, 2100)]
    assert store.counters.failures >= 1


def test_ids_of_two_boxes_do_not_meet(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "r.db"))
    for box in ("a", "b"):
        database.write([PutOpen(id=IDS.uuid7(WALL), box=box, run="old", data="{}")])
    assert len(database.unfinished("a", "new").calls) == 1
    assert len(database.unfinished("a", "old").calls) == 0
    database.close()
