"""Replay: what a switchboard did, it does again from the journal alone."""

from __future__ import annotations

import json
import shlex
import tomllib
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.actions import Dial
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmRaised, EndpointChanged, InputChanged
from gateway.core.ids import Ids
from gateway.core.routes import Route, RouteTable
from gateway.core.switchboard import Switchboard
from gateway.errors import UsageError
from gateway.journal import Journal, segments
from gateway.replay import digits
from gateway.replay.flow import Scribe, only
from gateway.replay.player import Outcome, Player
from gateway.replay.tape import Run, Tape
from gateway.testing import flows
from tests.runtime_rig import FIRE, Rig, raise_fire

FLOWS = sorted((Path(__file__).parent.parent / "flows").glob("*.flow"))
BEGAN = 1_767_600_000.0


def runs(tape: Tape) -> list[str]:
    names = []
    for run in tape.runs():
        names.append(run.name)
        for _ in run.steps:
            pass
    return [name for name in names if name]


def run_of(tape: Tape, name: str) -> Run:
    for run in tape.runs():
        if run.name == name:
            return run
        for _ in run.steps:
            pass
    raise AssertionError(f"no run {name}")


def play(directory: Path, table: RouteTable | None = None) -> list[Outcome]:
    """Every run of a journal, with guesses for hidden digits."""
    tape = Tape(directory)
    return [
        digits.play(lambda known, name=name: Player(run_of(tape, name), table=table, known=known))[
            0
        ]
        for name in runs(tape)
    ]


class Site:
    """A flow that happens on a site with a journal, under ids and digits as a real one has them."""

    def __init__(self, directory: Path, text: str, *, keep_digits: bool) -> None:
        setup, _, log = text.partition("\n---\n")
        document = tomllib.loads(setup)
        routes = msgspec.convert(document.get("routes", []), list[Route])
        ids, number = Ids(), count(100)
        self._wall = BEGAN
        self._offered: dict[str, str] = {}
        self.journal = Journal(directory, keep_digits=keep_digits)
        self.journal.open(now=0.0, at=BEGAN)
        self.journal.plan(routes, "UTC")
        self._ids = ids
        made: list[str] = []
        self._minted: dict[str, str] = {}
        counts: dict[str, count[int]] = {}

        def new_leg(endpoint: str) -> str:
            real = f"{endpoint}#{next(number)}"
            self._minted[f"{endpoint}#{next(counts.setdefault(endpoint, count(1)))}"] = real
            return real

        def new_id() -> str:
            made.append(ids.uuid7(self._wall))
            self._minted[f"id-{len(made)}"] = made[-1]
            return made[-1]

        self.board = Switchboard(RouteTable(routes), new_leg=new_leg, new_id=new_id)
        for raw in document.get("endpoints", []):
            endpoint = msgspec.convert({"condition": "up", **raw}, Endpoint)
            self._happens(EndpointChanged(endpoint=endpoint), 0.0)
        for _, at, event, _ in flows._steps(log):
            if event.startswith("("):
                self._do(self.board.tick(50.0 + at, flows.MONDAY + at), at)
            else:
                self._happens(flows._event(self._real(event)), at)
        assert self.journal.close()

    def _real(self, event: str) -> str:
        """The flow's event with the ids that this site has minted."""
        words = []
        for word in shlex.split(event):
            key, equals, value = word.partition("=")
            leg, slash, rest = value.rpartition("/")
            value = self._minted.get(value, value)
            value = self._minted[leg] + slash + rest if leg in self._minted else value
            words.append(shlex.quote(key + equals + value))
        return " ".join(words)

    def _happens(self, event: Any, at: float) -> None:
        shown = self.board.shown(event)
        call, trace = self.board.call_of(event)
        if isinstance(event, AlarmRaised):
            early = self._envelope(event, at - 0.2, trace, call)
            self.journal.append_durable(early)
            self._happens(InputChanged(endpoint="x/y", input="between", value=1.0), at)
            self.journal.taken(early.id, now=50.0 + at, at=flows.MONDAY + at)
        out = self.board.receive(event, 50.0 + at, flows.MONDAY + at)
        if not call:
            call, trace = self.board.call_of(event)
        if not isinstance(event, AlarmRaised):
            self.journal.append(self._envelope(shown, at, trace, call))
        self._do(out, at)

    def _do(self, actions: list[Any], at: float) -> None:
        for action in actions:
            call, trace = self.board.call_of(action)
            self.journal.append(self._envelope(action, at, trace, call))

    def _envelope(self, body: Any, at: float, trace: str, call: str) -> Envelope:
        kind = "event" if type(body).__module__.endswith("events") else "action"
        return Envelope(
            id=self._ids.uuid7(self._wall),
            box="lab",
            at=flows.MONDAY + at,
            mono=50.0 + at,
            trace=trace,
            call=call,
            **{kind: body},
        )


