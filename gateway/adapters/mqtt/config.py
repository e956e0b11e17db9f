"""The section ``[adapters.<name>]`` of an MQTT adapter."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Literal

import msgspec

from gateway.adapters.secrets import Secret
from gateway.core.events import Severity
from gateway.errors import ConfigError
from gateway.protocols.alarms import (
    EXPECTED,
    SEVERITIES,
    STATES,
    AlarmRule,
    InputRule,
    Template,
    TopicFilter,
    check_command_template,
)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def _topics(*topics: str) -> None:
    """Refuse what cannot be published to; an empty topic is a topic not used."""
    for topic in topics:
        if topic and (set(topic) & set("+#\0") or topic.startswith("$")):
            raise ValueError(f"topic {topic!r} must not hold a wildcard or begin with '$'")


class Tls(_Section, frozen=True, kw_only=True):
    """Transport security. Without `ca_file` the system's authorities are trusted."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, server verified. Reads files; raises `ConfigError`."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file:
                # A passphrase would make the library ask on the terminal of an unattended box.
                context.load_cert_chain(self.cert_file, self.key_file or None, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{error} ({self.ca_file or 'system CAs'}, {self.cert_file or 'no certificate'})",
                key="tls",
                remedy="give readable PEM files; the key must have no passphrase",
            ) from None
        return context


class Output(_Section, frozen=True, kw_only=True):
    """A siren, relay or lamp that is switched by publishing."""

    topic: str
    on: str = "ON"
    off: str = "OFF"
    payload: str = ""
    """Instead of on and off: a template with ``{{ value }}``, possibly JSON."""
    safe: float = 0.0
    """Value to publish when the gateway stops, unless `keep`."""
    keep: bool = False
    """Leave the output as it is when the gateway stops."""
    retain: bool = False

    def __post_init__(self) -> None:
        _topics(self.topic)
        check_command_template(self.payload)


class Availability(_Section, frozen=True, kw_only=True):
    """How a device says whether it is there."""

    topic: str
    online: str = "online"
    offline: str = "offline"

    def __post_init__(self) -> None:
        _topics(self.topic)


class Codes(_Section, frozen=True, kw_only=True):
    """Who may command a panel of ours from the broker. Without any of this: nobody."""

    pins: dict[str, Secret] = {}
    """Name to code, four characters or more: ``anna = { file = "/etc/crosspoint/anna.pin" }``."""
    without_code: tuple[str, ...] = ()
    """Verbs that need no code, such as ``ARM_AWAY`` or ``TRIGGER``."""
    panel_checks: bool = False
    """Hand the code to the panel, which checks it itself."""

    def __post_init__(self) -> None:
        for verb in self.without_code:
            if verb not in EXPECTED:
                raise ValueError(f"verb {verb!r} is none of {', '.join(EXPECTED)}")

        for name, code in self.pins.items():
            if len(code.reveal()) < 4:
                raise ValueError(f"the code of {name!r} is shorter than four characters")

    def who(self, code: str) -> str:
        """Whose code this is; empty when nobody's. Takes as long for a wrong one as for a right."""
        found = ""
        for name, secret in self.pins.items():
            if secret == Secret(code):
                found = name
        return found


class Panel(_Section, frozen=True, kw_only=True):
    """An alarm panel: out there (`state_topic`), or the gateway itself (no `state_topic`)."""

    label: str = ""
    location: str = ""
    state_topic: str = ""
    """Empty: the gateway is the panel and keeps its state."""
    state_path: str = ""
    states: dict[str, str] = {}
    """The panel's words for its states to ours."""
    command_topic: str = ""
    command_payload: str = ""
    """Template with ``{{ action }}``, ``{{ code }}``, ``{{ command }}``, ``{{ by }}``,
    ``{{ trace }}``, ``{{ time }}``; empty: the verb alone."""
    commands: dict[str, str] = {}
    """Our verbs to the panel's words."""
    verbs: tuple[str, ...] = ("ARM_HOME", "ARM_AWAY", "ARM_NIGHT", "DISARM", "TRIGGER")
    command_timeout_s: float = 10.0
    arming_timeout_s: float = 120.0
    """How long a panel may stay ``arming`` or ``pending`` before a command counts as failed."""
    availability: Availability | None = None
    ack_topic: str = ""
    alarm: str = "alarm"
    """Id of the alarm that ``triggered`` stands for."""
    kind: str = "intrusion"
    severity: str = "major"
    text: str = ""
    present: bool = False
    """Show it to Home Assistant and take commands from there; a panel of ours always is."""
    codes: Codes = Codes()
    mirror: tuple[str, ...] = ()
    """Endpoints (``modbus/*``) whose alarms this panel of ours shows as triggered."""
    outputs: dict[str, Output] = {}

    def __post_init__(self) -> None:
        _topics(self.state_topic, self.command_topic, self.ack_topic)
        check_command_template(self.command_payload)
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")
        for verb in (*self.verbs, *self.commands):
            if verb not in EXPECTED:
                raise ValueError(f"verb {verb!r} is none of {', '.join(EXPECTED)}")
        for state in self.states.values():
            if state not in STATES and state != "unknown":
                raise ValueError(f"state {state!r} is none of {', '.join(sorted(STATES))}")
        if not self.state_topic and (self.command_topic or self.state_path or self.availability):
            raise ValueError("a panel with a command_topic or availability needs a state_topic")
        if self.mirror and self.state_topic:
            raise ValueError("only a panel of ours (no state_topic) can mirror other alarms")

    @property
    def hosted(self) -> bool:
        """Whether the gateway itself is the panel."""
        return not self.state_topic


