"""Tally: sums over finished calls, legs and streams since the start. Cheap: plain additions."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final

from gateway.media.streams import StreamStats
from gateway.records.ops import PutCall, PutLeg, StoreOp

WAIT_S: Final = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0)
TALK_S: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
JITTER_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
R_FACTOR: Final = (50.0, 60.0, 70.0, 80.0, 90.0, 94.0)
"""Bounds of G.109's classes of quality: poor, low, medium, high, best."""
LOSS_DB: Final = (3.0, 6.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
_LATELY: Final = 2000


class Histogram:
    """Counts below bounds, as Prometheus wants them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many are at or below it, the last one ``+Inf``."""
        found: list[tuple[str, float]] = []
        n = 0
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            n += count
            found.append(("+Inf" if bound == float("inf") else repr(bound), float(n)))
        return found


class Tally:
    """Driven by `store` (what the recorder finishes) and `stream` (a stream that was closed)."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, str]] = Counter()
        """By kind, network and outcome."""
        self.legs: Counter[tuple[str, str, str]] = Counter()
        """By network, direction and cause."""
        self.answers: Counter[str] = Counter()
        """Legs that were answered, by network."""
        self.waits: dict[str, Histogram] = {}
        self.talks: dict[str, Histogram] = {}
        self.jitters: dict[str, Histogram] = {}
        self.ratings: dict[str, Histogram] = {}
        """R factors of what was heard here, by network."""
        self.remote_ratings: dict[str, Histogram] = {}
        """What the far ends reported."""
        self.erls: dict[str, Histogram] = {}
        self.erles: dict[str, Histogram] = {}
        self.packets: Counter[tuple[str, str]] = Counter()
        """By network and what became of them."""
        self.impairments: Counter[tuple[str, str]] = Counter()
        """What began on answered legs, by network and impairment."""
        self._lately: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Records counted lately: a leg's is stored again when its last audio counters come."""

    def store(self, ops: Iterable[StoreOp]) -> None:
        """Count the records of calls and legs that are over."""
        for op in ops:
            if not isinstance(op, (PutCall, PutLeg)):
                continue
            key = op.key
            if key in self._lately:
                continue
            self._lately[key] = None
            if len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
            if isinstance(op, PutCall):
                call = op.record
                self.calls[call.kind, call.network, call.outcome] += 1
                _of(self.waits, call.network, WAIT_S).add(call.wait_s)
                if call.answered_at is not None:
                    _of(self.talks, call.network, TALK_S).add(call.talk_s)
            else:
                leg = op.record
                self.legs[leg.network, leg.direction, leg.cause] += 1
                self.answers[leg.network] += leg.answered_at is not None

    def stream(self, leg: str, stats: StreamStats) -> None:
        """Count what a stream has received and sent."""
        network = leg.partition("/")[0]
        for name, n in (
            ("received", stats.packets_received),
            ("sent", stats.packets_sent),
            ("lost", stats.packets_lost),
            ("late", stats.packets_late),
            ("refused", stats.packets_refused),
            ("srtp_failed", stats.srtp_failed),
            ("srtp_replayed", stats.srtp_replayed),
        ):
            self.packets[network, name] += n
        if stats.packets_received:
            _of(self.jitters, network, JITTER_S).add(stats.jitter_ms / 1000)
        for found, quality in (
            (self.ratings, stats.quality),
            (self.remote_ratings, stats.remote_quality),
        ):
            if quality is not None and quality.r_factor is not None:
                _of(found, network, R_FACTOR).add(quality.r_factor)
        if stats.erl_db is not None and stats.erle_db is not None:
            _of(self.erls, network, LOSS_DB).add(stats.erl_db)
            _of(self.erles, network, LOSS_DB).add(stats.erle_db)


def _of(found: dict[str, Histogram], network: str, bounds: tuple[float, ...]) -> Histogram:
    if network not in found:
        found[network] = Histogram(bounds)
    return found[network]
