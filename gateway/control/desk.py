"""The operations: what each path of the control interface answers."""

from __future__ import annotations

import asyncio
import difflib
import fnmatch
import importlib.metadata
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa

from gateway.changes import Change, between
from gateway.config import load
from gateway.control import capturing, diagnosis, history, recorded, tracing, views
from gateway.control.explain import Chance, explain, probe
from gateway.control.metrics import exposition
from gateway.control.openapi import Operation
from gateway.control.questions import (
    AlarmsQuery,
    CallsQuery,
    CaptureQuery,
    ChangesQuery,
    DiagnosisQuery,
    EndpointsQuery,
    EventsQuery,
    ExplainQuery,
    Nothing,
    RecordsQuery,
    StatsQuery,
    TraceQuery,
)
from gateway.control.shapes import (
    AcknowledgeAnswer,
    AcknowledgeRequest,
    AdapterView,
    AlarmView,
    CallDetail,
    CallView,
    DialAnswer,
    DialRequest,
    EndpointView,
    Explanation,
    HangupAnswer,
    HangupRequest,
    PathTestAnswer,
    PathTestRequest,
    ReloadAnswer,
    ReloadRequest,
    SafeStateAnswer,
    SafeStateRequest,
    Status,
    StopAnswer,
    StopRequest,
    TraceHead,
)
from gateway.core import events
from gateway.core.actions import Note
from gateway.core.calls import Call
from gateway.core.endpoints import Target
from gateway.core.events import (
    CallRequested,
    HangupRequested,
    LegEnded,
    PathTestRequested,
    Priority,
)
from gateway.diagnosis import Diagnosis
from gateway.errors import ConfigError, GatewayError
from gateway.exchange import Feed
from gateway.kept import KeptConfiguration
from gateway.pathtests import SECONDS, Limits, signal_of
from gateway.records import CallRecord, Database, LegRecord, Measures
from gateway.reload import Reloader
from gateway.runtime import Gateway
from gateway.timeline.items import Item

FEED: Final = 10_000
"""Envelopes that a slow follower may be behind; then the oldest are dropped, and it is told."""
HEARTBEAT_S: Final = 15.0
"""An empty line this often, so that a follower who went away is noticed."""
DECIDE_S: Final = 2.0
"""How long the switchboard may take to begin a call that was asked for."""

_T = TypeVar("_T")

OPERATIONS: Final = (
    Operation("GET", "/v1/status", "status", Status, summary="The gateway in one answer."),
    Operation("GET", "/v1/adapters", "adapters", list[AdapterView], summary="All adapters."),
    Operation(
        "GET", "/v1/endpoints", "endpoints", list[EndpointView], EndpointsQuery,
        summary="Endpoints, by id.",
    ),
    Operation("GET", "/v1/calls", "calls", list[CallView], CallsQuery, summary="Calls now up."),
    Operation(
        "GET", "/v1/calls/{call}", "call", CallDetail,
        summary="One call, by its id or the end of it, a leg's id, or an endpoint.",
    ),
    Operation(
        "GET", "/v1/alarms", "alarms", list[AlarmView], AlarmsQuery,
        summary="Alarms, the newest last.",
    ),
    Operation(
        "GET", "/v1/explain", "explain", Explanation, ExplainQuery,
        summary="What the routes would do with an event; nothing happens.",
    ),
    Operation(
        "GET", "/v1/events", "events", dict[str, Any], EventsQuery, lines=True,
        summary="Events and actions as CloudEvents 1.0, one in a line. Empty lines only show that "
        "the connection lives; crosspoint.control.Dropped says that the reader was too slow.",
    ),
    Operation(
        "GET", "/v1/trace", "trace", TraceHead | Item, TraceQuery, lines=True,
        summary="The timeline of one trace: a head, then its items, one in a line. Empty lines "
        "only show that the connection lives.",
    ),
    Operation(
        "GET", "/v1/diagnosis", "diagnosis", Diagnosis, DiagnosisQuery,
        summary="What was wrong with a call, live or over: one verdict, then the evidence.",
    ),
    Operation(
        "GET", "/v1/capture", "capture", bytes, CaptureQuery, octets="application/x-pcapng",
        summary="A pcapng file of one trace, or of everything of the last minutes.",
    ),
    Operation(
        "GET", "/v1/records/calls", "call_records", list[CallRecord], RecordsQuery,
        summary="Call records, by their demand, newest first.",
    ),
    Operation(
        "GET", "/v1/records/legs", "leg_records", list[LegRecord], RecordsQuery,
        summary="Leg records, by their end, newest first.",
    ),
    Operation(
        "GET", "/v1/metrics", "metrics", str, text=True,
        summary="Figures for Prometheus, in its text format.",
    ),
    Operation(
        "GET", "/v1/stats", "stats", list[Measures], StatsQuery,
        summary="Contact-centre measures of a period.",
    ),
    Operation(
        "POST", "/v1/dial", "dial", DialAnswer, Nothing, DialRequest,
        summary="Call one place, then another, and connect both.",
    ),
    Operation(
        "POST", "/v1/test", "test", PathTestAnswer, Nothing, PathTestRequest,
        summary="Test the path to an endpoint; answered when the test is over.",
    ),
    Operation(
        "POST", "/v1/hangup", "hangup", HangupAnswer, Nothing, HangupRequest,
        summary="End a call or a leg.",
    ),
    Operation(
        "POST", "/v1/acknowledge", "acknowledge", AcknowledgeAnswer, Nothing, AcknowledgeRequest,
        summary="Acknowledge alarms.",
    ),
    Operation(
        "POST", "/v1/safe-state", "safe_state", SafeStateAnswer, Nothing, SafeStateRequest,
        summary="Put outputs to rest.",
    ),
    Operation(
        "POST", "/v1/reload", "reload", ReloadAnswer, Nothing, ReloadRequest,
        summary="Read the configuration again: what changes, adapter by adapter.",
    ),
    Operation(
        "GET", "/v1/configurations", "configurations", list[KeptConfiguration],
        summary="The last configurations that were in use, oldest first.",
    ),
    Operation(
        "GET", "/v1/changes", "changes", list[Change], ChangesQuery,
        summary="What one of them does differently from the one before it.",
    ),
    Operation(
        "POST", "/v1/stop", "stop", StopAnswer, Nothing, StopRequest, summary="Stop the gateway."
    ),
)  # fmt: skip


