"""Causes against the tables of RFC 3398."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.core.causes import Q850, Cause, from_q850, from_sip, to_sip

CORPORA = Path(
    os.environ.get("CROSSPOINT_CORPORA", Path(__file__).parents[3] / "shared" / "corpora")
)
TABLES = CORPORA / "rfc3398-causes.json"
needs_tables = pytest.mark.skipif(not TABLES.exists(), reason=f"{TABLES} is not on this machine")
# Statuses that the RFC leaves without a cause value.
OPEN = {487, 488, 606}
# Values for which our words say more than the detour over Q.850; see `_SIP_OWN`.
OWN = {16, 25}


@needs_tables
def test_q850_to_sip_is_rfc_3398_7_2_4_1() -> None:
    tables = json.loads(TABLES.read_text())
    for value, rows in tables["cause_to_sip"].items():
        cause = from_q850(int(value))
        assert Q850[cause] == int(value), f"no word of ours for Q.850 {value}"
        if int(value) not in OWN:
            assert to_sip(cause) in {row["sip"] for row in rows}, value


@needs_tables
def test_sip_to_q850_is_rfc_3398_8_2_6_1() -> None:
    tables = json.loads(TABLES.read_text())
    for status, rows in tables["sip_to_cause"].items():
        if int(status) not in OPEN:
            assert Q850[from_sip(int(status))] in {row["cause"] for row in rows}, status


@pytest.mark.parametrize("status", [*range(400, 700), 301, 302])
def test_every_status_has_a_word(status: int) -> None:
    assert isinstance(from_sip(status), Cause)


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_refuses_with_a_final_failure(cause: Cause) -> None:
    assert 400 <= to_sip(cause) < 700
    assert 1 <= Q850[cause] <= 127


def test_unknown_values_are_unspecified() -> None:
    assert from_q850(99) is Cause.UNSPECIFIED
    assert from_sip(499) is Cause.UNSPECIFIED
