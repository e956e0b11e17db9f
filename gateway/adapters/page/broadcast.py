"""Broadcast: one page in one zone, from its dial to the end of its leg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from gateway.adapters.base import Host
from gateway.adapters.page import chimes
from gateway.adapters.page.config import PageSection, Zone
from gateway.adapters.page.receipts import Receipt
from gateway.adapters.page.senders import make_sender
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, PageDelivered
from gateway.errors import GatewayError
from gateway.media.streams import MediaEvent, PlayEnded, Stream, StreamOptions

_CHIME = "chime"
# A chime is as long as it is; this is for one whose end is never reported.
_CHIME_S = chimes.MAXIMUM_S + 60.0


class Broadcast:
    """Driven by `start` and `hangup`; emits `LegAnswered` when what is said would be heard, and
    `LegEnded`, once, when the receivers have been told that it is over."""

    def __init__(
        self,
        host: Host,
        section: PageSection,
        zone: Zone,
        action: Dial,
        *,
        gain_db: float,
        rendered: Mapping[str, bytes],
        receipt: Receipt,
        on_end: Callable[[Broadcast, str], None],
    ) -> None:
        """rendered: samples of the chimes. on_end: told what became of it, before `LegEnded`."""
        self.action, self.zone, self.receipt = action, zone, receipt
        self.destination = zone.destination(action.priority)
        override = zone.override(action.priority)
        self._host, self._rendered, self._on_end = host, rendered, on_end
        self._chime = zone.chime if override.chime is None else override.chime
        self._gain_db = zone.gain_db + override.gain_db + gain_db
        self._sender = make_sender(section, zone, action)
        self._stream: Stream | None = None
        self._task: asyncio.Task[None] | None = None
        self._chimed = asyncio.Event()
        self._asked: tuple[Cause, str] | None = None
        """With what the page was hung up."""
        self._begun = self._ended = False
        self._answered_at: float | None = None

    @property
    def rtcp(self) -> tuple[str, int]:
        """Our own address of RTCP; ``("", 0)`` without RTP."""
        host, port = self._stream.local if self._stream else ("", 0)
        return (host, port + 1) if port else ("", 0)

    def start(self) -> None:
        """Begin, in a task."""
        self._task = self._host.create_task(self._run(), name=self.action.leg)

    def hangup(self, cause: Cause, detail: str) -> None:
        """End it; harmless when it is ending."""
        if self._asked is not None or self._ended:
            return
        self._asked = (cause, detail)
        if not self._begun:
            self.abort(cause, detail)
        elif self._task is not None:
            self._task.cancel()

    def abort(self, cause: Cause, detail: str = "") -> None:
        """End it at once, without waiting for anything."""
        self._sender.abort()
        self._end(cause, detail)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        self._begun = True
        cause, detail = Cause.TIMER_EXPIRED, f"longer than {self.zone.max_s:g} s"
        try:
            try:
                await self._speak()
                await asyncio.sleep(self.zone.max_s)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._asked is None or task is None:
                    raise
                # It was `hangup` that cancelled: the receivers are still to be told.
                task.uncancel()
                cause, detail = self._asked
            except (GatewayError, OSError) as error:
                cause, detail = Cause.RESOURCE_UNAVAILABLE, str(error)
            await self._sender.finish(hurry=cause is Cause.PREEMPTED)
            self._show("ended for the receivers")
        except asyncio.CancelledError:
            cause, detail = Cause.SHUTDOWN, "the gateway stops"
            raise
        finally:
            self._sender.abort()
            self._end(cause, detail)

    async def _speak(self) -> None:
        spec = self._sender.open()
        options = StreamOptions(gain_out_db=self._gain_db)
        stream = self._stream = self._host.open_stream(
            self.action.leg, spec, options, self._media_event
        )
        self._show(f"to {':'.join(map(str, self.destination))}, {self.zone.dialect.value}")
        await self._sender.begin()
        self._show("announced to the receivers")
        self.receipt.look()
        if self._chime:
            await self._ring_in(stream)
        self._answered_at = self._host.now()
        self._host.emit(LegAnswered(leg=self.action.leg))

    async def _ring_in(self, stream: Stream) -> None:
        try:
            if chimes.is_file(self._chime):
                stream.play_file(self._chime, play=_CHIME)
            else:
                stream.play_samples(self._rendered[self._chime], rate=chimes.RATE, play=_CHIME)
            async with asyncio.timeout(_CHIME_S):
                await self._chimed.wait()
        except (GatewayError, TimeoutError) as error:
            # What is to be said matters more than what announces it.
            self._host.log.error("chime cannot be played", leg=self.action.leg, error=str(error))
            self._host.count("chime_failed")

    def _media_event(self, event: MediaEvent) -> bool:
        if isinstance(event, PlayEnded) and event.play == _CHIME:
            self._chimed.set()
            return True
        return False

    def _end(self, cause: Cause, detail: str) -> None:
        if self._ended:
            return
        self._ended = True
        self.receipt.look()
        became = self._became()
        self._show(f"closed: {became or cause}")
        facts = {"cause": str(cause), "sent": became} | self._facts()
        self._host.log.info("page is over", leg=self.action.leg, **facts)
        self._on_end(self, became)
        text = "; ".join(part for part in (detail, became) if part)
        if self._stream is not None:
            delivered = PageDelivered(
                leg=self.action.leg, members=self.receipt.given, missing=self.receipt.missing
            )
            self._host.emit(delivered)
        # The stream is closed with the leg; only then may what it sends through go.
        self._host.emit(LegEnded(leg=self.action.leg, cause=cause, detail=text))
        self._sender.close()

    def _show(self, text: str) -> None:
        self._host.wire(self.action.leg, text, kind="page", outward=True)

    def _facts(self) -> dict[str, Any]:
        return {"played": self.receipt.members, "missing": self.receipt.missing}

    def _became(self) -> str:
        if self._stream is None:
            return ""
        n_packets = self._stream.stats().packets_sent
        seconds = self._host.now() - self._answered_at if self._answered_at is not None else 0.0
        parts = [f"{seconds:.1f} s on the air, {n_packets} packets", self._sender.facts()]
        parts.append(str(self.receipt))
        return "; ".join(part for part in parts if part)
