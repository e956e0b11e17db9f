"""What alarm panels and sensors say over a message broker: payloads to meaning and back.

Two dialects. Panels follow the alarm control panel convention of Home Assistant's MQTT
integration: a word for the state, a word or a small JSON object for a command. Everything else is
read by rules: a topic pattern with captures, JSON pointers (RFC 6901) into the payload, and lists
of values that raise, clear or acknowledge an alarm.

Every decoder raises `PeerError` for a payload that it cannot read, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.errors import PeerError

STATES: Final = frozenset(
    (
        "disarmed", "armed_home", "armed_away", "armed_night", "armed_vacation",
        "armed_custom_bypass", "pending", "triggered", "arming", "disarming",
    )
)  # fmt: skip
"""States of a panel; ``unknown`` stands for the literal ``None`` that resets it."""

ARMED: Final[dict[str, str]] = {
    "ARM_HOME": "armed_home",
    "ARM_AWAY": "armed_away",
    "ARM_NIGHT": "armed_night",
    "ARM_VACATION": "armed_vacation",
    "ARM_CUSTOM_BYPASS": "armed_custom_bypass",
}
EXPECTED: Final[dict[str, frozenset[str]]] = {
    **{verb: frozenset({state}) for verb, state in ARMED.items()},
    "DISARM": frozenset({"disarmed"}),
    "TRIGGER": frozenset({"triggered", "pending"}),
}
"""Which states show that a command took effect."""

SEVERITIES: Final = ("indeterminate", "warning", "minor", "major", "critical")
"""Names of ITU-T X.733 perceived severity, ascending."""

ID_LIMIT: Final = 96
TEXT_LIMIT: Final = 500


class Raised(msgspec.Struct, frozen=True):
    """An alarm is active."""

    alarm: str
    kind: str = ""
    severity: str = "major"
    text: str = ""


class Cleared(msgspec.Struct, frozen=True):
    """An alarm's cause is gone."""

    alarm: str


class Acknowledged(msgspec.Struct, frozen=True):
    """Somebody took an alarm in hand."""

    alarm: str
    by: str = ""


class State(msgspec.Struct, frozen=True):
    """A panel reports its state."""

    state: str


class Reading(msgspec.Struct, frozen=True):
    """A value of an input."""

    input: str
    value: float


class Available(msgspec.Struct, frozen=True):
    """A device says, or its last will says, whether it is there."""

    online: bool


class Request(msgspec.Struct, frozen=True):
    """A command that somebody sent to a panel of ours."""

    verb: str
    code: str = ""
    by: str = ""
    time: float | None = None
    """When it was sent, wall clock seconds since 1970; None when the sender does not say."""
    ttl_s: float | None = None

    def __repr__(self) -> str:
        return f"Request(verb={self.verb!r}, by={self.by!r}, time={self.time!r})"

    def stale(self, wall: float, limit_s: float) -> bool:
        """Whether it is older than its own or our limit, or from a clock that is not ours."""
        if self.time is None:
            return False
        limit = limit_s if self.ttl_s is None else min(limit_s, self.ttl_s)
        return not -limit_s <= wall - self.time <= limit


Meaning = Raised | Cleared | Acknowledged | State | Reading | Available


# Topics


