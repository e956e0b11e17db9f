"""Link: the engine that a bus is driven with, as its profile says.

Sans-IO. The caller hands in octets (`receive`) and time (`advance`, at `due`), asks for commands
(`request`, `speak`), writes what `take` returns, and acts on the happenings.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.errors import PeerError, UsageError
from gateway.protocols.intercom.fields import Value, extract, matches, render
from gateway.protocols.intercom.framing import Frame, Framer, Spoiled
from gateway.protocols.intercom.openwebnet import Login
from gateway.protocols.intercom.profile import Command, Means, Poll, Profile, Rule

QUEUE: Final = 256
"""Commands that may wait; a further one is refused."""
SPEECH: Final = 3
"""Blocks of 20 ms that may wait for a station; beyond it the oldest is dropped."""
REPEAT_S: Final = 2.0
ECHO_S: Final = 0.05
FLOOD_REST_S: Final = 5.0
CHECK_S: Final = 0.25
SETUP_OCTETS: Final = 1024
_LEVELS: Final = ("alive", "floor", "input", "audio")
"""Meanings that a station repeats in each of its answers."""


class Heard(msgspec.Struct, frozen=True):
    """A frame that means something, of a station that is configured."""

    means: Means
    station: str
    rule: Rule
    values: dict[str, Value]

    def text(self, template: str) -> str:
        """A text of the rule with this frame's values; empty when it cannot be made."""
        try:
            return render(template, self.values)
        except UsageError:
            return ""


class Done(msgspec.Struct, frozen=True):
    """The outcome of a `request`."""

    request: int
    ok: bool
    why: str = ""


class Trouble(msgspec.Struct, frozen=True):
    """Something on the bus was not as it should be.

    kind: ``noise``, ``checksum``, ``half``, ``unknown_frame``, ``unknown_station``, ``echo``,
    ``collision``, ``no_reply``, ``flood``, ``late_audio``.
    """

    kind: str
    what: str = ""
    station: str = ""


class Presence(msgspec.Struct, frozen=True):
    """A station is there, or is not heard of, and why."""

    station: str
    there: bool
    why: str = ""


class Opened(msgspec.Struct, frozen=True):
    """Setup and log-in are over: commands can be sent."""


class Failed(msgspec.Struct, frozen=True):
    """Setup or log-in failed: the line must be closed."""

    why: str


Happening = Heard | Done | Trouble | Presence | Opened | Failed


class _Request(msgspec.Struct):
    number: int
    name: str
    command: Command
    station: str
    values: dict[str, Value]
    tries: int = 0
    collisions: int = 0
    routine: bool = False


class _Station(msgspec.Struct):
    heard_at: float | None = None
    asked_at: float = -1e9
    there: bool | None = None
    tokens: float = 0.0
    filled_at: float = 0.0
    said: tuple[tuple[str, str], ...] = ()
    flooding_until: float = 0.0
    sequence: int = 0


