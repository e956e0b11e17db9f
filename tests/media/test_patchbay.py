"""Patchbay: what is asked of a leg is done when it has a stream, whatever the order."""

from __future__ import annotations

import gc
import itertools
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.actions import (
    BridgeKind,
    CloseBridge,
    GiveFloor,
    Join,
    Leave,
    OpenBridge,
    Play,
    Record,
    StopPlay,
    StopRecord,
    Vox,
    WatchSpeech,
)
from gateway.core.events import (
    AnnouncementEnded,
    DigitPressed,
    Event,
    FloorReleased,
    FloorRequested,
    MediaFlowing,
    MediaLost,
    ToneHeard,
)
from gateway.errors import DeviceError
from gateway.media.engine import Engine
from gateway.media.patchbay import Patchbay, resolve
from gateway.media.streams import (
    ByeReceived,
    DeviceFailed,
    DigitDetected,
    MediaEvent,
    MediaStarted,
    MediaTimeout,
    NullSpec,
    PlayEnded,
    RecordEnded,
    RtpSpec,
    SpeechChanged,
    StreamOptions,
    StreamStats,
    ToneDetected,
)
from gateway.testing import PaperEngine, PaperStream


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **facts: self.lines.append(f"{level}: {event} {facts}")


class Bay:
    def __init__(self, directory: Path = Path("/nonexistent"), **more: Any) -> None:
        self.engine = PaperEngine()
        self.log = _Log()
        self.events: list[Event] = []
        self.patchbay = Patchbay(
            self.engine,
            log=self.log,
            sounds_dir=directory / "sounds",
            recordings_dir=directory / "recordings",
            **more,
        )

    def open(self, leg: str, on_event: Any = None) -> PaperStream:
        stream = self.patchbay.open_stream(
            leg, NullSpec(), StreamOptions(), on_event, self.events.append
        )
        assert isinstance(stream, PaperStream)
        return stream

    def do(self, *actions: Any) -> None:
        for action in actions:
            self.patchbay.execute(action)


OPEN = OpenBridge(bridge="x", kind=BridgeKind.PAIR)
FLOOR = OpenBridge(bridge="x", kind=BridgeKind.FLOOR)


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", "join a", "join b"])))
def test_streams_and_seats_in_any_order(order: tuple[str, ...]) -> None:
    bay = Bay()
    bay.do(OPEN)
    for step in order:
        if step.startswith("join"):
            bay.do(Join(bridge="x", leg=step[-1], speaks=step != "join b", gain_db=3.0))
        else:
            bay.open(step)
    streams = {leg: bay.patchbay.stream(leg) for leg in "ab"}
    assert bay.engine.bridges == {
        "x": {streams["a"]: (True, True, 3.0), streams["b"]: (False, True, 3.0)}
    }


def test_a_new_stream_takes_the_seat_play_and_recording_of_the_old(tmp_path: Path) -> None:
    closed: list[tuple[str, StreamStats, int]] = []
    bay = Bay(tmp_path, on_closed=lambda *facts: closed.append(facts))
    first = bay.open("a")
    bay.do(OPEN, Join(bridge="x", leg="a"))
    bay.do(Play(leg="a", play="p", tone="dial", repeat=0), Record(leg="a", file="a.wav"))
    second = bay.open("a")
    assert first.closed
    assert closed == [("a", first.counters, first.id)]
    assert second in bay.engine.bridges["x"]
    assert second.asked == [
        ("play_tone", ("dial", "p", True)),
        # Whoever writes it sees that the first part is there.
        ("record", (str(tmp_path / "recordings" / "a.wav"), True)),
    ]


def test_the_end_of_a_leg_frees_everything() -> None:
    bay = Bay()
    stream = bay.open("a")
    bay.do(FLOOR, Join(bridge="x", leg="a"), GiveFloor(bridge="x", leg="a"))
    assert bay.engine.floors == {"x": stream}
    bay.patchbay.close_leg("a")
    assert stream.closed
    assert bay.engine.floors == {"x": None}
    bay.patchbay.close_leg("a")
    stream.report(MediaStarted(source="late"))
    assert bay.events == []