class TopicFilter:
    """An MQTT topic filter whose levels may be captured: ``plant/{zone}/+/smoke/#``.

    ``{name}`` is a ``+`` with a name, and what ``#`` stands for is captured as ``rest``.
    `subscription` is the filter to send to the broker. Raises `ValueError` for a filter that
    MQTT does not allow (MQTT 5.0 section 4.7.1).
    """

    def __init__(self, text: str) -> None:
        if not text or "\0" in text or len(text.encode()) > 65535:
            raise ValueError(f"topic {text!r} is empty, too long or holds a NUL")
        parts, wire, names = [], [], set[str]()
        levels = text.split("/")
        for index, level in enumerate(levels):
            name = re.fullmatch(r"\{([a-z][a-z0-9_]*)\}", level)
            if level == "#":
                if index != len(levels) - 1:
                    raise ValueError(f"topic {text!r}: '#' is allowed only at the end")
                break
            if name is not None:
                if name[1] in names or name[1] == "rest":
                    raise ValueError(f"topic {text!r}: the name {name[1]!r} is used twice")
                names.add(name[1])
                parts.append(f"(?P<{name[1]}>[^/]*)")
                wire.append("+")
            elif level == "+":
                parts.append("[^/]*")
                wire.append("+")
            elif set(level) & set("+#{}"):
                raise ValueError(f"topic {text!r}: a wildcard must fill its level")
            else:
                parts.append(re.escape(level))
                wire.append(level)
        pattern = "/".join(parts)
        if levels[-1] == "#":
            # "a/#" also matches "a" itself.
            pattern = f"{pattern}(?:/(?P<rest>.*))?" if parts else "(?P<rest>.*)"
            wire.append("#")
        self.text = text
        self.subscription = "/".join(wire)
        self.literal = self.subscription == text
        """No wildcard: the filter is a topic."""
        # Wildcards in the first level do not match the broker's own $-topics (section 4.7.2).
        guard = r"(?!\$)" if wire[0] in "+#" else ""
        self._pattern = re.compile(guard + pattern, re.DOTALL)

    def match(self, topic: str) -> dict[str, str] | None:
        """The captures, or None when the topic does not match."""
        found = self._pattern.fullmatch(topic)
        if found is None:
            return None
        return {name: value or "" for name, value in found.groupdict().items()}


# Values


class _Missing:
    pass


MISSING: Final = _Missing()


def decode(payload: bytes) -> Any:
    """The JSON document in a payload. Raises `PeerError`."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise PeerError(f"not JSON: {error}") from None


def plain(payload: bytes) -> str:
    """A payload that is just a word. Raises `PeerError` when it is not UTF-8."""
    try:
        return payload.decode().strip()
    except UnicodeDecodeError:
        raise PeerError("neither JSON nor UTF-8 text") from None


def pointer(document: Any, path: str) -> Any:
    """What a JSON pointer points to (RFC 6901), or `MISSING`; an empty path is the whole."""
    if not path:
        return document
    for token in path.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(token, MISSING)
        elif isinstance(document, list) and token.isascii() and token.isdigit():
            index = int(token) if len(token) < 10 else len(document)
            document = document[index] if index < len(document) else MISSING
        else:
            return MISSING
        if document is MISSING:
            return MISSING
    return document


def word(value: Any) -> str:
    """How a JSON value is written in a rule's list: ``true``, ``null``, ``1``, ``21.5``, ``on``."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 1 << 128 else "inf"
    return msgspec.json.encode(value).decode()


