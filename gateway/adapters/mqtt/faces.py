"""Faces: how our panels, and panels of others that we present, look to Home Assistant.

Each face has its topics below ``<base>/panel/<panel>``: ``state`` and ``availability`` (retained),
``command``, ``result``. A command is carried out only with a valid code, or without one where the
configuration says so for that verb; never when it is retained, and never when it is old.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import random
import re
from collections.abc import Callable

import msgspec

from gateway.adapters.mqtt.config import Config, Panel
from gateway.adapters.mqtt.link import Inbound, Outbound
from gateway.adapters.mqtt.places import HostedPanel, Line, PanelPlace, Place
from gateway.core.endpoints import Condition
from gateway.core.events import AcknowledgeRequested
from gateway.protocols import alarms

WRONG_CODES = 5
LOCKED_S = 60.0


class Face:
    """One panel as others see it."""

    def __init__(self, panel: HostedPanel | PanelPlace, base: str) -> None:
        self.panel = panel
        self.topic = f"{base}/panel/{panel.local}"
        self.shown = ""
        self.kept = ""
        self.available = ""
        self.wrong = 0
        self.locked_until = 0.0


class Faces:
    """Driven by `receive` (messages), `show` (a panel changed), `went_up` (the broker is there)."""

    def __init__(
        self,
        name: str,
        config: Config,
        places: dict[str, Place],
        line: Line,
        keep: Callable[[str, str], None],
    ) -> None:
        self._name, self._config, self._line, self._keep = name, config, line, keep
        self._faces = {
            id_: Face(place, config.base_topic)
            for id_, place in places.items()
            if isinstance(place, HostedPanel)
            or (isinstance(place, PanelPlace) and place.config.present)
        }
        self.commands = {f"{face.topic}/command": face for face in self._faces.values()}
        home = config.homeassistant
        self.birth_topic = (home.birth_topic or f"{home.prefix}/status") if home else ""
        self._announced: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def remember(self, announced: str) -> None:
        """Take up which discovery topics an earlier run has left on the broker."""
        try:
            self._announced = set(msgspec.json.decode(announced or "[]", type=list[str]))
        except msgspec.DecodeError:
            self._announced = set()

    def went_up(self) -> None:
        """Show everything anew."""
        for face in self._faces.values():
            face.shown = face.available = ""
            self.show(face.panel)
        self._discover()

    def stop(self) -> None:
        """Stop all timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def show(self, place: Place) -> None:
        """Publish what changed of a panel; does nothing for a place without a face."""
        face = self._faces.get(place.endpoint.id)
        if face is None:
            return
        if isinstance(face.panel, HostedPanel):
            kept = msgspec.json.encode(face.panel.kept).decode()
            if kept != face.kept:
                face.kept = kept
                self._keep(f"panel.{place.endpoint.id}", kept)
        state = face.panel.shown
        if state != face.shown and self._line.publish(
            Outbound(f"{face.topic}/state", state.encode(), retain=True)
        ):
            face.shown = state
        up = isinstance(face.panel, HostedPanel) or place.endpoint.condition is Condition.UP
        available = "online" if up else "offline"
        if available != face.available and self._line.publish(
            Outbound(f"{face.topic}/availability", available.encode(), retain=True)
        ):
            face.available = available

    # Discovery

    def _discover(self) -> None:
        home = self._config.homeassistant
        documents: dict[str, bytes] = {}
        if home is not None:
            box, base = self._config.box_name, self._config.base_topic
            version = importlib.metadata.version("crosspoint-gateway")
            node = re.sub(r"[^A-Za-z0-9_-]", "-", f"{box}-{self._name}")
            document = alarms.box_discovery(box=box, base=base, version=version)
            documents[f"{home.prefix}/binary_sensor/{node}/status/config"] = msgspec.json.encode(
                document
            )
            for face in self._faces.values():
                panel = face.panel.config
                document = alarms.panel_discovery(
                    box=box,
                    panel=face.panel.local,
                    label=panel.label,
                    base=base,
                    verbs=panel.verbs,
                    code=bool(panel.codes.pins or panel.codes.panel_checks),
                    version=version,
                )
                topic = f"{home.prefix}/alarm_control_panel/{node}/{face.panel.local}/config"
                documents[topic] = msgspec.json.encode(document)
        for topic, payload in documents.items():
            self._line.publish(Outbound(topic, payload, retain=True))
        for topic in self._announced - documents.keys():
            # An empty retained message takes the entity out of Home Assistant.
            self._line.publish(Outbound(topic, b"", retain=True))
        if self._announced != documents.keys():
            self._announced = set(documents)
            self._keep("discovery", msgspec.json.encode(sorted(documents)).decode())

    def _rediscover(self) -> None:
        self._timer = None
        self.went_up()

    # Commands

    def receive(self, message: Inbound) -> None:
        """A message, ours or not. Raises `PeerError` when it is a command that makes no sense."""
        if message.topic == self.birth_topic and self._config.homeassistant is not None:
            if message.payload == b"online" and self._timer is None:
                # Many boxes hear of the birth in the same moment; they should not all answer so.
                delay = random.uniform(0.0, self._config.homeassistant.birth_delay_s)
                self._timer = asyncio.get_running_loop().call_later(delay, self._rediscover)
            return
        face = self.commands.get(message.topic)
        if face is None:
            return
        if message.retain:
            self._line.host.count("mqtt.retained_ignored")
            return
        request = alarms.decode_request(message.payload)
        by, refusal = self._judge(face, request)
        if refusal:
            self._line.host.count("mqtt.commands_refused")
            self._answer(face, request, by, False, refusal)
            return
        self._obey(face, request, by, message.trace)

    def _judge(self, face: Face, request: alarms.Request) -> tuple[str, str]:
        """Who asks, and why it is refused (empty: it is not)."""
        panel: Panel = face.panel.config
        codes = panel.codes
        now = self._line.host.now()
        if request.stale(self._line.wall(), self._config.command_ttl_s):
            return request.by, "too old, or the clocks differ"
        if request.verb not in panel.verbs:
            return request.by, f"this panel does not do {request.verb}"
        if now < face.locked_until:
            return request.by, "locked after too many wrong codes"
        if codes.panel_checks and isinstance(face.panel, PanelPlace):
            return request.by, ""
        if request.code and codes.pins:
            person = codes.who(request.code)
            if person:
                face.wrong = 0
                return person, ""
            face.wrong += 1
            if face.wrong >= WRONG_CODES:
                face.wrong, face.locked_until = 0, now + LOCKED_S
            return request.by, "wrong code"
        if request.verb in codes.without_code:
            return request.by, ""
        return request.by, "no code"

    def _obey(self, face: Face, request: alarms.Request, by: str, trace: str) -> None:
        panel = face.panel

        def done(ok: bool, detail: str) -> None:
            self._answer(face, request, by, ok, detail)
            self.show(panel)

        if isinstance(panel, HostedPanel):
            mirrored = list(panel.mirrored)
            ok, detail = panel.obey(request.verb, trace)
            if request.verb == "DISARM":
                for endpoint, alarm in mirrored:
                    self._line.host.emit(
                        AcknowledgeRequested(endpoint=endpoint, alarm=alarm, by=by)
                    )
            done(ok, detail)
        elif not panel.config.command_topic:
            done(False, "this panel takes no commands")
        else:
            panel.command(
                request.verb,
                code=request.code if panel.config.codes.panel_checks else "",
                by=by,
                trace=trace,
                command="",
                done=done,
            )

    def _answer(self, face: Face, request: alarms.Request, by: str, ok: bool, detail: str) -> None:
        log = self._line.host.log.info if ok else self._line.host.log.warning
        log(
            "command from the broker " + ("carried out" if ok else "refused or failed"),
            panel=face.panel.endpoint.id,
            verb=request.verb,
            by=by,
            detail=detail,
        )
        answer = {"action": request.verb, "ok": ok, "detail": detail, "by": by}
        self._line.publish(Outbound(f"{face.topic}/result", msgspec.json.encode(answer)))
