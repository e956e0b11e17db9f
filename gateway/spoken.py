"""Announcements whose words are known before anything happens: no alarm waits for its voice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from gateway.adapters.base import Log
from gateway.config import Configuration
from gateway.errors import DeviceError
from gateway.media.speech import Synthesiser


def texts(configuration: Configuration) -> list[str]:
    """Each once: those without fields, and those that lack only what a configured alarm says."""
    alarms = [
        alarm for section in configuration.adapters.values() for alarm in _alarms(section.config)
    ]
    found: dict[str, None] = {}
    for route in configuration.routes:
        for announcement in (route.announce, route.hold):
            if announcement is None:
                continue
            for kind, text in alarms if "{" in announcement.text else (("", ""),):
                words = announcement.text.replace("{kind}", kind).replace("{text}", text)
                if "{" not in words and words.strip():
                    found[words] = None
    return list(found)


def prepare(synthesiser: Synthesiser, configuration: Configuration, log: Log) -> None:
    """Have them spoken in the background; the log tells the first one that cannot be."""

    def failed(text: str, error: DeviceError) -> None:
        log.warning("announcement cannot be spoken", text=text[:40], error=str(error))

    synthesiser.prepare(texts(configuration), failed)


def _alarms(settings: object) -> Iterator[tuple[str, str]]:
    """Kind and text of each alarm that an adapter's section describes, however deep."""
    if isinstance(settings, msgspec.Struct):
        fields = msgspec.structs.asdict(settings)
        if {"kind", "severity", "text"} <= fields.keys() and fields["text"]:
            yield str(fields["kind"]), str(fields["text"])
        settings = fields
    if isinstance(settings, Mapping):
        settings = tuple(settings.values())
    if isinstance(settings, tuple | list):
        for each in settings:
            yield from _alarms(each)