def number(value: Any) -> float | None:
    """A finite number, also out of a string or a truth value; otherwise None."""
    if not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _clean(text: str, limit: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


class Template:
    """Text with fields: ``{name}`` is a capture of the topic, ``{/a/b}`` points into the payload.

    A field that is missing becomes empty text. Raises `ValueError` for a lone brace.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str]] = []
        for literal, field in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", text):
            if literal or field:
                self._parts.append((literal, field))
        if "".join(a + (f"{{{b}}}" if b else "") for a, b in self._parts) != text:
            raise ValueError(f"{text!r}: write fields as {{name}} or {{/path}}")
        self.fixed = not any(field for _, field in self._parts)

    def fill(self, captures: Mapping[str, str], document: Any, limit: int) -> str:
        """The text, at most `limit` characters, without control characters."""
        out = []
        for literal, field in self._parts:
            out.append(literal)
            if field.startswith("/"):
                value = pointer(document, field)
                out.append("" if value is MISSING or value is None else word(value))
            elif field:
                out.append(captures.get(field, ""))
        return _clean("".join(out), limit)


# Rules for any payload


class AlarmRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a payload raises, clears or acknowledges an alarm, and which."""

    alarm: str
    """Template of the alarm's id."""
    path: str = ""
    """JSON pointer to the deciding value; empty: the whole payload."""
    raised: tuple[str, ...] = ()
    """Values that raise; ``*`` is any value that the other lists do not name."""
    cleared: tuple[str, ...] = ()
    acknowledged: tuple[str, ...] = ()
    above: float | None = None
    """Raise when a number is greater; clear when it is not greater than above - hysteresis."""
    below: float | None = None
    hysteresis: float = 0.0
    kind: str = ""
    kind_path: str = ""
    kinds: dict[str, str] = {}
    """Their word for the kind to ours; what is not listed is taken as it is."""
    severity: str = "major"
    severity_path: str = ""
    severities: dict[str, str] = {}
    text: str = ""
    by: str = ""
    """Template of who acknowledged."""

    def __post_init__(self) -> None:
        _check_pointers(self.path, self.kind_path, self.severity_path)
        for severity in (self.severity, *self.severities.values()):
            if severity not in SEVERITIES:
                raise ValueError(f"severity {severity!r} is none of {', '.join(SEVERITIES)}")
        for template in (self.alarm, self.text, self.by):
            Template(template)
        if not (self.raised or self.cleared or self.acknowledged) and (
            self.above is None and self.below is None
        ):
            raise ValueError(
                f"alarm {self.alarm!r} can never change: give raised, cleared, above or below"
            )


class InputRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a payload carries the value of an input."""

    input: str
    """Template of the input's name."""
    path: str = ""
    values: dict[str, float] = {}
    """Words to numbers: ``{open = 1, closed = 0}``."""
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        _check_pointers(self.path)
        Template(self.input)


def _check_pointers(*paths: str) -> None:
    for path in paths:
        if path and not path.startswith("/"):
            raise ValueError(f"path {path!r} must begin with '/' (JSON pointer, RFC 6901)")


class Rules:
    """The rules of one topic, ready for use; holds no state."""

    def __init__(
        self, alarms: Sequence[AlarmRule], inputs: Sequence[InputRule], *, json: bool = True
    ) -> None:
        self._json = json
        self._alarms = [(r, Template(r.alarm), Template(r.text), Template(r.by)) for r in alarms]
        self._inputs = [(r, Template(r.input)) for r in inputs]

    def read(self, payload: bytes, captures: Mapping[str, str]) -> list[Meaning]:
        """What a payload means. Raises `PeerError` when no rule finds what it looks for."""
        document = decode(payload) if self._json else plain(payload)
        found: list[Meaning] = []
        heard = False
        for rule, alarm, text, by in self._alarms:
            value = pointer(document, rule.path)
            if value is MISSING:
                continue
            heard = True
            meaning = _judge(rule, value)
            if meaning is None:
                continue
            name = alarm.fill(captures, document, ID_LIMIT)
            if not name:
                raise PeerError(f"alarm id {rule.alarm!r} is empty for this payload")
            if meaning == "raised":
                found.append(
                    Raised(
                        name,
                        _mapped(document, rule.kind_path, rule.kinds) or rule.kind,
                        _severity(rule, document),
                        text.fill(captures, document, TEXT_LIMIT),
                    )
                )
            elif meaning == "cleared":
                found.append(Cleared(name))
            else:
                found.append(Acknowledged(name, by.fill(captures, document, ID_LIMIT)))
        for input_rule, template in self._inputs:
            value = pointer(document, input_rule.path)
            if value is MISSING:
                continue
            heard = True
            reading = input_rule.values.get(word(value))
            if reading is None:
                reading = number(value)
                if reading is None:
                    raise PeerError(f"input {input_rule.input!r}: {word(value)[:40]!r} is no value")
            name = template.fill(captures, document, ID_LIMIT)
            scaled = number(reading * input_rule.scale + input_rule.offset)
            if not name or scaled is None:
                raise PeerError(f"input {input_rule.input!r}: no name or no finite value")
            found.append(Reading(name, scaled))
        if not heard:
            raise PeerError("holds none of the configured paths")
        return found


def _judge(rule: AlarmRule, value: Any) -> str | None:
    said = word(value)
    for name in ("acknowledged", "cleared", "raised"):
        if said in getattr(rule, name):
            return name
    measured = None if isinstance(value, bool) else number(value)
    if measured is not None:
        if (rule.above is not None and measured > rule.above) or (
            rule.below is not None and measured < rule.below
        ):
            return "raised"
        if rule.above is not None or rule.below is not None:
            calm = (rule.above is None or measured <= rule.above - rule.hysteresis) and (
                rule.below is None or measured >= rule.below + rule.hysteresis
            )
            return "cleared" if calm else None
    for name in ("raised", "cleared", "acknowledged"):
        if "*" in getattr(rule, name):
            return name
    if measured is None and (rule.above is not None or rule.below is not None):
        raise PeerError(f"alarm {rule.alarm!r}: {said[:40]!r} is no number")
    # With both lists given, a third word means that the list is incomplete: somebody must know.
    if rule.raised and rule.cleared:
        raise PeerError(f"alarm {rule.alarm!r}: {said[:40]!r} neither raises nor clears")
    return None


def _mapped(document: Any, path: str, words: Mapping[str, str]) -> str:
    value = pointer(document, path) if path else MISSING
    if value is MISSING or value is None:
        return ""
    said = word(value)
    return words.get(said, _clean(said, ID_LIMIT))


def _severity(rule: AlarmRule, document: Any) -> str:
    said = _mapped(document, rule.severity_path, rule.severities).lower()
    return said if said in SEVERITIES else rule.severity


# Panels


def decode_state(payload: bytes, path: str = "", words: Mapping[str, str] = {}) -> str:
    """A panel's state, one of `STATES` or ``unknown``. Raises `PeerError`.

    `path` points into a JSON payload; `words` translates a panel's own words.
    """
    if path:
        value = pointer(decode(payload), path)
        if value is MISSING:
            raise PeerError(f"holds no {path}")
        said = word(value)
    else:
        said = plain(payload)
    said = words.get(said, said)
    if said in ("None", "null", "unknown"):
        return "unknown"
    if said not in STATES:
        raise PeerError(f"{said[:40]!r} is no state of a panel")
    return said


def decode_available(payload: bytes, online: str = "online", offline: str = "offline") -> bool:
    """Whether a device is there; also out of ``{"state": ...}``. Raises `PeerError`."""
    said = plain(payload)
    if said.startswith("{"):
        value = pointer(decode(payload), "/state")
        said = "" if value is MISSING else word(value)
    if said in (online, offline):
        return said == online
    raise PeerError(f"{said[:40]!r} is neither {online!r} nor {offline!r}")


_FIELD = re.compile(r"\{\{\s*([a-z]+)\s*\}\}")


def check_command_template(text: str) -> None:
    """Raises `ValueError` for a field that `encode_command` does not know."""
    for name in _FIELD.findall(text):
        if name not in ("action", "code", "command", "by", "trace", "time", "value"):
            raise ValueError(f"{{{{ {name} }}}} is none of action, code, command, by, trace, time")


def fill(template: str, values: Mapping[str, str | float]) -> bytes:
    """Put values into ``{{ name }}`` fields; in JSON text is escaped, so it cannot break out."""
    escape = template.lstrip()[:1] in ("{", "[")

    def one(match: re.Match[str]) -> str:
        value = values.get(match[1], "")
        if isinstance(value, str) and escape:
            return msgspec.json.encode(value).decode()[1:-1]
        return value if isinstance(value, str) else word(value)

    return _FIELD.sub(one, template).encode()


def decode_request(payload: bytes) -> Request:
    """A command to a panel of ours: the verb alone, or JSON. Raises `PeerError`.

    JSON has ``action`` and, each optional, ``code``, ``by``, ``time`` (seconds or milliseconds
    since 1970) and ``ttl_ms``.
    """
    text = plain(payload)
    if not text.startswith("{"):
        return Request(_verb(text))
    document = decode(payload)
    code = document.get("code")
    time = number(document["time"]) if "time" in document else None
    ttl_ms = number(document["ttl_ms"]) if "ttl_ms" in document else None
    if ("time" in document and time is None) or (
        "ttl_ms" in document and (ttl_ms is None or ttl_ms < 0)
    ):
        # A sender who tries to say how old the command is must not be taken as timeless.
        raise PeerError("time or ttl_ms is not a number")
    return Request(
        _verb(document.get("action")),
        "" if code in (None, "None") else word(code),
        _clean(word(document.get("by", "")), ID_LIMIT),
        time / 1000 if time is not None and time > 1e11 else time,
        None if ttl_ms is None else ttl_ms / 1000,
    )


def _verb(said: Any) -> str:
    if not isinstance(said, str) or said not in EXPECTED:
        raise PeerError(f"{word(said)[:40]!r} is none of {', '.join(EXPECTED)}")
    return said


def encode_acknowledgement(alarm: str, by: str, trace: str, wall: float) -> bytes:
    """JSON ``{alarm, by, trace, time}``; `wall` in seconds since 1970."""
    return msgspec.json.encode({"alarm": alarm, "by": by, "trace": trace, "time": round(wall, 3)})


def decode_acknowledgement(payload: bytes) -> Acknowledged:
    """Read ``{"alarm": ..., "by": ...}``. Raises `PeerError`."""
    document = decode(payload)
    alarm = document.get("alarm") if isinstance(document, dict) else None
    if not isinstance(alarm, str) or not _clean(alarm, ID_LIMIT):
        raise PeerError("an acknowledgement names its alarm")
    by = document.get("by") or ""
    return Acknowledged(_clean(alarm, ID_LIMIT), _clean(word(by), ID_LIMIT))


def panel_discovery(
    *,
    box: str,
    panel: str,
    label: str,
    base: str,
    verbs: Sequence[str],
    code: bool,
    version: str,
) -> dict[str, Any]:
    """Home Assistant's discovery document of a panel whose face is below ``<base>/panel/<panel>``.

    The time in the command template lets the gateway refuse a command that lay in a queue.
    """
    topic = f"{base}/panel/{panel}"
    document = {
        "name": label or panel,
        "unique_id": f"{box}_{panel}",
        "state_topic": f"{topic}/state",
        "command_topic": f"{topic}/command",
        "command_template": (
            '{"action":"{{ action }}","code":"{{ code }}","time":{{ as_timestamp(now()) }}}'
        ),
        "availability": [
            {"topic": f"{base}/status"},
            {"topic": f"{topic}/availability"},
        ],
        "availability_mode": "all",
        "qos": 1,
        "retain": False,
        "supported_features": [verb.lower() for verb in verbs if verb != "DISARM"],
        "code_arm_required": code,
        "code_disarm_required": code,
        "code_trigger_required": code,
        **_belongs(box, version),
    }
    if code:
        document["code"] = "REMOTE_CODE_TEXT"
    return document


def box_discovery(*, box: str, base: str, version: str) -> dict[str, Any]:
    """Discovery document of the gateway itself: whether it is connected."""
    return {
        "name": "Connection",
        "unique_id": f"{box}_status",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": f"{base}/status",
        "payload_on": "online",
        "payload_off": "offline",
        **_belongs(box, version),
    }


def _belongs(box: str, version: str) -> dict[str, Any]:
    return {
        "device": {
            "identifiers": [f"crosspoint_{box}"],
            "name": box,
            "manufacturer": "Crosspoint",
            "model": "Gateway",
            "sw_version": version,
        },
        "origin": {"name": "Crosspoint", "sw": version},
    }
