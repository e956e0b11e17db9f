"""Calls with one fault each, injected by foreign programs, all at the same time on one gateway.

`run` gives for each of them the verdict while it was up, and the verdict that journal and records
give when the gateway does not run any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from gateway.config import Configuration
from gateway.core.events import HangupRequested
from gateway.diagnosis import Diagnosis, diagnose, gather
from tests.interop import diag_lines, diag_sip
from tests.interop.diag_site import Verdicts, few_at_a_time, site
from tests.interop.peers import until


async def run(
    home: Path, names: Collection[str], expected: Callable[[str, Diagnosis], bool]
) -> dict[str, Verdicts]:
    """All calls, by `names`. A machine that stalls brings faults of its own into a call: whatever
    is not said as `expected` of SIP's audio, a handset and a busy tone, or could not be played, is
    played again, twice at most and with less beside it."""
    diag_sip.spoil_network()
    async with site(home) as found:
        found.expected = expected
        await few_at_a_time(
            3, [diag_sip.sip_calls(found), diag_sip.softphone_calls(found), diag_lines.calls(found)]
        )
        for at_once in (4, 2):
            configuration = found.box.gateway.configuration
            await asyncio.to_thread(found.box.gateway.store.drain, 5.0)
            wrong = {
                name for name, verdicts in found.found.items()
                if not expected(name, _over(configuration, verdicts.trace))
                or (verdicts.up is not None and not expected(name, verdicts.up))
            }  # fmt: skip
            wrong |= set(names) - set(found.found)
            await diag_sip.sip_calls(found, wrong, at_once)
            if wrong & {"handset", "on hook at once"}:
                await few_at_a_time(1, [diag_lines.handset(found)])
            if "busy tone" in wrong:
                await diag_lines.exchange_calls(found, {"busy tone"})
        await few_at_a_time(1, [diag_lines.pulled_plugs(found), diag_lines.card_gone(found)])
        # What could not be played to its end must not keep the others from being judged.
        for call in list(found.box.gateway.switchboard.calls):
            found.box.gateway.emit(HangupRequested(call=call))
        await until(lambda: not found.box.gateway.switchboard.calls, "no call any more", 20)
        configuration = found.box.gateway.configuration
    for verdicts in found.found.values():
        verdicts.over = _over(configuration, verdicts.trace)
    return found.found


def _over(configuration: Configuration, trace: str) -> Diagnosis:
    call, _ = gather.past(configuration.journal_dir, trace)
    gather.recorded(configuration.records_url, call)
    return diagnose(call)