@pytest.mark.parametrize("keep_digits", [True, False], ids=["kept", "hidden"])
@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_every_flow_is_the_same_again_from_its_journal(
    path: Path, tmp_path: Path, keep_digits: bool
) -> None:
    site = Site(tmp_path, path.read_text(), keep_digits=keep_digits)
    assert site.journal.counters.dropped == 0
    (outcome,) = play(tmp_path)
    assert outcome.difference is None, outcome.difference
    assert outcome.unwritten == 0
    assert outcome.events > 0
    # And back into a flow, whose every arrow must come out of a switchboard of its own.
    tape = Tape(tmp_path)
    (name,) = runs(tape)
    _, known = digits.play(lambda given: Player(run_of(tape, name), known=given))
    scribe = Scribe(run_of(tape, name), known=known)
    assert scribe.play().difference is None
    text = scribe.text()
    flows.run_text(text, "made.flow")
    kinds = [line.split()[1] for line in text.splitlines() if line.lstrip().startswith("->")]
    _, _, log = path.read_text().partition("\n---\n")
    wanted = [arrow.split()[0] for *_, arrows in flows._steps(log) for arrow in arrows]
    assert kinds == [kind for kind in wanted if kind != "Note"]


def _journal_of_a_call(directory: Path) -> Path:
    text = (FLOWS[0].parent / "call_answered.flow").read_text()
    Site(directory, text, keep_digits=False)
    (file,) = segments(directory)
    return file


def test_one_trace_of_two(tmp_path: Path) -> None:
    text = """\
[[routes]]
name = "all"
targets = ["loopback/b", "loopback/d"]

[[endpoints]]
id = "loopback/b"
[[endpoints]]
id = "loopback/d"
---
0.0  LegOffered leg=loopback/a#1 endpoint=loopback/a called=1 trace=aaaa
1.0  LegAnswered leg=loopback/b#1
2.0  LegOffered leg=loopback/c#1 endpoint=loopback/c called=2 trace=bbbb
3.0  LegEnded leg=loopback/b#1 cause=normal
4.0  LegEnded leg=loopback/a#1 cause=normal
5.0  LegAnswered leg=loopback/d#1
"""
    Site(tmp_path, text, keep_digits=True)
    (outcome,) = play(tmp_path)
    assert outcome.difference is None
    tape = Tape(tmp_path)
    (name,) = runs(tape)
    scribe = Scribe(only(run_of(tape, name), "aaaa"), known={})
    assert scribe.play().difference is None
    flow = scribe.text()
    flows.run_text(flow, "made.flow")
    assert "loopback/c" not in flow
    assert "-> Dial leg=loopback/b#1" in flow
    # Alone, the second caller would have reached b: his flow is cut where that shows.
    scribe = Scribe(only(run_of(tape, name), "bbbb"), known={})
    assert scribe.play().difference is not None


def test_what_was_changed_in_the_journal_is_found_where_it_stands(tmp_path: Path) -> None:
    file = _journal_of_a_call(tmp_path)
    sound = file.read_bytes().splitlines(keepends=True)
    actions = [n for n, line in enumerate(sound) if b'"action":{' in line]
    events = [n for n, line in enumerate(sound) if b'"event":{' in line]

    def spoiled(lines: list[bytes]) -> Outcome:
        file.write_bytes(b"".join(lines))
        (outcome,) = play(tmp_path)
        return outcome

    assert spoiled(sound).difference is None
    dial = next(n for n in actions if b'"Dial"' in sound[n])
    changed = [*sound]
    changed[dial] = changed[dial].replace(b'"endpoint":"fxs/1"', b'"endpoint":"fxs/9"')
    assert changed != sound
    found = spoiled(changed).difference
    assert found is not None
    assert found.where == f"{file.name}:{dial + 1}"
    assert found.fields == ["endpoint"]
    assert found.event is not None
    assert found.event["type"] == "LegOffered"
    # An action that is missing, one too many, an event that is missing.
    for n in actions[:-1]:
        found = spoiled([*sound[:n], *sound[n + 1 :]]).difference
        assert found is not None, sound[n]
        assert found.replay is not None
    found = spoiled([*sound[: dial + 1], sound[dial], *sound[dial + 1 :]]).difference
    assert found is not None
    assert found.journal is not None
    assert found.journal["type"] == "Dial"
    for n in events:
        if sound[n + 1 : n + 2] and n + 1 in actions:
            assert spoiled([*sound[:n], *sound[n + 1 :]]).difference is not None


