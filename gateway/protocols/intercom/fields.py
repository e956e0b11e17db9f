"""Fields: values out of a frame, and values into a template."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.errors import UsageError
from gateway.protocols.intercom.framing import Frame
from gateway.protocols.intercom.profile import PLACEHOLDER, Field, Rule

Value = int | str | bytes


def extract(fields: Mapping[str, Field], frame: Frame) -> dict[str, Value]:
    """The values that a frame of octets has; a field beyond its end is left out."""
    found: dict[str, Value] = {"length": len(frame.octets)}
    if frame.text is None:
        for name, field in fields.items():
            value = _value(field, frame.octets)
            if value is not None:
                found[name] = value
    return found


def _value(field: Field, octets: bytes) -> Value | None:
    begin = field.at if field.at >= 0 else len(octets) + field.at
    end = begin + field.size if field.size else len(octets)
    if begin < 0 or end > len(octets) or begin > end:
        return None
    raw = octets[begin:end]
    match field.kind:
        case "uint":
            return (int.from_bytes(raw, field.order) & field.mask) >> field.shift
        case "hex":
            return raw.hex()
        case "bcd":
            return re.split("[a-f]", raw.hex())[0]
        case "ascii":
            return raw.rstrip(b"\0 ").decode("ascii", "replace")
        case "octets":
            return raw


def matches(rule: Rule, frame: Frame, values: Mapping[str, Value]) -> dict[str, Value] | None:
    """The values of a frame that a rule is about; None for another."""
    if rule.pattern:
        if frame.text is None:
            return None
        found = re.fullmatch(rule.pattern, frame.text)
        if found is None:
            return None
        return {**values, **{name: text or "" for name, text in found.groupdict().items()}}
    if frame.text is not None:
        return None
    for name, wanted in rule.when.items():
        value = values.get(name)
        if value != wanted and not (isinstance(wanted, tuple) and value in wanted):
            return None
    if any(values.get(name) == unwanted for name, unwanted in rule.unless.items()):
        return None
    return dict(values)


def render(template: str, values: Mapping[str, Value]) -> str:
    """A template with its placeholders filled.

    ``{name}`` is the value as text (octets in hexadecimal), ``{name:4}`` a number as so many
    hexadecimal digits. Raises `UsageError`: no such value, or it does not fit.
    """

    def fill(found: re.Match[str]) -> str:
        name, digits = found[1], found[2]
        if name not in values:
            raise UsageError(f"{template!r} needs {name}")
        value = values[name]
        if isinstance(value, bytes):
            return value.hex()
        if not digits:
            return str(value)
        try:
            number = int(value)
        except ValueError:
            raise UsageError(f"{name} = {value!r} is not a number") from None
        if not 0 <= number < 16 ** int(digits):
            raise UsageError(f"{name} = {number} has more than {digits} hexadecimal digits")
        return f"{number:0{int(digits)}X}"

    return PLACEHOLDER.sub(fill, template)
