"""Page: zones that are spoken to over multicast, and bells that ring by a timetable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.adapters.base import Adapter, Host
from gateway.adapters.page import chimes
from gateway.adapters.page.bells import Bells
from gateway.adapters.page.broadcast import Broadcast
from gateway.adapters.page.config import MUTE, Dialect, PageSection, Zone
from gateway.adapters.page.receipts import Inputs, Receipt, Reports
from gateway.adapters.page.senders import sending_socket
from gateway.core.actions import AcknowledgeAlarm, Dial, Hangup, SetOutput
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import InputChanged, LegEnded
from gateway.errors import DeviceError

_LOOK_S = 5.0
"""How often it is looked whether zones can be sent to; a loss must be known within 100 s."""


class Page(Adapter):
    """Paging zones and bells."""

    kind = "page"
    Config = PageSection

    def __init__(self, name: str, config: PageSection, host: Host) -> None:
        super().__init__(name, config, host)
        self._section = config
        self._inputs = Inputs(config.zones.values())
        self._pages: dict[str, Broadcast] = {}
        """By leg."""
        self._reports: dict[tuple[str, int], Reports] = {}
        """By group; only while it runs."""
        self._told: dict[str, str] = {}
        """Zone to what its last page's receipt says."""
        self._why: dict[str, str] = {}
        """Zone to why it cannot be sent to; empty when it can."""
        self._rendered: dict[str, bytes] = {}
        self.bells = Bells(name, config, host) if config.bells else None

    def endpoints(self) -> Iterable[Endpoint]:
        for name, zone in self._section.zones.items():
            yield self._place(name, zone, Condition.UNKNOWN)
        if self.bells:
            yield self.bells.place()

    def _place(self, name: str, zone: Zone, condition: Condition, reason: str = "") -> Endpoint:
        host, port = zone.destination()
        detail = {"dialect": zone.dialect.value, "group": f"{host}:{port}", "codec": zone.codec}
        if zone.dialect is Dialect.POLY:
            detail["channel"] = str(zone.channel)
        if name in self._told:
            detail["last page"] = self._told[name]
        return Endpoint(
            id=f"{self.name}/{name}",
            label=zone.label,
            location=zone.location,
            number=zone.number,
            duplex=Duplex.LISTEN,
            capacity=1,
            condition=condition,
            reason=reason,
            detail=detail,
        )

    async def run(self) -> None:
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(ThreadPoolExecutor(1, f"{self.name}-worker"))
            stack.callback(self._end_all)
            # Some milliseconds of arithmetic for each: not between two pages.
            loop = asyncio.get_running_loop()
            self._rendered = await loop.run_in_executor(worker, self._render)
            self._listen(stack)
            self._look()
            if self.bells or self._inputs.any:
                self.host.create_task(self._follow(), name="bus")
            if self.bells:
                self.host.create_task(self.bells.run(worker), name="bells")
            self.host.ready()
            while True:
                await asyncio.sleep(_LOOK_S)
                self._look()

    def _render(self) -> dict[str, bytes]:
        wanted = {zone.chime for zone in self._section.zones.values()}
        for zone in self._section.zones.values():
            wanted |= {each.chime or "" for each in zone.classes.values()}
        return {name: chimes.render(name) for name in wanted if name and not chimes.is_file(name)}

    def _end_all(self) -> None:
        for page in list(self._pages.values()):
            page.abort(Cause.SHUTDOWN, "the gateway stops")

    # Zones

    def _look(self) -> None:
        """See whether the zones can be sent to, and say so."""
        for name, zone in self._section.zones.items():
            why = self._obstacle(zone)
            if why and why != self._why.get(name):
                self.host.log.warning("zone cannot be sent to", zone=name, why=why)
            self._why[name] = why
            self._show(name)

    def _show(self, name: str) -> None:
        why = self._why.get(name, "")
        condition = Condition.DOWN if why else Condition.UP
        self.host.set_endpoint(self._place(name, self._section.zones[name], condition, why))

    def _obstacle(self, zone: Zone) -> str:
        if zone.link:
            try:
                carrier = Path("/sys/class/net", zone.link, "carrier").read_text().strip()
            except OSError:
                carrier = ""
            if carrier != "1":
                return f"{zone.link} has no link"
        try:
            for group in zone.destinations():
                sending_socket(self._section, zone, group).close()
        except DeviceError as error:
            return str(error)
        return ""

    # Receipts

    def _listen(self, stack: contextlib.ExitStack) -> None:
        """Follow the receiver reports of every group."""
        wanted = {
            (group, zone.interface or self._section.interface)
            for zone in self._section.zones.values()
            if zone.dialect is not Dialect.POLY
            for group in zone.destinations()
        }
        for group, interface in sorted(wanted):
            try:
                reports = Reports(self.host, group, interface, self._receipts)
            except OSError as error:
                # It can be paged all the same.
                self.host.log.warning("no receipts", group=group[0], error=str(error))
                self.host.count("no_receipts")
            else:
                self._reports[group] = reports
                stack.callback(self._stop_listening, group)

    def _stop_listening(self, group: tuple[str, int]) -> None:
        self._reports.pop(group).close()

    def _receipts(self, group: tuple[str, int]) -> Iterator[tuple[Receipt, tuple[str, int]]]:
        for page in self._pages.values():
            if page.destination == group:
                yield page.receipt, page.rtcp

    async def _follow(self) -> None:
        feed = self.host.subscribe()
        try:
            async for envelope in feed:
                if isinstance(envelope.event, InputChanged) and self._inputs.changed(
                    envelope.event
                ):
                    for page in self._pages.values():
                        page.receipt.look()
                if self.bells:
                    self.bells.take(envelope)
        finally:
            feed.close()

    # Pages

    def dial(self, action: Dial) -> None:
        name = action.endpoint.partition("/")[2]
        zone = self._section.zones.get(name)
        if zone is None:
            raise DeviceError(f"there is no zone {action.endpoint}")
        if any(page.action.endpoint == action.endpoint for page in self._pages.values()):
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.BUSY, detail="zone in use"))
            return
        page = self._pages[action.leg] = Broadcast(
            self.host,
            self._section,
            zone,
            action,
            gain_db=self.bells.gain_db(action.trace) if self.bells else 0.0,
            rendered=self._rendered,
            receipt=Receipt(zone, self._inputs),
            on_end=self._page_over,
        )
        page.start()

    def _page_over(self, page: Broadcast, became: str) -> None:
        del self._pages[page.action.leg]
        if page.destination in self._reports:
            self._reports[page.destination].ended.append(page.rtcp)
        name = page.action.endpoint.partition("/")[2]
        if became:
            self._told[name] = f"{page.action.leg}: {became}"
            self._show(name)

    def hangup(self, action: Hangup) -> None:
        page = self._pages.get(action.leg)
        if page is not None:
            page.hangup(action.cause, action.detail)

    def safe_state(self) -> None:
        """Nobody is left on the air."""
        self._end_all()

    # Bells

    def set_output(self, action: SetOutput) -> None:
        if self.bells is None or action.endpoint != self.bells.endpoint:
            raise self._cannot(action)
        if action.output == MUTE:
            self.bells.mute(bool(action.value))
        elif action.output not in self._section.bells:
            raise DeviceError(f"there is no bell {action.output!r}")
        elif action.value:
            self.bells.ring(action.output)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        if self.bells is None or action.endpoint != self.bells.endpoint:
            raise self._cannot(action)