class Topic(_Section, frozen=True, kw_only=True):
    """What the payloads of a topic, or of all topics that match a pattern, mean."""

    topic: str
    """``plant/{zone}/+/smoke/#``; a level in braces is captured for the templates."""
    format: Literal["json", "text"] = "json"
    alarms: tuple[AlarmRule, ...] = ()
    inputs: tuple[InputRule, ...] = ()

    def __post_init__(self) -> None:
        TopicFilter(self.topic)


class Device(_Section, frozen=True, kw_only=True):
    """Anything else that talks MQTT: detectors, contacts, buttons, sirens."""

    label: str = ""
    location: str = ""
    topics: tuple[Topic, ...] = ()
    availability: Availability | None = None
    ack_topic: str = ""
    outputs: dict[str, Output] = {}

    def __post_init__(self) -> None:
        _topics(self.ack_topic)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs whose names do not come out of messages."""
        rules = (rule for topic in self.topics for rule in topic.inputs)
        return tuple(dict.fromkeys(r.input for r in rules if Template(r.input).fixed))


class Events(_Section, frozen=True, kw_only=True):
    """Which of the gateway's events are published."""

    enabled: bool = True
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    """Names of events. `DigitPressed` is left out unless `include` names it: digits are PINs."""
    maximum: int = 100_000
    """How many wait on disk while the broker is away."""

    def __post_init__(self) -> None:
        if self.maximum < 100:
            raise ValueError("maximum must be 100 or more")

    def wants(self, name: str) -> bool:
        """Whether events of this name are published."""
        if not self.enabled or name in self.exclude:
            return False
        return name in self.include or ("*" in self.include and name != "DigitPressed")


class HomeAssistant(_Section, frozen=True, kw_only=True):
    """Discovery of the presented panels by Home Assistant."""

    prefix: str = "homeassistant"
    birth_topic: str = ""
    """Empty: ``<prefix>/status``."""
    birth_delay_s: float = 5.0
    """After Home Assistant's birth we answer at a random moment within this time."""

    def __post_init__(self) -> None:
        _topics(self.prefix, self.birth_topic)


class Config(_Section, frozen=True, kw_only=True):
    """Connection to a broker, and what is behind it."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: 8883 with `tls`, 1883 without."""
    version: Literal["5", "3.1.1"] = "5"
    client_id: str = ""
    """Must be unique on the broker; empty: made of `box` and the section's name."""
    box: str = ""
    """This gateway's name in topics; empty: the host name."""
    base: str = ""
    """Topic below which we publish; empty: ``gw/<box>``."""
    keepalive_s: int = 20
    connect_timeout_s: float = 5.0
    session_s: int = 3600
    """How long the broker keeps alarms for us while we are away; 0: not at all."""
    user: str = ""
    password: Secret = Secret()
    tls: Tls | None = None
    message_limit: int = 65_536
    """Bytes of payload; a larger message is counted and ignored."""
    rate: float = 20.0
    """Changes a second that each panel or device may report for long; alarms are not counted."""
    burst: int = 100
    command_ttl_s: float = 10.0
    """A command older than this is refused, and expires in the broker."""
    events: Events = Events()
    homeassistant: HomeAssistant | None = None
    panels: dict[str, Panel] = {}
    devices: dict[str, Device] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not 0 to 65535")
        for name, value, low in (
            ("keepalive_s", self.keepalive_s, 5),
            ("message_limit", self.message_limit, 1024),
            ("burst", self.burst, 1),
        ):
            if not low <= value <= 65_535 * 256:
                raise ValueError(f"{name} = {value} is less than {low} or absurd")
        if self.keepalive_s > 65_535 or self.rate <= 0 or self.connect_timeout_s <= 0:
            raise ValueError("keepalive_s, rate and connect_timeout_s: out of range")
        _topics(self.base)
        for name in (*self.panels, *self.devices):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"{name!r}: use letters, digits, '_' and '-'")
        twice = self.panels.keys() & self.devices.keys()
        if twice:
            raise ValueError(f"{sorted(twice)[0]!r} is both a panel and a device")

    @property
    def box_name(self) -> str:
        """The box's name, safe within a topic level."""
        return re.sub(r"[^A-Za-z0-9_-]", "-", self.box or socket.gethostname()) or "box"

    @property
    def base_topic(self) -> str:
        """Where our own topics begin."""
        return self.base.strip("/") or f"gw/{self.box_name}"


SEVERITY = {name: Severity[name.upper()] for name in SEVERITIES}
