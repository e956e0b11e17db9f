"""Recovery: finishes what a crash left open, from saved states and the end of the journal."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.records.open import OpenCall
from gateway.records.ops import Forget, Unfinished
from gateway.records.recorder import Recorder


class Recovery(Recorder):
    """A recorder that follows the journal of runs that are over. Driven by `finish`, once.

    Rows that are stored already are left alone, so finishing twice changes nothing.
    """

    _replaying = True

    def finish(self, unfinished: Unfinished, tail: Iterable[Envelope | None]) -> int:
        """Hand all that was left open to the sink; return how many legs were closed as crashed.

        tail: the journal's end in order, with None where a run began.
        """
        self._behind: dict[str, OpenCall] = {}
        """Calls whose saved state is ahead of the journal's place, by their last envelope."""
        for key, data in unfinished.calls.items():
            try:
                call = msgspec.json.decode(data, type=OpenCall)
            except msgspec.MsgspecError:
                # Saved by another version: what the journal knows has to do.
                self._out.append(Forget(id=key))
                continue
            self._keep(call)
            self._behind[call.last_id] = call
        n = 0
        last: float | None = None
        for envelope in tail:
            if envelope is None:
                n += self._crash(last, unfinished)
                last = None
                continue
            if envelope.box != self.box:
                continue
            last = envelope.mono
            known = self._behind.pop(envelope.id, None)
            if known is not None:
                continue
            of = self._call_of(envelope)
            if of is not None and of.last_id in self._behind:
                if envelope.mono <= of.last_mono:
                    continue
                # The envelope it names was dropped from the journal; we are past it.
                del self._behind[of.last_id]
            self.receive(envelope)
        n += self._crash(last, unfinished)
        self._behind.clear()
        n += self._crash(None, unfinished)
        return n

    def _crash(self, last: float | None, unfinished: Unfinished) -> int:
        """The run ended here: close what it had open, at the last moment it is known to live."""
        n = 0
        for call in list(self._calls.values()):
            if call.last_id in self._behind:
                continue
            end = call.last_mono
            if call.run and call.run == unfinished.run:
                end = max(end, unfinished.mono)
            if last is not None:
                end = max(end, last)
            for record in list(call.legs.values()):
                self._end(call, record, end, Cause.CRASHED, "", step=0.0)
                n += 1
            if call.id in self._calls:
                self._out.append(Forget(id=call.id))
                del self._calls[call.id]
        for call in [*self._lately.values(), *self._lingering.values()]:
            self._forget(call)
        self._ended.clear()
        self._demands.clear()
        self._flush()
        return n

    def _call_of(self, envelope: Envelope) -> OpenCall | None:
        body = envelope.body
        known = self._legs.get(getattr(body, "leg", None) or "")
        if known is not None:
            return known[0]
        return self._by_call.get(getattr(body, "call", "") or envelope.call)
