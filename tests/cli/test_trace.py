"""trace: one timeline, live and from the journal."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from gateway.errors import UsageError
from gateway.timeline import search
from gateway.timeline.items import Picker
from tests.box import Box


def _call(box: Box) -> str:
    call: str = box.json("dial", "loopback/alice", "loopback/bob", "--wait")["call"]
    box.ok("hangup", call)
    box.wait_for_no_call()
    return call


def _rungs(text: str) -> list[list[str]]:
    """Marks and name of each line of a ladder."""
    found = re.findall(r"^\d\d:\d\d:\d\d\.\d+ +\+[\d.]+  ([*<>|](?: +[*<>|])*) +(.*)$", text, re.M)
    return [[marks.replace(" ", ""), words] for marks, words in found]


def test_a_call_as_a_ladder(box: Box) -> None:
    _call(box)
    _call(box)
    call = _call(box)
    text = box.ok("trace", call[-8:])
    rungs = _rungs(text)
    names = [words.split()[0] for _, words in rungs]
    assert names[0] == "CallRequested"
    assert names.count("Dial") == 2
    assert names.count("LegEnded") == 2
    # Told by nobody: the bridge has neither leg nor call, but belongs to it.
    assert names.index("OpenBridge") < names.index("Join")
    assert names[-1] == "CloseBridge"
    # The networks are the columns, and hold their endpoints' lanes.
    networks, *lanes = text.splitlines()[2:5]
    assert networks.split() == ["gateway", "loopback"]
    assert [lane.split()[:-2] for lane in lanes] == [
        ["|", "loopback/alice"], ["|", "|", "loopback/bob"]
    ]  # fmt: skip
    column = networks.index("loopback")
    assert lanes[0].index("loopback/alice") == column
    assert {line[column] for line in text.splitlines()[4:]} == set("|<>")
    dials = [marks for marks, words in rungs if words.startswith("Dial")]
    assert dials == ["|<|", "||<"]
    assert ["||>", "loopback: picked up"] in rungs
    # Only this call: the legs of the others are elsewhere.
    assert "#2" not in text
    assert text == box.ok("trace", "last")
    assert text == box.ok("trace", "loopback/bob#3")
    assert text == box.ok("trace", "loopback/bob")
    assert "trace" in box.ok("trace", "loopback/bob#1")
    # What was then: the newest that there was.
    assert box.json("trace", "loopback/bob", "--at", "now")["trace"] in text
    done = box.run("trace", "loopback/bob", "--at", "2001-01-01")
    assert (done.returncode, "nothing of loopback/bob up to then" in done.stderr) == (1, True)


def test_what_was_at_a_time(tmp_path: Path) -> None:
    """Three calls of one endpoint, an hour apart: the one is meant that was the newest then."""
    traces = [f"0199c0de-0000-7000-8000-00000000000{n}" for n in range(3)]
    first = 1_800_000_000
    lines = [
        f'{{"at":{first + 3600 * n}.5,"trace":"{trace}","action":{{"leg":"radio/1#{n}"}}}}\n'
        for n, trace in enumerate(traces)
    ]
    journal = tmp_path / "journal"
    journal.mkdir()
    name = f"{1_800_000_000_000:012x}"
    (journal / f"journal-{name[:8]}-{name[8:]}-7000-8000-000000000000.jsonl").write_text(
        "".join(lines)
    )
    for n, trace in enumerate(traces):
        assert search.find(journal, "radio/1", first + 3600 * n + 60) == trace
        assert search.find(journal, "last", first + 3600 * n + 60) == trace
    with pytest.raises(UsageError, match="up to then"):
        search.find(journal, "radio/1", first)


def test_the_last_is_a_call_and_a_long_journal_is_read_in_parts(tmp_path: Path) -> None:
    """A contact that opens after the call is not what is asked for; what is of the call is found
    wherever it stands."""
    call, contact = (f"0199c0de-0000-7000-8000-00000000000{n}" for n in range(2))
    event = (
        '{{"id":"i","box":"b","at":{at},"mono":{at},"adapter":"a",'
        '"trace":"{trace}","event":{body}}}\n'
    )
    input_ = '{"type":"InputChanged","endpoint":"modbus/x","input":"door","value":1.0}'
    opened = '{"type":"OpenBridge","bridge":"b"}'
    other = event.format(at=1, trace="other-trace", body=input_) * 9000
    lines = [
        other,
        event.format(at=2, trace="", body=opened).replace('"event"', '"action"'),
        event.format(at=2, trace=call, body='{"type":"LegRinging","leg":"fxs/1#1"}'),
        other,
        event.format(at=3, trace=call, body='{"type":"LegEnded","leg":"fxs/1#1","cause":"normal"}'),
        event.format(at=4, trace=contact, body=input_),
    ]
    name = "journal-0199c0de-0000-7000-8000-000000000000.jsonl"
    (tmp_path / name).write_text("".join(lines))
    assert (tmp_path / name).stat().st_size > 2 << 20
    assert search.find(tmp_path, "last") == call
    assert search.find(tmp_path, "modbus/x") == contact
    assert search.find(tmp_path, "fxs/1#1") == call
    with pytest.raises(UsageError, match="no endpoint fxs/2: did you mean fxs/1"):
        search.find(tmp_path, "fxs/2", known=["fxs/1", "modbus/x"])
    names = [item.name for item in search.read(tmp_path, Picker(call))]
    assert names == ["LegRinging", "LegEnded"]
    (tmp_path / name).write_text("".join(lines[-1:]))
    assert search.find(tmp_path, "last") == contact


def test_as_json_and_as_a_page(box: Box) -> None:
    call = _call(box)
    found = box.json("trace", call)
    assert found["box"] == "lab"
    assert {item["kind"] for item in found["items"]} == {"event", "action", "in", "out"}
    assert [item["at"] for item in found["items"]] == sorted(i["at"] for i in found["items"])
    assert {item["call"] for item in found["items"]} == {call, ""}
    box.ok("trace", "last", "--html", "page.html")
    page = (box.home / "page.html").read_text()

    class Reader(html.parser.HTMLParser):
        tags: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags.append(tag)

    Reader().feed(page)
    assert Reader.tags.count("tr") == len(found["items"]) + 2
    assert '<th colspan="2">loopback</th>' in page
    assert not {"script", "img", "link", "iframe"} & set(Reader.tags)
    assert "http" not in page.replace("http-equiv", "")


def test_without_a_gateway(box: Box) -> None:
    call = _call(box)
    live = _rungs(box.ok("trace", call))
    box.kill()
    done = box.run("trace", call[-8:])
    assert done.returncode == 0
    assert "read from its journal" in done.stderr
    assert "Without what went over the wires" in done.stdout
    assert _rungs(done.stdout) == [rung for rung in live if not rung[1].startswith("loopback: ")]
    # Its legs are counted from 1 again: what has the same name is not the same.
    box.start()
    _call(box)
    text = box.ok("trace", call[-8:])
    assert [words.split()[0] for _, words in _rungs(text)].count("LegEnded") == 2


def test_following_what_comes_next(box: Box) -> None:
    follower = subprocess.Popen(
        box.command("trace", "next", "--follow", "--json"),
        env=box.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout is not None
    timer = threading.Timer(90.0, follower.kill)
    timer.start()
    try:
        # It listens as soon as it has taken its place among the open requests.
        seen: list[dict[str, object]] = []
        names: list[str] = []
        done = threading.Event()

        def read() -> None:
            assert follower.stdout is not None
            for line in follower.stdout:
                seen.append(json.loads(line))
                names.append(str(seen[-1].get("name", "")))
                if names.count("LegEnded") == 2:
                    done.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not seen:
            _call(box)
        assert done.wait(10.0), names
        assert seen[0]["line"] == "head"
        assert names[1] == "CallRequested"
        assert "loopback" in names
    finally:
        timer.cancel()
        follower.kill()
        follower.wait()
        reader.join(5.0)
        follower.stdout.close()


def test_what_cannot_be_traced(box: Box) -> None:
    done = box.run("trace", "last")
    assert (done.returncode, "nothing has been traced yet" in done.stderr) == (1, True)
    done = box.run("trace", "0123abcd")
    assert (done.returncode, "the journal has nothing of 0123abcd" in done.stderr) == (1, True)
    done = box.run("trace", "no such thing")
    assert (done.returncode, "is no trace, call, leg or endpoint" in done.stderr) == (1, True)
    done = box.run("trace", "next")
    assert (done.returncode, "needs --follow" in done.stderr) == (1, True)
    assert box.run("trace", "last", "--html", "x", "-f").returncode == 2


def test_a_capture_of_what_is_over(box: Box) -> None:
    call = _call(box)
    said = box.ok("capture", call[-8:])
    (file,) = box.home.glob("*.pcapng")
    trace = box.json("trace", call)["trace"]
    assert file.name == f"{trace}.pcapng"
    assert said.startswith(f"{file.name}: ")
    assert file.stat().st_mode & 0o777 == 0o600
    octets = file.read_bytes()
    assert octets[:4] == bytes.fromhex("0a0d0d0a")
    assert b"loopback loopback/" in octets
    piped = subprocess.run(
        box.command("capture", "--last", "5m", "-o", "-"),
        env=box.environment, capture_output=True, timeout=90, check=True,
    )  # fmt: skip
    assert piped.stdout[:4] == octets[:4]
    assert b"treat it as a recording" in piped.stderr


def test_what_cannot_be_captured(box: Box) -> None:
    for words in ((), ("last", "--last", "5m"), ("--last", "5m", "-f"), ("--last", "soon")):
        assert box.run("capture", *words).returncode == 2, words
    for words in (("next",), ("0123abcd",)):
        assert box.run("capture", *words).returncode == 1, words
    assert not list(box.home.glob("*.pcapng"))
    box.kill()
    assert box.run("capture", "last").returncode == 3
