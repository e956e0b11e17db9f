"""What several commands share: --json, ids that complete, times that people type."""

from __future__ import annotations

import time

from gateway.cli import Settings
from gateway.cli import lazily as click
from gateway.client import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar

    _F = TypeVar("_F", bound=Callable[..., Any])

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORMATS: Final = (
    "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%H:%M:%S", "%H:%M",
)  # fmt: skip


def json_option(command: _F) -> _F:
    """``--json`` behind the command, as well as before it."""

    def note(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(Settings).as_json = True

    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=note, help="JSON instead of tables."
    )
    return option(command)


def when(text: str, days_ago: int = 0) -> float:
    """A moment as people type it, in seconds since 1970.

    ``2h`` (ago), ``14:30`` or ``2:30pm`` (today, or days ago), ``2026-03-01``,
    ``2026-03-01T14:30``, ``now``.
    """
    import re

    text = text.strip()
    noon = re.fullmatch(r"(?i)(1[0-2]|0?[1-9])(?::([0-5]\d))?\s*([ap])m", text)
    if noon:
        text = f"{int(noon[1]) % 12 + 12 * (noon[3] in 'pP'):02}:{noon[2] or '00'}"
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if ago:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    if text == "now":
        return time.time()
    from datetime import datetime, timedelta

    for form in _FORMATS:
        try:
            found = datetime.strptime(text, form)
            if form.startswith("%H"):
                day = datetime.fromtimestamp(time.time()).date() - timedelta(days=days_ago)
                found = datetime.combine(day, found.time())
            return found.timestamp()
        except (ValueError, OverflowError):
            continue
    raise click.BadParameter(
        f"{text!r} is no time; write 2h, 1d, 14:30, 2026-03-01 or 2026-03-01T14:30"
    )


def past(text: str) -> float:
    """The same of what has been: a time of day that is still to come today was yesterday."""
    found = when(text)
    if "-" not in text and found > time.time():
        found = when(text, days_ago=1)
    return found


def until(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """`past` as the end of ``--since`` (eager), which it never precedes where a day later would do:
    at 0:30 the hours from 23:00 until 1:00 are not over yet."""
    if text is None:
        return None
    found, since = past(text), ctx.params.get("since")
    return when(text) if since is not None and found < since else found


def seconds(text: str) -> float:
    """A span as people type it: ``90s``, ``5m``, ``1h``."""
    import re

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no span of time; write 90s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _complete(path: str, keys: Callable[[dict[str, Any]], list[str]]) -> Callable[..., list[str]]:
    """Completion by asking the daemon; without one there is nothing to offer."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        root = ctx.find_root()
        settings = root.obj or Settings(
            root.params.get("socket"), root.params.get("config"), as_json=True
        )
        try:
            items = settings.client().get(path)
        except CommandError:
            return []
        words = {word for item in items for word in keys(item)}
        return sorted(word for word in words if word.startswith(incomplete))

    return complete


complete_endpoint = _complete("/v1/endpoints", lambda item: [item["id"]])
complete_adapter = _complete("/v1/adapters", lambda item: [item["name"]])
complete_call = _complete("/v1/calls", lambda item: [item["id"][-8:]])
complete_call_or_leg = _complete(
    "/v1/calls", lambda item: [item["id"][-8:], *(leg["id"] for leg in item["legs"])]
)
complete_alarm = _complete("/v1/alarms", lambda item: [item["endpoint"]])