class Refused(GatewayError):
    """A request that is not carried out: status, why and what to do."""

    def __init__(self, status: int, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.status, self.remedy = status, remedy


class Desk:
    """Answers for one gateway. Runs on its event loop; what reads files goes into a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.reloader = Reloader(gateway)
        try:
            self.version = importlib.metadata.version("crosspoint-gateway")
        except importlib.metadata.PackageNotFoundError:
            self.version = "0"
        self._feeds: set[Feed] = set()

    def close(self) -> None:
        """End all streams."""
        for feed in list(self._feeds):
            feed.close()

    # Looking

    def status(self, query: Nothing) -> Status:
        return views.status(self.gateway, self.version)

    def metrics(self, query: Nothing) -> bytes:
        return exposition(self.gateway, self.version)

    def adapters(self, query: Nothing) -> list[AdapterView]:
        return views.adapters(self.gateway)

    def endpoints(self, query: EndpointsQuery) -> list[EndpointView]:
        return [
            view
            for view in views.endpoints(self.gateway)
            if _matches(view.id, query.endpoint) and query.condition in ("", view.condition)
        ]

    async def calls(self, query: CallsQuery) -> list[CallView]:
        return await views.calls(
            self.gateway, query.endpoint, query.limit or None, audio=query.audio
        )

    def call(self, call: str, query: Nothing) -> CallDetail:
        return views.call(self.gateway, self._find_call(call))

    def alarms(self, query: AlarmsQuery) -> list[AlarmView]:
        now = self.gateway.now()
        return [
            views.alarm(known, now)
            for known in self.gateway.switchboard.alarms.values()
            if _matches(known.endpoint, query.endpoint) and query.state in ("", known.state)
        ]

    def explain(self, query: ExplainQuery) -> Explanation:
        board = self.gateway.switchboard
        event = probe(
            query.source,
            called=query.called,
            calling=query.calling,
            alarm=query.alarm,
            severity=query.severity,
            input=query.input,
            value=query.value,
            digits=query.digits,
        )
        if query.source not in board.endpoints:
            self._no_endpoint(query.source)

        def chances(target: Target, priority: Priority) -> Chance:
            refusal = board.unfit(target)
            if refusal:
                return Chance(False, refusal[1])
            if board.seize(target.endpoint, priority):
                return Chance(True)
            words = f"{target.endpoint} is in use"
            if board.lines.gives_way(target.endpoint, priority):
                return Chance(True, f"{words}: a lower call makes room")
            return Chance(False, words, busy=True)

        wall = time.time() if query.at is None else query.at
        return explain(board.table, event, wall, board.endpoints, chances, live=True)

    # History

    def events(self, query: EventsQuery) -> AsyncGenerator[bytes, None]:
        """Lines: first of the journal, if asked for, then what happens."""
        # What is wrong with the question comes before the first line.
        return self._events(query, history.Filter(query))

    async def _events(
        self, query: EventsQuery, wanted: history.Filter
    ) -> AsyncGenerator[bytes, None]:
        keep = self.gateway.configuration.journal.keep_digits
        feed = self.gateway.subscribe(FEED) if query.follow else None
        if feed is not None:
            self._feeds.add(feed)
        told = 0
        last = ""
        try:
            if query.since is not None or query.last:
                await self._written()
                past = await asyncio.to_thread(
                    history.past, self.gateway.configuration.journal_dir, query
                )
                while True:
                    some, newest = await asyncio.to_thread(history.batch, past, keep_digits=keep)
                    if not some:
                        break
                    last = newest
                    yield b"".join(some)
            if feed is None:
                return
            async for envelope in tracing.beating(feed, HEARTBEAT_S):
                if feed.dropped > told:
                    told = feed.dropped
                    yield history.dropped(told, self.gateway.box)
                if envelope is None:
                    yield b"\n"
                # What the journal has already given came into the feed as well.
                elif envelope.id > last and wanted(envelope):
                    yield history.line(envelope, keep_digits=keep)
        finally:
            if feed is not None:
                self._feeds.discard(feed)
                feed.close()

    async def trace(self, query: TraceQuery) -> AsyncGenerator[bytes, None]:
        # Found first: what does not exist is an answer of its own, not a broken stream.
        await self._written()
        return self._timeline(await tracing.find(self.gateway, query), query.follow)

    async def diagnosis(self, query: DiagnosisQuery) -> Diagnosis:
        await self._written()
        return await diagnosis.of_call(self.gateway, query.id, query.at)

    async def capture(self, query: CaptureQuery) -> AsyncGenerator[bytes, None]:
        await self._written()
        trace = await capturing.find(self.gateway, query)
        return self._captured(query, trace)

    async def _captured(self, query: CaptureQuery, trace: str) -> AsyncGenerator[bytes, None]:
        feed = self.gateway.subscribe(FEED)
        self._feeds.add(feed)
        parts = capturing.octets(self.gateway, query, trace, feed, self.version)
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()
            self._feeds.discard(feed)
            feed.close()

    async def _timeline(self, trace: str, follow: bool) -> AsyncGenerator[bytes, None]:
        feed = self.gateway.subscribe(FEED)
        self._feeds.add(feed)
        try:
            async for line in tracing.lines(self.gateway, trace, feed, follow=follow):
                yield line
        finally:
            self._feeds.discard(feed)
            feed.close()

    async def call_records(self, query: RecordsQuery) -> list[CallRecord]:
        return await self._database(lambda database: recorded.calls(database, query))

    async def leg_records(self, query: RecordsQuery) -> list[LegRecord]:
        return await self._database(lambda database: recorded.legs(database, query))

    async def stats(self, query: StatsQuery) -> list[Measures]:
        return await self._database(lambda database: recorded.stats(database, query))

    async def _database(self, read: Callable[[Database], _T]) -> _T:
        url = self.gateway.configuration.records_url

        def ask() -> _T:
            database = Database(url, read_only=True)
            try:
                return read(database)
            except sa.exc.SQLAlchemyError as error:
                raise Refused(
                    503,
                    f"the records cannot be read: {getattr(error, 'orig', error)}",
                    "gateway status shows whether records reach the disk",
                ) from error
            finally:
                database.close()

        return await asyncio.to_thread(ask)

    async def _written(self) -> None:
        """Wait a moment until what has happened is in the journal's files."""
        for _ in range(50):
            if not self.gateway.journal.state.waiting:
                return
            await asyncio.sleep(0.01)

    # Doing

    async def dial(self, body: DialRequest, query: Nothing, by: str) -> DialAnswer:
        try:
            priority = Priority[body.priority.upper()]
        except KeyError:
            legal = ", ".join(member.name.lower() for member in Priority)
            raise Refused(400, f"priority {body.priority!r} is none of {legal}") from None
        for text in (body.origin, body.target):
            target = Target.parse(text)
            if target.endpoint not in self.gateway.switchboard.endpoints:
                self._no_endpoint(target.endpoint)
            refusal = self.gateway.switchboard.unfit(target)
            if refusal:
                raise Refused(503, refusal[1], "gateway endpoints shows what is up")
        self._refuse_while_stopping()
        trace = self.gateway.mint_id()
        feed = self.gateway.subscribe(FEED)
        try:
            self.gateway.emit(
                CallRequested(
                    origin=body.origin, target=body.target, by=by, trace=trace, priority=priority
                )
            )
            async with asyncio.timeout(DECIDE_S):
                return await self._begun(feed, trace)
        except TimeoutError:
            raise Refused(503, "the gateway is too busy to begin a call") from None
        finally:
            feed.close()

    async def _begun(self, feed: Feed, trace: str) -> DialAnswer:
        """The call that the switchboard makes of a request, or its reason not to."""
        async for envelope in feed:
            if isinstance(envelope.event, CallRequested) and envelope.event.trace == trace:
                break
        # Its actions follow it at once, and are in the feed before this task runs again.
        for call in self.gateway.switchboard.calls.values():
            if call.trace == trace:
                return DialAnswer(call=call.id, trace=trace)
        feed.close()
        why: list[str] = []
        async for envelope in feed:
            if isinstance(envelope.action, Note) and envelope.action.trace == trace:
                why.append(envelope.action.text)
            elif isinstance(envelope.event, LegEnded) and envelope.trace == trace:
                ended = envelope.event
                why.append(f"{ended.leg} ended: {ended.detail or ended.cause}")
        raise Refused(
            503,
            "; ".join(why) or "the call ended at once",
            f"gateway events --trace {trace[-8:]} --since 1m",
        )

    async def test(self, body: PathTestRequest, query: Nothing, by: str) -> PathTestAnswer:
        gateway = self.gateway
        self._refuse_while_stopping()
        target = Target.parse(body.endpoint)
        for place in (target.endpoint, body.listen):
            if place and place not in gateway.switchboard.endpoints:
                self._no_endpoint(place)
        request = PathTestRequested(
            test=gateway.mint_id(),
            endpoint=target.endpoint,
            number=target.number,
            kind=body.kind,
            signal=signal_of(body.kind, body.tone_hz),
            level_dbm0=body.level_dbm0,
            seconds=body.seconds or SECONDS[body.kind],
            listen=body.listen,
            transmit=body.transmit,
            ring_s=body.ring_s,
            by=by,
            trace=gateway.mint_id(),
        )
        configured = gateway.tester.configured(request)
        limits = body.limits or (configured.limits if configured else Limits())
        expect = body.expect or (configured.expect if configured else "")
        result = await gateway.tester.test(
            request, limits=limits, expect=expect, baseline=body.baseline
        )
        return PathTestAnswer(
            test=result.test,
            trace=result.trace,
            endpoint=result.endpoint,
            kind=result.kind,
            ok=result.ok,
            judged=result.judged,
            verdict=result.verdict,
            detail=result.detail,
            figures=result.figures,
            baseline=body.baseline and result.ok and "attenuation_db" in result.figures,
        )

    def hangup(self, body: HangupRequest, query: Nothing, by: str) -> HangupAnswer:
        board = self.gateway.switchboard
        if bool(body.call) == bool(body.leg):
            raise Refused(400, "give either a call or a leg")
        if body.leg:
            leg = board.legs.get(body.leg)
            if leg is None:
                raise Refused(404, f"there is no leg {body.leg}", "gateway calls shows those up")
            self.gateway.emit(HangupRequested(leg=leg.id, by=by))
            return HangupAnswer(legs=[leg.id])
        call = self._find_call(body.call)
        self.gateway.emit(HangupRequested(call=call.id, by=by))
        return HangupAnswer(legs=[leg.id for leg in call.legs if leg.live])

    def acknowledge(self, body: AcknowledgeRequest, query: Nothing, by: str) -> AcknowledgeAnswer:
        board = self.gateway.switchboard
        here = [known for known in board.alarms.values() if known.endpoint == body.endpoint]
        active = [
            known.alarm
            for known in here
            if known.state == "active" and body.alarm in ("", known.alarm)
        ]
        if not active:
            if body.endpoint not in board.endpoints:
                self._no_endpoint(body.endpoint)
            what = f" {body.alarm}" if body.alarm else ""
            states = ", ".join(f"{known.alarm} is {known.state}" for known in here)
            raise Refused(
                404,
                f"{body.endpoint} has no active alarm{what}" + (f" ({states})" if states else ""),
                "gateway alarms shows them",
            )
        for alarm in active:
            self.gateway.emit(
                events.AcknowledgeRequested(endpoint=body.endpoint, alarm=alarm, by=by)
            )
        return AcknowledgeAnswer(alarms=active)

    def safe_state(self, body: SafeStateRequest, query: Nothing, by: str) -> SafeStateAnswer:
        hosts = self.gateway.hosts
        if body.adapter and body.adapter not in hosts:
            raise Refused(
                404, f"there is no adapter {body.adapter}", f"there are {', '.join(hosts)}"
            )
        answer = SafeStateAnswer(safe=[], failed={})
        for name, host in hosts.items():
            if body.adapter in ("", name):
                before = host.counters["safe_state_failed"]
                host.safe_state()
                if host.counters["safe_state_failed"] > before:
                    answer.failed[name] = "safe_state failed: see the gateway's log"
                else:
                    answer.safe.append(name)
        return answer

    async def reload(self, body: ReloadRequest, query: Nothing, by: str) -> ReloadAnswer:
        gateway = self.gateway
        self._refuse_while_stopping()
        try:
            configuration = await asyncio.to_thread(load, gateway.configuration.file)
            if body.dry_run:
                outcome = self.reloader.preview(configuration)
            else:
                outcome = await self.reloader.apply(configuration, now=body.now)
        except ConfigError as error:
            raise Refused(400, str(error), "the present configuration stays in use") from None
        return ReloadAnswer(
            **msgspec.structs.asdict(outcome),
            generation=gateway.generation,
            routes=len(configuration.routes),
            warnings=list(configuration.warnings),
        )

    def configurations(self, query: Nothing) -> list[KeptConfiguration]:
        return self.reloader.kept.all()

    async def changes(self, query: ChangesQuery) -> list[Change]:
        before, after = self.reloader.kept.pair(query.number)
        file = self.gateway.configuration.file
        try:
            return await asyncio.to_thread(between, before.path, after.path, file)
        except ConfigError as error:
            raise Refused(400, str(error), "compare the files by hand") from None

    def stop(self, body: StopRequest, query: Nothing, by: str) -> StopAnswer:
        gateway = self.gateway
        within = 0.0 if body.now else gateway.configuration.gateway.drain_s
        answer = StopAnswer(calls=len(gateway.switchboard.calls), within_s=within)
        if not gateway.stopping:
            gateway.stop()
        if body.now:
            # The second time means: at once.
            gateway.stop()
        return answer

    # Finding

    def _find_call(self, text: str) -> Call:
        """The call with this id, or whose id or trace ends so, or that has this leg or endpoint;
        ``last`` is the newest that is up."""
        board = self.gateway.switchboard
        leg = board.legs.get(text)
        if leg is not None:
            return leg.call
        if "/" in text:
            found = list({id(leg.call): leg.call for leg in board.legs.values()
                          if leg.endpoint == text}.values())  # fmt: skip
        else:
            wanted = text.lower()
            found = [call for call in board.calls.values() if call.id.endswith(wanted) and wanted]
            if not found and wanted:
                found = [call for call in board.calls.values() if call.trace.endswith(wanted)]
            if wanted == "last":
                found = list(board.calls.values())[-1:]
        if len(found) == 1:
            return found[0]
        if not found:
            place = text.partition("#")[0]
            if "/" in place and place not in board.endpoints:
                self._no_endpoint(place)
            raise Refused(
                404,
                "there is no call now"
                if text == "last"
                else f"{text} has no call now"
                if "/" in text
                else f"there is no call {text} now",
                f"gateway calls shows those up; one that is over: gateway diag {text}, "
                f"gateway trace {text}",
            )
        raise Refused(
            400, f"{len(found)} calls fit {text}", "give more of the id's end, or a leg's id"
        )

    def _no_endpoint(self, wrong: str) -> None:
        known = sorted(self.gateway.switchboard.endpoints)
        close = difflib.get_close_matches(wrong, known, n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else "gateway endpoints lists them"
        raise Refused(404, f"there is no endpoint {wrong}", hint)

    def _refuse_while_stopping(self) -> None:
        if self.gateway.stopping:
            raise Refused(503, "the gateway is stopping: it takes no new calls")


def _matches(endpoint: str, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatchcase(endpoint, pattern)