def test_other_routes_show_what_they_would_change(tmp_path: Path) -> None:
    _journal_of_a_call(tmp_path)
    table = RouteTable([Route(name="nobody", refuse="busy")])
    (outcome,) = play(tmp_path, table)
    assert outcome.difference is not None
    assert outcome.difference.replay is not None
    assert "nobody" in outcome.difference.replay["text"]


def test_a_journal_without_a_runs_beginning(tmp_path: Path) -> None:
    file = _journal_of_a_call(tmp_path)
    lines = [line for line in file.read_bytes().splitlines(True) if b'{"opened"' not in line]
    file.write_bytes(b"".join(lines))
    assert play(tmp_path) == []
    with pytest.raises(UsageError, match="is no journal"):
        Tape(tmp_path / "nowhere")


@settings(max_examples=50, deadline=None)
@given(garbage=st.lists(st.binary(max_size=80), max_size=5), seed=st.randoms())
def test_garbage_is_counted_and_never_raises(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes], seed: Any
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    file = _journal_of_a_call(directory)
    lines = file.read_bytes().splitlines(keepends=True)
    for piece in garbage:
        lines.insert(seed.randrange(len(lines) + 1), piece + b"\n")
    victim = seed.randrange(len(lines))
    lines[victim] = lines[victim][: seed.randrange(len(lines[victim]) + 1)]
    file.write_bytes(b"".join(lines))
    tape = Tape(directory)
    for run in tape.runs():
        list(run.steps)
    never_ours = sum(piece[:1] >= b"\x80" for piece in garbage)
    assert tape.unreadable >= never_ours - 1  # the victim may be one of them
    play(directory)


def test_no_pin_is_in_a_journal_or_a_flow(tmp_path: Path) -> None:
    text = """\
[[routes]]
name = "arm"
called = "*5(XXXX)"
command = { endpoint = "mqtt/panel", verb = "ARM_AWAY" }
pins = { anna = "4711", bert = "1234" }

[[endpoints]]
id = "mqtt/panel"
duplex = "none"
---
0.0  LegOffered leg=fxs/1#1 endpoint=fxs/1 called=*54711
1.0  LegAnswered leg=fxs/1#1
2.0  CommandFinished command=id-2 ok=true
"""
    Site(tmp_path, text, keep_digits=True)
    (file,) = segments(tmp_path)
    assert b"4711" not in file.read_bytes()
    assert b"1234" not in file.read_bytes()
    (outcome,) = play(tmp_path)
    assert outcome.difference is None
    assert outcome.guessed == 1


async def test_the_runtimes_journal_with_alarms_over_a_restart(tmp_path: Path) -> None:
    first = Rig(tmp_path, FIRE)
    async with first.running():
        for value in range(3):
            first.host.emit(InputChanged(endpoint="far/panel", input="x", value=value))
        raise_fire(first)
        for value in range(3):
            first.host.emit(InputChanged(endpoint="far/panel", input="x", value=value))
        await first.see(Dial)
    second = Rig(tmp_path, FIRE)
    async with second.running():
        await second.see(AlarmRaised, alarm="zone 1")
        await second.see(Dial, endpoint="far/a")
    outcomes = play(tmp_path / "journal")
    assert len(outcomes) == 2
    assert [outcome.difference for outcome in outcomes] == [None, None]
    assert all(outcome.actions > 2 for outcome in outcomes)


def test_an_outcome_is_plain_data(tmp_path: Path) -> None:
    file = _journal_of_a_call(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line for line in lines if b'"Dial"' not in line))
    (outcome,) = play(tmp_path)
    document = json.loads(msgspec.json.encode(outcome))
    assert document["difference"]["replay"]["type"] == "Dial"
