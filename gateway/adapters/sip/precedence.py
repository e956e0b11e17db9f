"""Precedence of calls in SIP: Resource-Priority (RFC 4412), and why one had to go (RFC 4411)."""

from __future__ import annotations

from typing import Final

from gateway.adapters.sip.config import Phone, Trunk
from gateway.core.causes import Cause
from gateway.core.events import Priority
from gateway.protocols.sip.headers import format_reason
from gateway.protocols.sip.message import Header, Request

_R, _P, _U, _E = Priority
# RFC 4412 section 12: values of a namespace, lowest first. What has five steps shares our four.
_VALUES: Final[dict[str, dict[str, Priority]]] = {
    "dsn": {"routine": _R, "priority": _P, "immediate": _U, "flash": _E, "flash-override": _E},
    "drsn": {
        "routine": _R, "priority": _P, "immediate": _U, "flash": _E, "flash-override": _E,
        "flash-override-override": _E,
    },
    "q735": {"4": _R, "3": _P, "2": _U, "1": _E, "0": _E},
    # Who may use these at all is above the ordinary caller.
    "ets": {"4": _P, "3": _P, "2": _U, "1": _U, "0": _E},
    "wps": {"4": _P, "3": _P, "2": _U, "1": _U, "0": _E},
}  # fmt: skip


def asked_priority(request: Request, namespace: str = "") -> Priority | None:
    """The precedence a request asks for, in one namespace or any that is known; None: none."""
    found: Priority | None = None
    for value in request.values("resource-priority"):
        space, _, step = value.strip().lower().partition(".")
        if namespace in ("", space):
            priority = _VALUES.get(space, {}).get(step)
            if priority is not None:
                found = priority if found is None else max(found, priority)
    return found


def granted(request: Request, phone: Phone | None, trunk: Trunk | None) -> Priority | None:
    """The precedence that a call has; None when it requires one that is not known here."""
    least, most = Priority.ROUTINE, Priority.EMERGENCY
    if phone is not None:
        most = Priority[phone.priority.upper()]
    if trunk is not None and not trunk.precedence:
        most = least
    asked = asked_priority(request, trunk.precedence if trunk else "")
    if asked is None and "resource-priority" in request.tokens("require"):
        return None
    return min(asked or least, most)


def resource_priority(priority: Priority, namespace: str) -> list[Header]:
    """How a peer is told of a call's precedence; nothing where it has no word for it."""
    steps = [step for step, level in _VALUES.get(namespace, {}).items() if level is priority]
    # The top of what is an emergency to us, else the least that means it.
    step = (steps[-1] if priority is Priority.EMERGENCY else steps[0]) if steps else ""
    return [("Resource-Priority", f"{namespace}.{step}")] if step else []


def accepted(trunk: Trunk | None) -> Header:
    """Accept-Resource-Priority for a 417 (RFC 4412 section 4.6.2)."""
    names = [trunk.precedence] if trunk is not None else list(_VALUES)
    known = [f"{name}.{step}" for name in names for step in _VALUES.get(name, {})]
    return ("Accept-Resource-Priority", ", ".join(known))


def preemption(cause: Cause) -> list[Header]:
    """A Reason for a call that made room for a more important one (RFC 4411 section 3)."""
    if cause is not Cause.PREEMPTED:
        return []
    return [("Reason", format_reason("preemption", 1, "UA Preemption"))]