async def test_the_stream_of_a_leg_that_ended_needs_no_collector(tmp_path: Path) -> None:
    engine = Engine(max_streams=8)
    await engine.start()
    patchbay = Patchbay(engine, log=_Log(), sounds_dir=tmp_path, recordings_dir=tmp_path)
    gc.collect()
    gc.disable()
    try:
        stream = patchbay.open_stream(
            "sip/a#1", RtpSpec(local_ip="127.0.0.1"), StreamOptions(), None, lambda event: None
        )
        patchbay.close_leg("sip/a#1")
        kept = weakref.ref(stream)
        del stream
        assert kept() is None
    finally:
        gc.enable()
        await engine.stop()


def test_the_floor_waits_for_its_holder() -> None:
    bay = Bay()
    bay.do(FLOOR, Join(bridge="x", leg="a"), GiveFloor(bridge="x", leg="a"))
    assert bay.engine.floors == {"x": None}
    stream = bay.open("a")
    assert bay.engine.floors == {"x": stream}
    bay.do(GiveFloor(bridge="x"))
    assert bay.engine.floors == {"x": None}
    bay.do(GiveFloor(bridge="x", leg="a"), Leave(bridge="x", leg="a"))
    assert bay.engine.floors == {"x": None}
    assert bay.engine.bridges == {"x": {}}


def test_moving_to_another_bridge_and_dissolving_it() -> None:
    bay = Bay()
    stream = bay.open("a")
    other = OpenBridge(bridge="y", kind=BridgeKind.CONFERENCE)
    bay.do(OPEN, other, Join(bridge="x", leg="a"), Join(bridge="y", leg="a"))
    assert [list(members) for members in bay.engine.bridges.values()] == [[], [stream]]
    bay.do(Leave(bridge="x", leg="a"))  # left long ago
    assert list(bay.engine.bridges["y"]) == [stream]
    bay.do(CloseBridge(bridge="y"), CloseBridge(bridge="y"), GiveFloor(bridge="y", leg="a"))
    assert list(bay.engine.bridges) == ["x"]
    assert bay.log.lines == []


def test_plays(tmp_path: Path) -> None:
    bay = Bay(tmp_path)
    bay.do(Play(leg="a", play="1", file="fire.wav", repeat=3, gap_s=1.5))
    stream = bay.open("a")
    path = str(tmp_path / "sounds" / "fire.wav")
    assert stream.asked == [("play_file", (path, "1", 3, 1.5))]
    bay.do(Play(leg="a", play="2", tone="busy", repeat=1), StopPlay(leg="a", play="1"))
    assert stream.asked[1:] == [("play_tone", ("busy", "2", False))]
    bay.do(StopPlay(leg="a", play="2"), StopPlay(leg="a", play="2"), StopPlay(leg="b", play="2"))
    assert stream.asked[2:] == [("stop_play", ())]


@pytest.mark.parametrize(
    "play",
    [
        Play(leg="a", play="p", file="../../etc/passwd"),
        Play(leg="a", play="p", file="/etc/passwd"),
        Play(leg="a", play="p", file="a\0b"),
        Play(leg="a", play="p", text="no synthesiser here"),
    ],
)
def test_what_cannot_be_played_is_a_tone_that_ends_like_it(play: Play) -> None:
    bay = Bay()
    stream = bay.open("a")
    bay.do(play)
    assert stream.asked == [("play_tone", ("special_information", "p", False))]
    assert bay.log.lines[0].startswith("error: announcement cannot be played")
    stream.report(PlayEnded(play="p"))
    assert bay.events == [AnnouncementEnded(leg="a", play="p")]


@pytest.mark.parametrize("name", ["../out.wav", "/etc/out.wav", "", ".", "a/..", "a\0.wav"])
def test_recordings_stay_in_their_directory(tmp_path: Path, name: str) -> None:
    told: list[RecordEnded] = []
    bay = Bay(tmp_path, on_recorded=told.append)
    stream = bay.open("a")
    bay.do(Record(leg="a", file=name))
    assert stream.asked == []
    assert "leads out of" in bay.log.lines[0]
    assert [each.path.startswith("/") for each in told] == [True]
    bay.do(Record(leg="a", file="sub/in.wav"), StopRecord(leg="a"), StopRecord(leg="a"))
    path = str(tmp_path / "recordings" / "sub" / "in.wav")
    assert stream.asked == [("record", (path, True)), ("stop_record", ())]
    # The event loop asks no disk for anything.
    assert not (tmp_path / "recordings").exists()


