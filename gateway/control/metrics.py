"""Exposition: the gateway's figures in Prometheus' text format, and a port to fetch them from.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from gateway.core.calls import LegState
from gateway.metrics.tally import Histogram
from gateway.runtime import Gateway

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_P: Final = "crosspoint_"


def exposition(gateway: Gateway, version: str) -> bytes:
    """All figures, in the text format 0.0.4."""
    return generate_latest(_Registry(gateway, version))


class _Registry:
    """What `generate_latest` asks; made anew for each answer, so that nothing is kept."""

    _process = ProcessCollector(registry=CollectorRegistry())

    def __init__(self, gateway: Gateway, version: str) -> None:
        self._gateway, self._version = gateway, version

    def collect(self) -> Iterator[Metric]:
        gateway = self._gateway
        yield InfoMetricFamily(
            _P + "build", "Version of the gateway.", {"version": self._version, "box": gateway.box}
        )
        yield from self._process.collect()
        yield from _bus(gateway)
        yield from _calls(gateway)
        yield from _finished(gateway)
        yield from _places(gateway)
        yield from _tests(gateway)
        yield from _stores(gateway)
        yield from _engine(gateway)
        yield from _capture(gateway)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_P + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(_P + name, text, value=value)


def _labelled(
    family: Callable[..., Any],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    metric: Metric = family(_P + name, text, labels=labels)
    for key, value in values:
        metric.add_metric([_clean(part) for part in key], value)  # type: ignore[attr-defined]
    return metric


def _clean(text: str) -> str:
    """Octets of a peer that were no UTF-8 must not spoil the whole answer."""
    return text.encode("utf-8", "replace").decode()


def _histograms(name: str, text: str, found: dict[str, Histogram]) -> Metric:
    metric = HistogramMetricFamily(_P + name, text, labels=("network",))
    for network, histogram in found.items():
        metric.add_metric([network], histogram.buckets(), sum_value=histogram.total)
    return metric


def _bus(gateway: Gateway) -> Iterator[Metric]:
    yield _gauge(
        "uptime_seconds", "How long the gateway has been running.",
        gateway.now() - gateway.started_at,
    )  # fmt: skip
    yield _gauge("stopping", "1 while the gateway stops.", gateway.stopping)
    yield _gauge(
        "configuration_generation", "Configurations applied since the start.", gateway.generation
    )
    yield _gauge("event_queue_length", "Events that wait for the switchboard.", gateway.waiting)
    yield _gauge("tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
    yield _labelled(
        CounterMetricFamily, "bus_messages", "Events and actions handled.", ("kind",),
        (((kind,), n) for kind, n in gateway.turns.handled.items()),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "ignored_events", "Events that meant nothing in their state.",
        ("type",), (((name,), n) for name, n in sorted(gateway.switchboard.ignored.items())),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "troubles", "What the gateway itself dropped, refused or failed at.",
        ("what",), (((name,), n) for name, n in sorted(gateway.counters.items())),
    )  # fmt: skip
    yield _gauge("wire_memory_bytes", "Octets of memory that the trace of the wires takes.",
                 gateway.wires.held)  # fmt: skip


def _calls(gateway: Gateway) -> Iterator[Metric]:
    board = gateway.switchboard
    yield _gauge("calls_up", "Calls that are up.", len(board.calls))
    states: Counter[tuple[str, ...]] = Counter()
    keyed: Counter[tuple[str, ...]] = Counter()
    impaired: Counter[tuple[str, ...]] = Counter()
    for leg in board.legs.values():
        network = leg.endpoint.partition("/")[0]
        states[network, str(leg.state)] += 1
        keyed[(network,)] += leg.keyed
        for impairment in leg.impaired:
            impaired[network, str(impairment)] += 1
    networks = {place.network for place in board.endpoints.values() if place.has_audio}
    for network in sorted(networks):
        for state in LegState:
            if state is not LegState.NULL:
                states[network, str(state)] += 0
    yield _labelled(GaugeMetricFamily, "legs", "Legs that are up.", ("network", "state"),
                    sorted(states.items()))  # fmt: skip
    yield _labelled(GaugeMetricFamily, "transmitters_keyed", "Legs whose transmitter is keyed.",
                    ("network",), sorted(keyed.items()))  # fmt: skip
    yield _labelled(GaugeMetricFamily, "legs_impaired",
                    "Answered legs whose audio is silent, clipped or missing now.",
                    ("network", "impairment"), sorted(impaired.items()))  # fmt: skip
    alarms: Counter[tuple[str, ...]] = Counter(
        {(state,): 0 for state in ("active", "acknowledged", "cleared", "exhausted")}
    )
    untold = 0
    for alarm in board.alarms.values():
        alarms[(str(alarm.state),)] += 1
        untold += alarm.state == "active" and not alarm.route
    yield _labelled(GaugeMetricFamily, "alarms", "Alarms that are known.", ("state",),
                    sorted(alarms.items()))  # fmt: skip
    yield _gauge("alarms_untold", "Active alarms that no route takes: nobody is told.", untold)


def _finished(gateway: Gateway) -> Iterator[Metric]:
    tally = gateway.tally
    yield _labelled(
        CounterMetricFamily, "calls_finished", "Calls that are over.",
        ("kind", "network", "outcome"), sorted(tally.calls.items()),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "legs_finished", "Legs that are over, by why they ended.",
        ("network", "direction", "cause"), sorted(tally.legs.items()),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "legs_answered", "Finished legs that were answered.", ("network",),
        (((network,), n) for network, n in sorted(tally.answers.items())),
    )  # fmt: skip
    yield _histograms(
        "call_wait_seconds",
        "First human or physical demand to the first human answer, or to the end of the call.",
        tally.waits,
    )
    yield _histograms("call_talk_seconds", "Answer to end, without holds.", tally.talks)
    yield _labelled(
        CounterMetricFamily, "audio_packets", "Packets or blocks of finished streams.",
        ("network", "fate"), sorted(tally.packets.items()),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "audio_impairments",
        "How often what an answered leg sends became silent, clipped or went missing.",
        ("network", "impairment"), sorted(tally.impairments.items()),
    )  # fmt: skip
    yield _histograms(
        "audio_jitter_seconds", "Interarrival jitter of finished streams (RFC 3550 6.4.1).",
        tally.jitters,
    )  # fmt: skip
    yield _histograms(
        "audio_r_factor", "Rating of finished streams as heard here (ITU-T G.107).", tally.ratings
    )
    yield _histograms(
        "audio_remote_r_factor", "Rating that the far end reported (RFC 3611).",
        tally.remote_ratings,
    )  # fmt: skip
    yield _histograms(
        "audio_erl_decibels", "Echo return loss of the lines of finished streams (G.168).",
        tally.erls,
    )  # fmt: skip
    yield _histograms(
        "audio_erle_decibels", "What the echo canceller added to it at their ends (G.168).",
        tally.erles,
    )  # fmt: skip


def _places(gateway: Gateway) -> Iterator[Metric]:
    hosts = gateway.hosts.values()
    yield _labelled(
        GaugeMetricFamily, "adapter_up", "1 while the adapter serves.", ("adapter", "kind"),
        (((host.name, host.adapter.kind), float(host.up)) for host in hosts),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "adapter_restarts", "How often the adapter was started again.",
        ("adapter",), (((host.name,), host.restarts) for host in hosts),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "adapter_counts", "What the adapter counted: docs/adapters/.",
        ("adapter", "what"),
        (
            ((host.name, name), n)
            for host in hosts
            for name, n in sorted(host.counters.items())
        ),
    )  # fmt: skip
    yield _labelled(
        GaugeMetricFamily, "adapter_holds", "What the adapter has open inside.",
        ("adapter", "what"),
        (((host.name, name), n) for host in hosts for name, n in host.adapter.holds().items()),
    )  # fmt: skip
    conditions: Counter[tuple[str, ...]] = Counter()
    for place in gateway.switchboard.endpoints.values():
        for condition in ("up", "down", "unknown"):
            conditions[place.network, condition] += place.condition == condition
    yield _labelled(GaugeMetricFamily, "endpoints", "Endpoints.", ("network", "condition"),
                    sorted(conditions.items()))  # fmt: skip


def _tests(gateway: Gateway) -> Iterator[Metric]:
    found = [
        ((each.tested.endpoint, each.tested.kind.value, each.tested.listen), each)
        for each in gateway.tester.book.results.values()
    ]
    labels = ("endpoint", "kind", "listen")
    yield _labelled(
        GaugeMetricFamily, "path_test_ok", "1 when the last test of the path was good.", labels,
        ((key, float(each.tested.ok)) for key, each in found),
    )  # fmt: skip
    yield _labelled(
        GaugeMetricFamily, "path_test_age_seconds", "Since the last test of the path.", labels,
        ((key, max(0.0, time.time() - each.at)) for key, each in found),
    )  # fmt: skip
    yield _labelled(
        GaugeMetricFamily, "path_test_figure",
        "What the last test of the path measured; the name ends in the unit.",
        (*labels, "figure"),
        (
            ((*key, name), value)
            for key, each in found
            for name, value in sorted(each.tested.figures.items())
        ),
    )  # fmt: skip
    yield _gauge("path_tests_waiting", "Scheduled tests that were put off.",
                 len(gateway.tester.put_off))  # fmt: skip


def _stores(gateway: Gateway) -> Iterator[Metric]:
    states = (gateway.journal.state, gateway.store.state)
    yield _labelled(
        GaugeMetricFamily, "store_degraded", "1 while history does not reach the disk.",
        ("store",), (((state.name,), float(state.degraded)) for state in states),
    )  # fmt: skip
    yield _labelled(
        GaugeMetricFamily, "store_waiting", "Entries that are not yet safe on disk.", ("store",),
        (((state.name,), state.waiting) for state in states),
    )  # fmt: skip
    yield _labelled(
        CounterMetricFamily, "store_dropped", "Entries that were lost.", ("store",),
        (((state.name,), state.dropped) for state in states),
    )  # fmt: skip
    yield _counter("journal_written", "Entries of the journal that are safe on disk.",
                   gateway.journal.counters.written)  # fmt: skip
    yield _labelled(
        GaugeMetricFamily, "disk_free_bytes", "Free space where history is stored.", ("store",),
        ((("journal",), free) for free in _free(str(gateway.journal.directory))),
    )  # fmt: skip


def _free(directory: str) -> Iterator[float]:
    try:
        found = os.statvfs(directory)
    except OSError:
        return
    yield float(found.f_bavail * found.f_frsize)


def _capture(gateway: Gateway) -> Iterator[Metric]:
    yield _gauge("wire_bytes", "Signalling kept in memory for trace and capture.",
                 gateway.wires.n_bytes)  # fmt: skip
    export = gateway.export
    lost = CounterMetricFamily(
        _P + "capture_dropped",
        "Messages and packets that trace, capture or the collector did not get.",
        labels=("ring",),
    )
    lost.add_metric(("signalling",), gateway.wires.dropped)
    lost.add_metric(("rtp",), gateway.taps.lost())
    lost.add_metric(("rtp_memory",), gateway.taps.forgotten)
    lost.add_metric(("hep",), export.dropped if export else 0)
    yield lost


def _engine(gateway: Gateway) -> Iterator[Metric]:
    ask = getattr(gateway.engine, "stats", None)
    if ask is None:
        return
    stats = ask()
    yield _gauge("engine_running", "1 while the audio thread runs.", stats.running)
    yield _gauge("engine_realtime", "1 when the audio thread has real-time scheduling.",
                 stats.realtime)  # fmt: skip
    yield _gauge("engine_io_uring", "1 when packets move in batches, for less CPU.",
                 stats.io_uring)  # fmt: skip
    yield _gauge("engine_steer", "1 when packets go by shared sockets, for less CPU.", stats.steer)
    yield _gauge("engine_steered_streams", "Streams whose packets come by shared sockets now.",
                 stats.steered_streams)  # fmt: skip
    yield _counter("engine_steered_packets", "Packets that came by shared sockets.",
                   stats.steered_packets)  # fmt: skip
    yield _counter("engine_steer_dropped", "Packets lost because a shared buffer was full.",
                   stats.steer_dropped)  # fmt: skip
    yield _gauge("engine_kernel", "1 when the kernel may carry relays.", stats.kernel)
    yield _gauge("engine_kernel_streams", "Streams that the kernel relays now.",
                 stats.kernel_streams)  # fmt: skip
    yield _counter("engine_kernel_packets", "Packets that the kernel relayed.",
                   stats.kernel_packets)  # fmt: skip
    yield _gauge("engine_threads", "Threads that carry audio.", stats.threads)
    yield _gauge("engine_streams", "Streams of audio that are open.", stats.streams)
    yield _gauge("engine_bridges", "Bridges that are open.", stats.bridges)
    yield _gauge("engine_relays", "Bridges without a jitter buffer.", stats.relays)
    yield _gauge("engine_worst_late_seconds", "Latest tick since the start.",
                 stats.worst_late_ms / 1000)  # fmt: skip
    yield _counter("engine_ticks", "Turns of the audio thread.", stats.ticks)
    yield _counter("engine_late_ticks", "Turns that began more than 2 ms late.", stats.late_ticks)
    yield _counter("engine_skipped_ticks", "Turns given up.", stats.skipped_ticks)
    yield _counter("engine_dropped_events", "Reports of the audio thread that were lost.",
                   stats.dropped_events)  # fmt: skip
    yield _counter("engine_send_errors", "Packets that the system refused to send.",
                   stats.send_errors)  # fmt: skip
    yield _counter("engine_packets_received", "RTP packets received.", stats.packets_received)
    yield _counter("engine_packets_sent", "RTP packets sent.", stats.packets_sent)
    yield _counter("engine_cpu_seconds", "Processor time of the audio thread.", stats.cpu_s)


class Scrape:
    """Serves ``/metrics`` on a TCP port. Driven by `start` and `stop`."""

    def __init__(self, answer: Callable[[], bytes], host: str, port: int, *, log: Any) -> None:
        self.port = port
        """Once started: the port that is served."""
        self._answer, self._host, self._log = answer, host, log
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. A port that is taken is no reason for a gateway not to run: it is logged."""
        app = web.Application()
        app.router.add_get("/metrics", self._get)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self.port)
        try:
            await site.start()
        except OSError as error:
            self._log.error(
                "metrics cannot be fetched", address=f"{self._host}:{self.port}",
                why=error.strerror or str(error),
            )  # fmt: skip
            await runner.cleanup()
            return
        self._runner = runner
        self.port = runner.addresses[0][1]
        self._log.info("metrics port open", address=f"{self._host}:{self.port}")

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _get(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        body = self._answer()
        self._log.debug("metrics fetched", took_s=time.monotonic() - began)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
