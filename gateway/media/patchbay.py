"""Patchbay: puts legs' streams into bridges; carries out the media actions on the engine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from gateway.core.actions import (
    BridgeKind,
    CloseBridge,
    GiveFloor,
    Join,
    Leave,
    MediaAction,
    OpenBridge,
    Play,
    Record,
    StopPlay,
    StopRecord,
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
from gateway.errors import DeviceError, GatewayError
from gateway.media import signals
from gateway.media.impairments import Meter
from gateway.media.speech import Synthesiser
from gateway.media.streams import (
    DeviceFailed,
    DigitDetected,
    MediaEvent,
    MediaStarted,
    MediaTimeout,
    PlayEnded,
    RecordEnded,
    SpeechChanged,
    Stream,
    StreamOptions,
    StreamSpec,
    StreamStats,
    ToneDetected,
)

FALLBACK_TONE: Final = "special_information"
"""Heard in place of an announcement that cannot be played: somebody must notice."""


class MediaEngine(Protocol):
    """The engine as the patchbay uses it; see `gateway.media.engine`."""

    on_recorded: list[Callable[[RecordEnded], None]]

    def open(
        self,
        spec: StreamSpec,
        options: StreamOptions,
        on_event: Callable[[MediaEvent], None],
    ) -> Stream: ...

    def open_bridge(self, bridge: str, *, pass_digits: bool = True) -> None: ...

    def close_bridge(self, bridge: str) -> None: ...

    def join(
        self,
        bridge: str,
        stream: Any,
        *,
        speaks: bool = True,
        hears: bool = True,
        gain_db: float = 0.0,
    ) -> None: ...

    def leave(self, bridge: str, stream: Any) -> None: ...

    def set_floor(self, bridge: str, stream: Any) -> None: ...


class _Audio:
    """What one leg has, or will have once its stream is there."""

    __slots__ = ("emit", "play", "record", "seat", "speaking", "stream", "watch")

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.seat: Join | None = None
        self.play: Play | None = None
        self.record: Record | None = None
        self.watch: WatchSpeech | None = None
        self.speaking = False
        """The floor was requested for its voice."""
        self.emit: Callable[[Event], None] | None = None


class Patchbay:
    """Legs on one side, the engine on the other.

    Driven by `open_stream` and `close_leg` (adapters) and `execute` (the switchboard's actions).
    What is asked of a leg before it has a stream is kept and done when it gets one; `Join`,
    `Play` and `Record` of a leg outlive the replacement of its stream.
    """

    def __init__(
        self,
        engine: MediaEngine,
        *,
        log: Any,
        sounds_dir: Path,
        recordings_dir: Path,
        synthesiser: Synthesiser | None = None,
        on_opened: Callable[[str, Stream], None] | None = None,
        on_closed: Callable[[str, StreamStats, int], None] | None = None,
        on_recorded: Callable[[RecordEnded], None] | None = None,
    ) -> None:
        """on_opened: told leg and stream of each new one. on_closed: told leg, last counters and
        number of each before it is closed. on_recorded: told of each recording of the engine
        that is complete, ends early or cannot begin, whether its leg is over or not."""
        self.engine = engine
        self._log = log
        self._sounds_dir = sounds_dir
        self._recordings_dir = recordings_dir
        self._synthesiser = synthesiser
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._on_recorded = on_recorded
        if on_recorded is not None:
            engine.on_recorded.append(on_recorded)
        self._legs: dict[str, _Audio] = {}
        self._floors: dict[str, str | None] = {}
        """Who has the floor in each half-duplex bridge."""
        self._bridges: dict[str, dict[str, _Audio]] = {}
        """Open bridges, and who has a seat in each, by leg."""
        self._do: dict[type[Any], Callable[[Any], None]] = {
            OpenBridge: self._open_bridge,
            Join: self._join,
            Leave: self._leave,
            GiveFloor: self._give_floor,
            WatchSpeech: self._watch_speech,
            CloseBridge: self._close_bridge,
            Play: self._play,
            StopPlay: self._stop_play,
            Record: self._record,
            StopRecord: self._stop_record,
        }

    def open_stream(
        self,
        leg: str,
        spec: StreamSpec,
        options: StreamOptions,
        on_event: Callable[[MediaEvent], bool] | None,
        emit: Callable[[Event], None],
    ) -> Stream:
        """Give a leg its stream, in place of the one it had. Raises `DeviceError`."""

        def report(event: MediaEvent) -> None:
            self._report(leg, stream, event, on_event, emit)

        stream = self.engine.open(spec, options, report)
        audio = self._legs.setdefault(leg, _Audio())
        if audio.stream is not None:
            self._close(leg, audio.stream)
        audio.stream, audio.emit = stream, emit
        if self._on_opened is not None:
            self._on_opened(leg, stream)
        if audio.watch is not None:
            self._start_watch(audio, audio.watch)
        if audio.seat is not None:
            self._take_seat(audio, audio.seat)
        if audio.play is not None:
            self._start_play(audio, audio.play)
        if audio.record is not None:
            self._start_record(audio, audio.record)
        return stream

    def close_leg(self, leg: str) -> None:
        """The leg is over: forget what was asked for it, free its stream."""
        audio = self._legs.pop(leg, None)
        if audio is None:
            return
        self._unseat(leg, audio)
        if audio.stream is not None:
            try:
                if audio.record is not None:
                    audio.stream.stop_record()
            finally:
                self._close(leg, audio.stream)
        for bridge, holder in self._floors.items():
            if holder == leg:
                self._floors[bridge] = None
                self.engine.set_floor(bridge, None)

    def _close(self, leg: str, stream: Stream) -> None:
        try:
            stream.close()
        finally:
            # Closing has read the last counters.
            if self._on_closed is not None:
                self._on_closed(leg, stream.stats(), stream.id)

    def stream(self, leg: str) -> Stream | None:
        """The leg's stream, None before it has one."""
        audio = self._legs.get(leg)
        return audio.stream if audio else None

    def stats(self, leg: str) -> StreamStats | None:
        """The leg's present counters, None before it has a stream."""
        stream = self.stream(leg)
        return stream.stats() if stream else None

    def meter(self, leg: str) -> Meter | None:
        """What tells whether the leg's speech arrives; None before it has a stream."""
        stream = self.stream(leg)
        return stream.meter() if stream else None

    def execute(self, action: MediaAction) -> None:
        """Carry out one action. What cannot be done is logged; a call outlives its audio."""
        try:
            self._do[type(action)](action)
        except GatewayError as error:
            self._log.warning(
                "media action failed",
                action=type(action).__name__,
                leg=getattr(action, "leg", None) or "",
                error=str(error),
            )

    # Bridges

    def _open_bridge(self, action: OpenBridge) -> None:
        # On a half-duplex bridge digits steer the gateway (floor, acknowledgement): on the air
        # they would be noise.
        self.engine.open_bridge(action.bridge, pass_digits=action.kind is not BridgeKind.FLOOR)
        self._bridges[action.bridge] = {}
        if action.kind is BridgeKind.FLOOR:
            self._floors[action.bridge] = None
            self.engine.set_floor(action.bridge, None)

    def _join(self, action: Join) -> None:
        audio = self._legs.setdefault(action.leg, _Audio())
        if audio.seat is not None and audio.seat.bridge != action.bridge and audio.stream:
            self.engine.leave(audio.seat.bridge, audio.stream)
        self._unseat(action.leg, audio)
        audio.seat = action
        if action.bridge in self._bridges:
            self._bridges[action.bridge][action.leg] = audio
        if audio.stream is not None:
            self._take_seat(audio, action)

    def _unseat(self, leg: str, audio: _Audio) -> None:
        if audio.seat is not None:
            self._bridges.get(audio.seat.bridge, {}).pop(leg, None)
            audio.seat = None

    def _take_seat(self, audio: _Audio, seat: Join) -> None:
        if seat.bridge not in self._bridges or audio.stream is None:
            return
        self.engine.join(
            seat.bridge,
            audio.stream,
            speaks=seat.speaks,
            hears=seat.hears,
            gain_db=seat.gain_db,
        )
        if self._floors.get(seat.bridge) == seat.leg:
            self.engine.set_floor(seat.bridge, audio.stream)

    def _leave(self, action: Leave) -> None:
        audio = self._legs.get(action.leg)
        if audio is None or audio.seat is None or audio.seat.bridge != action.bridge:
            return
        self._unseat(action.leg, audio)
        if self._floors.get(action.bridge) == action.leg:
            self._floors[action.bridge] = None
            self.engine.set_floor(action.bridge, None)
        if audio.stream is not None:
            self.engine.leave(action.bridge, audio.stream)

    def _give_floor(self, action: GiveFloor) -> None:
        if action.bridge not in self._bridges:
            return
        self._floors[action.bridge] = action.leg
        audio = self._legs.get(action.leg) if action.leg else None
        seated = (
            audio is not None and audio.seat is not None and (audio.seat.bridge == action.bridge)
        )
        # A holder without a stream yet gets the floor when he takes his seat.
        self.engine.set_floor(action.bridge, audio.stream if audio and seated else None)

    def _watch_speech(self, action: WatchSpeech) -> None:
        audio = self._legs.setdefault(action.leg, _Audio())
        audio.watch = action if action.vox is not None else None
        self._start_watch(audio, action)

    def _start_watch(self, audio: _Audio, action: WatchSpeech) -> None:
        if audio.speaking and audio.emit is not None:
            # The end of this speech will not be reported any more.
            audio.speaking = False
            audio.emit(FloorReleased(leg=action.leg))
        if audio.stream is not None:
            audio.stream.watch_speech(action.vox)

    def _close_bridge(self, action: CloseBridge) -> None:
        if action.bridge not in self._bridges:
            return
        self._floors.pop(action.bridge, None)
        for audio in self._bridges.pop(action.bridge).values():
            if audio.seat is not None and audio.seat.bridge == action.bridge:
                audio.seat = None
        self.engine.close_bridge(action.bridge)

    # Plays and recordings

    def _play(self, action: Play) -> None:
        audio = self._legs.setdefault(action.leg, _Audio())
        audio.play = action
        if audio.stream is not None:
            self._start_play(audio, action)

    def _start_play(self, audio: _Audio, action: Play) -> None:
        stream = audio.stream
        if stream is None:
            return
        try:
            if action.tone:
                stream.play_tone(action.tone, play=action.play, repeat=action.repeat != 1)
            elif action.file:
                self._play_file(stream, action, resolve(self._sounds_dir, action.file))
            elif action.text:
                self._speak(action)
            elif action.signal:
                pcm = signals.samples(action.signal, action.level_dbm0, action.seconds)
                stream.play_samples(pcm, rate=signals.RATE, play=action.play)
        except GatewayError as error:
            self._cannot_play(stream, action, error)

    def _play_file(self, stream: Stream, action: Play, path: Path) -> None:
        stream.play_file(str(path), play=action.play, repeat=action.repeat, gap_s=action.gap_s)

    def _speak(self, action: Play) -> None:
        if self._synthesiser is None:
            raise DeviceError(f"no speech synthesiser is configured for {action.text[:40]!r}")

        def spoken(result: Path | DeviceError) -> None:
            audio = self._legs.get(action.leg)
            # Stopped, ended or overtaken by another play while the synthesiser was at work.
            if audio is None or audio.play is not action or audio.stream is None:
                return
            try:
                if isinstance(result, DeviceError):
                    raise result
                self._play_file(audio.stream, action, result)
            except GatewayError as error:
                self._cannot_play(audio.stream, action, error)

        self._synthesiser.speak(action.text, spoken)

    def _cannot_play(self, stream: Stream, action: Play, error: GatewayError) -> None:
        self._log.error("announcement cannot be played", leg=action.leg, error=str(error))
        try:
            # As a play of the same name: what waits for its end is not left waiting.
            stream.play_tone(FALLBACK_TONE, play=action.play, repeat=action.repeat == 0)
        except GatewayError as second:
            self._log.error("nor its replacement", leg=action.leg, error=str(second))

    def _stop_play(self, action: StopPlay) -> None:
        audio = self._legs.get(action.leg)
        if audio is None or audio.play is None or audio.play.play != action.play:
            return
        audio.play = None
        if audio.stream is not None:
            audio.stream.stop_play()

    def _record(self, action: Record) -> None:
        audio = self._legs.setdefault(action.leg, _Audio())
        audio.record = action
        if audio.stream is not None:
            self._start_record(audio, action)

    def _start_record(self, audio: _Audio, action: Record) -> None:
        if audio.stream is None:
            return
        try:
            audio.stream.record(str(below(self._recordings_dir, action.file)))
        except DeviceError as error:
            # A call outlives its recording, also where it only gets another stream.
            self._log.warning("cannot record", leg=action.leg, error=str(error))
            if self._on_recorded is not None:
                path = os.path.abspath(self._recordings_dir / action.file)
                self._on_recorded(RecordEnded(path=path, duration_s=0.0, error=str(error)))

    def _stop_record(self, action: StopRecord) -> None:
        audio = self._legs.get(action.leg)
        if audio is None or audio.record is None:
            return
        audio.record = None
        if audio.stream is not None:
            audio.stream.stop_record()

    # What the engine reports

    def _report(
        self,
        leg: str,
        stream: Stream,
        event: MediaEvent,
        on_event: Callable[[MediaEvent], bool] | None,
        emit: Callable[[Event], None],
    ) -> None:
        audio = self._legs.get(leg)
        if audio is None or audio.stream is not stream:
            return
        if isinstance(event, PlayEnded) and audio.play and audio.play.play == event.play:
            audio.play = None
        if isinstance(event, SpeechChanged):
            # Not for adapters: one that kept the end of speech would keep a transmitter keyed.
            if not event.sent:
                audio.speaking = event.speaking
                emit(FloorRequested(leg=leg) if event.speaking else FloorReleased(leg=leg))
            return
        if on_event is not None and on_event(event):
            return
        match event:
            case DigitDetected():
                emit(
                    DigitPressed(
                        leg=leg,
                        digit=event.digit,
                        duration_ms=event.duration_ms,
                        via=event.via,
                    )
                )
            case ToneDetected():
                emit(ToneHeard(leg=leg, tone=event.tone))
            case MediaStarted():
                emit(MediaFlowing(leg=leg, source=event.source))
            case MediaTimeout():
                emit(MediaLost(leg=leg))
            case PlayEnded():
                if event.play:
                    emit(AnnouncementEnded(leg=leg, play=event.play))
            case DeviceFailed():
                why = os.strerror(event.errno) if event.errno else "end of file"
                name = errno.errorcode.get(event.errno, "")
                self._log.warning("audio device failed", leg=leg, error=why, errno=name)
                emit(MediaLost(leg=leg))
            case _:
                pass


def below(directory: Path, name: str) -> Path:
    """The file `name` below `directory` by its name alone: no disk is asked, as it may hang.

    Raises `DeviceError` when the name leads out of it, or is none.
    """
    base, path = (os.path.abspath(each) for each in (directory, directory / name))
    if "\0" in name or os.path.commonpath((base, path)) != base or path == base:
        raise DeviceError(f"{name!r} leads out of {directory}")
    return Path(path)


def resolve(directory: Path, name: str) -> Path:
    """The file `name` below `directory`.

    Raises `DeviceError` when the name leads out of it: names may come from a panel's text.
    """
    base = directory.resolve()
    try:
        path = (base / name).resolve()
    except (OSError, ValueError) as error:
        raise DeviceError(f"{name!r} is no file name: {error}") from None
    if not path.is_relative_to(base) or path == base:
        raise DeviceError(f"{name!r} leads out of {directory}")
    return path