async def test_a_call_outlives_its_recording(tmp_path: Path) -> None:
    told: list[RecordEnded] = []
    engine = Engine(max_streams=2)
    await engine.start()
    patchbay = Patchbay(
        engine,
        log=_Log(),
        sounds_dir=tmp_path,
        recordings_dir=tmp_path / "recordings",
        on_recorded=told.append,
    )
    try:
        patchbay.execute(Record(leg="a", file="../out.wav"))
        spec, none = RtpSpec(local_ip="127.0.0.1"), StreamOptions()
        assert patchbay.open_stream("a", spec, none, None, lambda event: None)
        assert [each.path for each in told] == [str(tmp_path / "out.wav")]
    finally:
        await engine.stop()


def test_a_symbolic_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "link").symlink_to("/etc")
    with pytest.raises(DeviceError, match="leads out"):
        resolve(tmp_path / "sounds", "link/passwd")


@given(st.text(max_size=30))
def test_no_name_leads_out(name: str) -> None:
    base = Path("/srv/sounds")
    try:
        path = resolve(base, name)
    except DeviceError:
        return
    assert str(path).startswith("/srv/sounds/")


@pytest.mark.parametrize(
    ("heard", "event"),
    [
        (
            DigitDetected(digit="5", duration_ms=80, via="inband"),
            DigitPressed(leg="a", digit="5", duration_ms=80, via="inband"),
        ),
        (ToneDetected(tone="busy"), ToneHeard(leg="a", tone="busy")),
        (MediaStarted(source="1.2.3.4:5"), MediaFlowing(leg="a", source="1.2.3.4:5")),
        (MediaTimeout(), MediaLost(leg="a")),
        (DeviceFailed(errno=5), MediaLost(leg="a")),
        (PlayEnded(play="p"), AnnouncementEnded(leg="a", play="p")),
        (PlayEnded(play=""), None),
        (ByeReceived(), None),
    ],
)
def test_what_the_engine_hears_goes_on_the_bus(heard: MediaEvent, event: Event | None) -> None:
    bay = Bay()
    bay.open("a").report(heard)
    assert bay.events == ([event] if event else [])
    taken = Bay()
    taken.open("a", lambda media: True).report(heard)
    assert taken.events == []


def test_an_old_stream_speaks_no_more() -> None:
    bay = Bay()
    first = bay.open("a")
    bay.open("a")
    first.closed = False  # its last events were on their way already
    first.report(MediaTimeout())
    assert bay.events == []


def test_a_voice_asks_for_the_floor() -> None:
    bay = Bay()
    watch = WatchSpeech(leg="a", vox=Vox(dbm0=-30))
    bay.do(watch)
    first = bay.open("a", lambda media: True)
    assert first.asked == [("watch_speech", (watch.vox,))]
    first.report(SpeechChanged(speaking=True, sent=True))
    assert bay.events == []
    first.report(SpeechChanged(speaking=True))
    assert bay.events == [FloorRequested(leg="a")], "whatever the adapter makes of it"
    first.report(SpeechChanged(speaking=False))
    assert bay.events == [FloorRequested(leg="a"), FloorReleased(leg="a")]


@pytest.mark.parametrize("how", ["another stream", "not watched", "watched anew"])
def test_a_voice_whose_end_nobody_hears_gives_the_floor_back(how: str) -> None:
    bay = Bay()
    stream = bay.open("a")
    bay.do(WatchSpeech(leg="a", vox=Vox()))
    stream.report(SpeechChanged(speaking=True))
    if how == "another stream":
        assert bay.open("a").asked == [("watch_speech", (Vox(),))]
    else:
        bay.do(WatchSpeech(leg="a", vox=Vox() if how == "watched anew" else None))
    assert bay.events == [FloorRequested(leg="a"), FloorReleased(leg="a")]
