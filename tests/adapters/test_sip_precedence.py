"""Precedence between Resource-Priority and our priorities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.sip.precedence import asked_priority, preemption, resource_priority
from gateway.core.causes import Cause
from gateway.core.events import Priority

from .sip_stand import request


@pytest.mark.parametrize(
    ("line", "namespace", "priority"),
    [
        ("dsn.flash-override", "dsn", Priority.EMERGENCY),
        ("DSN.Immediate", "dsn", Priority.URGENT),
        ("dsn.routine", "dsn", Priority.ROUTINE),
        ("drsn.flash-override-override", "drsn", Priority.EMERGENCY),
        ("q735.0", "q735", Priority.EMERGENCY),
        ("q735.4", "q735", Priority.ROUTINE),
        ("ets.4", "ets", Priority.PRIORITY),
        ("wps.2, ets.0", "wps", Priority.URGENT),
        ("wps.2, ets.0", "", Priority.EMERGENCY),
        ("dsn.flash", "q735", None),
        ("dsn.urgent", "dsn", None),
        ("dsn", "dsn", None),
        ("my.own", "", None),
    ],
)
def test_what_is_asked(line: str, namespace: str, priority: Priority | None) -> None:
    asked = request("INVITE", "sip:1@box", f"Resource-Priority: {line}")
    assert asked_priority(asked, namespace) == priority


def test_nothing_is_asked() -> None:
    assert asked_priority(request()) is None


@pytest.mark.parametrize("namespace", ["dsn", "drsn", "q735", "ets", "wps"])
def test_what_we_say_is_understood_as_we_meant_it(namespace: str) -> None:
    for priority in Priority:
        lines = resource_priority(priority, namespace)
        if not lines:
            assert (priority, namespace[-1:]) in {(Priority.ROUTINE, "s")}
            continue
        [(name, value)] = lines
        asked = request("INVITE", "sip:1@box", f"{name}: {value}")
        assert asked_priority(asked, namespace) == priority


def test_a_trunk_without_a_namespace_is_told_nothing() -> None:
    assert not resource_priority(Priority.EMERGENCY, "")


def test_only_who_is_displaced_is_told_of_it() -> None:
    assert not preemption(Cause.NORMAL)
    assert preemption(Cause.PREEMPTED) == [("Reason", 'preemption;cause=1;text="UA Preemption"')]


@given(st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=60))
def test_garbage(line: str) -> None:
    asked_priority(request("INVITE", "sip:1@box", f"Resource-Priority: {line}"))