class Link:
    """One bus. `rate` is in bits a second, 0 where octets take no time; `chance` gives 0 to 1."""

    def __init__(
        self,
        profile: Profile,
        stations: Iterable[str],
        *,
        rate: float = 0.0,
        login: Login | None = None,
        polls: bool = True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.profile = profile
        self.counts: dict[str, int] = {"sent": 0, "received": 0, "retries": 0}
        self._framer = Framer(profile.framing, profile.checksum)
        self._login = login
        self._chance = chance
        line = profile.line
        bits = 1 + line.data_bits + (line.parity != "N") + line.stop_bits
        self._octet_s = bits / rate if rate else 0.0
        self._stations = {
            name: _Station(tokens=profile.flood_per_s, sequence=int(chance() * 254))
            for name in stations
        }
        self._polled = profile.polls if polls else ()
        self._number = 0
        self._sequence = 0
        self._reset(0.0)

    def _reset(self, now: float) -> None:
        self._framer.reset()
        self._out = bytearray()
        self._routine = True
        self._commands: deque[_Request] = deque()
        self._replies: deque[_Request] = deque(maxlen=QUEUE)
        self._speech: dict[str, deque[_Request]] = {}
        self._polls: dict[tuple[str, str], _Request] = {}
        self._waiting: _Request | None = None
        self._deadline = 0.0
        self._quiet_at = now
        self._sent_at = now
        self._received_at = now
        self._echo: bytearray = bytearray()
        self._echoed: _Request | None = None
        self._echo_due = 0.0
        self._once: dict[tuple[str, str, str], float] = {}
        self.routine_out = self.routine_in = True
        """Whether what `take` gave, and what `receive` took, was nothing but what goes on all day:
        polls and speech, and the same answers to them as before."""
        self._steps = list(self.profile.setup)
        self._raw = bytearray()
        self._step_due: float | None = None
        self._open = False
        self._opened_at = now
        self._next_check = now + CHECK_S
        self._schedule: list[list[Any]] = []
        """[due, poll, station]"""

    # Driving

    def start(self, now: float) -> list[Happening]:
        """The line has been opened: begin anew."""
        for place in self._stations.values():
            place.heard_at, place.there, place.flooding_until = None, None, 0.0
            place.asked_at = -1e9
        self._reset(now)
        if self._login is not None:
            self._login.begin()
            self._step_due = now + 10.0
            return []
        return self._setup(now)

    def take(self) -> bytes:
        """What is to be written now."""
        data = bytes(self._out)
        self._out.clear()
        self.routine_out, self._routine = self._routine, True
        return data

    def request(self, name: str, station: str, now: float, **values: Value) -> int:
        """Queue a command; `Done` with this number follows.

        Raises `UsageError`: no such command, or a value that does not fit.
        """
        self._number += 1
        request = self._make(name, station, values)
        self._frame(request)  # what cannot be written is refused now, not when its turn comes
        if len(self._commands) >= QUEUE:
            raise UsageError("too many commands wait for the bus")
        self._commands.append(request)
        self._pump(now)
        return request.number

    def speak(self, station: str, now: float, audio: bytes | None) -> bool:
        """Send 20 ms of audio, or ask for the station's. False: an older block was dropped."""
        speech = self.profile.audio
        assert speech is not None, "the bus carries no audio"
        name = speech.listen if audio is None else speech.send
        if audio is not None and station not in self._stations:
            name = speech.page
        queue = self._speech.setdefault(station, deque())
        late = len(queue) >= (1 if audio is None else SPEECH)
        if late:
            queue.popleft()
        queue.append(self._make(name, station, {} if audio is None else {"audio": audio}))
        queue[-1].routine = True
        self._pump(now)
        return not late

    @property
    def pending(self) -> bool:
        """Whether half a frame waits for the rest."""
        return self._framer.pending

    def urgent(self, name: str, station: str, **values: Value) -> bytes:
        """A command as octets, outside any queue: for when there is no time left."""
        return self._frame(self._make(name, station, values))

    def receive(self, data: bytes, now: float) -> list[Happening]:
        """Octets came."""
        found: list[Happening] = []
        self.routine_in = True
        gap = self.profile.framing.gap_ms / 1000
        if gap and self._framer.pending and now - self._received_at > gap:
            self._take_frames(self._framer.idle(), now, found)
        self._received_at = now
        self._quiet_at = max(self._quiet_at, now + self.profile.line.turnaround_ms / 1000)
        if self._waiting is not None:
            # The answer is on its way: let it come to its end.
            rest = self._octet_s * self.profile.framing.maximum
            self._deadline = max(self._deadline, now + min(rest, 0.1))
        if self._echo:
            data = self._strip_echo(data, now, found)
        if self._steps and self._login is None:
            self.routine_in = False
            self._raw += data
            self._raw = self._raw[-SETUP_OCTETS:]
            found += self._setup(now)
        else:
            self._take_frames(self._framer.feed(data), now, found)
        self._pump(now)
        return found

    def advance(self, now: float) -> list[Happening]:
        """Time has come to `now`."""
        found: list[Happening] = []
        self.routine_in = True
        framing = self.profile.framing
        patience = (framing.gap_ms or framing.stale_ms) / 1000
        if self._framer.pending and now >= self._received_at + patience:
            self._take_frames(self._framer.idle(), now, found)
        if self._echo and now >= self._echo_due:
            found.append(Trouble("echo", "what we sent did not come back"))
            self._settle_echo(now)
        if self._waiting is not None and now >= self._deadline and not self._echo:
            self._no_reply(self._waiting, now, found)
        if self._step_due is not None and now >= self._step_due:
            self._step_due = None
            found.append(Failed("the bus does not answer the setup or log-in"))
        if self._open:
            self._poll(now)
        if now >= self._next_check:
            self._next_check = now + CHECK_S
            if self._open:
                self._check(now, found)
        self._pump(now)
        return found

    def due(self) -> float:
        """When `advance` is to be called next, at the latest."""
        framing = self.profile.framing
        times = [self._next_check]
        if self._framer.pending:
            times.append(self._received_at + (framing.gap_ms or framing.stale_ms) / 1000)
        if self._echo:
            times.append(self._echo_due)
        elif self._waiting is not None:
            times.append(self._deadline)
        elif self._open and (self._commands or self._replies or self._speech or self._polls):
            times.append(self._quiet_at)
        if self._step_due is not None:
            times.append(self._step_due)
        if self._open and self._schedule:
            times.append(min(each[0] for each in self._schedule))
        return min(times)

    # Setup

    def _setup(self, now: float) -> list[Happening]:
        while self._steps:
            step = self._steps[0]
            if self._step_due is None:
                self._routine = False
                self._write(bytes.fromhex(step.send), now)
                self._step_due = now + step.within_s
            expected = bytes.fromhex(step.expect)
            at = self._raw.find(expected)
            if at < 0:
                return []
            del self._raw[: at + len(expected)]
            self._steps.pop(0)
            self._step_due = None
        return [self._opened(now)]

    def _opened(self, now: float) -> Opened:
        self._open = True
        self._opened_at = now
        self._step_due = None
        for poll in self._polled:
            names = list(self._stations) if poll.each else [""]
            for n, name in enumerate(names):
                self._schedule.append([now + poll.every_s * n / len(names), poll, name])
        return Opened()

    def _log_in(self, frame: Frame, now: float, found: list[Happening]) -> None:
        assert self._login is not None
        try:
            answers = self._login.receive(_whole(frame))
        except PeerError as error:
            self._step_due = None
            found.append(Failed(str(error)))
            return
        for answer in answers:
            self._routine = False
            self._write(answer.encode(), now)
        if self._login.done:
            found.append(self._opened(now))

    # Receiving

    def _take_frames(
        self, frames: list[Frame | Spoiled], now: float, found: list[Happening]
    ) -> None:
        for frame in frames:
            if isinstance(frame, Spoiled):
                self.routine_in = False
                found.append(Trouble(frame.kind, frame.octets[:32].hex(" ")))
            elif self._login is not None and not self._open:
                self.routine_in = False
                self._log_in(frame, now, found)
            else:
                self.counts["received"] += 1
                self._understand(frame, now, found)

    def _understand(self, frame: Frame, now: float, found: list[Happening]) -> None:
        values = extract(self.profile.fields, frame)
        whose = ""
        understood = False
        asked = self._waiting
        routine = asked is not None and asked.routine
        said: list[tuple[str, str]] = []
        for rule in self.profile.rules:
            mine = matches(rule, frame, values)
            if mine is None:
                continue
            understood = True
            try:
                station = render(rule.station or self.profile.station, mine)
            except UsageError:
                station = ""
            if rule.means is not None and station not in self._stations:
                if whose != station:
                    found.append(Trouble("unknown_station", station[:32]))
                    whose = station
                continue
            if station in self._stations and whose != station:
                whose = station
                if not self._here(station, now, found):
                    return
            routine = routine and rule.means in _LEVELS
            said.append((rule.name, _value(rule, mine)))
            self._complete(rule, station, mine, now, found)
            again = self._again(rule, station, mine, now)
            if rule.reply:
                self._replies.append(self._make(rule.reply, station, mine))
            if rule.means is not None and not again:
                found.append(Heard(rule.means, station, rule, mine))
        if whose in self._stations:
            place = self._stations[whose]
            routine = routine and place.said == tuple(said)
            place.said = tuple(said)
        if not (understood and routine):
            self.routine_in = False
        if not understood:
            found.append(Trouble("unknown_frame", frame.octets[:32].hex(" ")))

    def _here(self, name: str, now: float, found: list[Happening]) -> bool:
        """A station was heard; False when it says more than anybody can."""
        place = self._stations[name]
        rate = self.profile.flood_per_s
        place.tokens = min(rate, place.tokens + (now - place.filled_at) * rate)
        place.filled_at = now
        place.heard_at = now
        if place.tokens < 1:
            if place.flooding_until <= now:
                found.append(Trouble("flood", f"more than {rate:g} frames a second", name))
                place.there = False
                found.append(Presence(name, False, "floods the bus"))
            place.flooding_until = now + FLOOD_REST_S
            return False
        place.tokens -= 1
        if place.flooding_until > now:
            return False
        if not place.there:
            place.there = True
            found.append(Presence(name, True))
        return True

    def _complete(
        self, rule: Rule, station: str, values: Mapping[str, Value], now: float,
        found: list[Happening],
    ) -> None:  # fmt: skip
        waiting = self._waiting
        if waiting is None or (waiting.station and station and station != waiting.station):
            return
        if rule.answers:
            try:
                if render(rule.answers, values) != str(waiting.values.get("sequence")):
                    return
            except UsageError:
                return
        if rule.name in waiting.command.done:
            self._finish(waiting, True, "", found)
        elif rule.name in waiting.command.refused:
            self._finish(waiting, False, "the station refuses it", found)

    def _again(self, rule: Rule, station: str, values: Mapping[str, Value], now: float) -> bool:
        if not rule.once:
            return False
        try:
            key = (rule.name, station, render(rule.once, values))
        except UsageError:
            return False
        known = self._once.pop(key, -1e9)
        if len(self._once) >= QUEUE:
            del self._once[next(iter(self._once))]
        self._once[key] = now
        return now - known < REPEAT_S

    # Sending

    def _make(self, name: str, station: str, values: Mapping[str, Value]) -> _Request:
        command = self.profile.commands.get(name)
        if command is None:
            raise UsageError(f"the profile has no command {name!r}")
        place = self._stations.get(station)
        if place is not None and command.retries:
            # Counted for each station: one that is repeated differs from the one before it.
            sequence = place.sequence = place.sequence % 255 + 1
        else:
            sequence = self._sequence = self._sequence % 255 + 1
        fixed: dict[str, Value] = {"sequence": sequence, "station": station, **values}
        return _Request(self._number, name, command, station, fixed)

    def _frame(self, request: _Request) -> bytes:
        command = request.command
        return self._framer.encode(render(command.send, request.values), plain=command.plain)

    def _pump(self, now: float) -> None:
        while self._open and self._waiting is None and not self._echo and now >= self._quiet_at:
            request = self._choose()
            if request is None:
                return
            self._transmit(request, now)

    def _choose(self) -> _Request | None:
        if self._replies:
            return self._replies.popleft()
        if self._commands:
            return self._commands.popleft()
        if self._speech:
            station, queue = next(iter(self._speech.items()))
            del self._speech[station]
            request = queue.popleft()
            if queue:
                self._speech[station] = queue  # behind the other stations
            return request
        if self._polls:
            return self._polls.pop(next(iter(self._polls)))
        return None

    def _transmit(self, request: _Request, now: float) -> None:
        request.tries += 1
        self._routine = self._routine and request.routine
        data = self._frame(request)
        self._write(data, now)
        if request.station in self._stations:
            self._stations[request.station].asked_at = now
        if self.profile.line.echo:
            self._echo[:] = data
            self._echoed = request
            self._echo_due = self._quiet_at + ECHO_S
        if request.command.done:
            self._waiting = request
            self._deadline = self._quiet_at + request.command.reply_ms / 1000
        elif request.number:
            self._quiet_at += self.profile.line.turnaround_ms / 1000

    def _write(self, data: bytes, now: float) -> None:
        self.counts["sent"] += 1
        self._out += data
        self._sent_at = now
        self._quiet_at = max(self._quiet_at, now) + self._octet_s * len(data)

    def _finish(self, request: _Request, ok: bool, why: str, found: list[Happening]) -> None:
        self._waiting = None
        if not request.command.quiet:
            found.append(Done(request.number, ok, why))

    def _no_reply(self, request: _Request, now: float, found: list[Happening]) -> None:
        if request.tries <= request.command.retries:
            self._waiting = None
            self.counts["retries"] += 1
            self._commands.appendleft(request)
            return
        self._finish(request, False, "no reply", found)
        if not request.command.quiet:
            found.append(Trouble("no_reply", request.name, request.station))

    # Echo and collisions

    def _strip_echo(self, data: bytes, now: float, found: list[Happening]) -> bytes:
        same = 0
        while same < min(len(data), len(self._echo)) and data[same] == self._echo[same]:
            same += 1
        del self._echo[:same]
        if not self._echo:
            self._settle_echo(now)
            return data[same:]
        if same == len(data):
            return b""
        request = self._echoed
        self._settle_echo(now)
        found.append(Trouble("collision", data[same : same + 16].hex(" ")))
        self._waiting = None
        if request is not None:
            request.collisions += 1
            request.tries -= 1
            if request.collisions > 8:
                self._finish(request, False, "collisions", found)
            else:
                self._commands.appendleft(request)
                slots = 1 << min(request.collisions, 4)
                wait = self.profile.line.backoff_ms / 1000 * (1 + self._chance() * slots)
                self._quiet_at = max(self._quiet_at, now) + wait
        # Two frames on top of each other are neither.
        self._framer.reset()
        return b""

    def _settle_echo(self, now: float) -> None:
        self._echo.clear()
        self._echoed = None
        if self._waiting is not None:
            self._deadline = max(self._deadline, now + self._waiting.command.reply_ms / 1000)

    # Polls and liveness

    def _poll(self, now: float) -> None:
        for each in self._schedule:
            due, poll, name = each
            if due > now:
                continue
            each[0] = max(now, due + self._every(poll, name))
            if name:
                if now - self._stations[name].asked_at >= poll.every_s * 0.9:
                    self._polls.setdefault((poll.command, name), self._unasked(poll, name))
            elif now - self._sent_at >= poll.every_s * 0.9:
                self._polls.setdefault((poll.command, ""), self._unasked(poll, ""))
            else:
                each[0] = self._sent_at + poll.every_s

    def _every(self, poll: Poll, name: str) -> float:
        # Waiting for those who are away takes time from those who are there.
        away = bool(name) and self._stations[name].there is False
        return poll.every_s * (4 if away else 1)

    def _unasked(self, poll: Poll, name: str) -> _Request:
        request = self._make(poll.command, name, {})
        request.number = 0
        request.routine = True
        return request

    def _check(self, now: float, found: list[Happening]) -> None:
        silent_s = self.profile.silent_s
        for name, place in self._stations.items():
            if place.there is False and place.flooding_until:
                if now >= place.flooding_until:
                    place.flooding_until = 0.0
                    place.tokens = self.profile.flood_per_s
                    if not silent_s:
                        place.there = True
                        found.append(Presence(name, True))
                continue
            if not silent_s:
                if place.there is None:
                    place.there = True
                    found.append(Presence(name, True))
            elif place.there is not False:
                since = self._opened_at if place.heard_at is None else place.heard_at
                if now - since > silent_s:
                    place.there = False
                    found.append(Presence(name, False, f"not heard of for {silent_s:g} s"))


def _value(rule: Rule, values: Mapping[str, Value]) -> str:
    try:
        return render(rule.value, values)
    except UsageError:
        return ""


def _whole(frame: Frame) -> str:
    return frame.octets.decode("ascii", "replace") + "##"
