"""The virtual line card and the real driver show the same events at the same times."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.lab.linecard import LineCard
from tests.cards import needs_card
from tests.guest import guest

HERE = Path(__file__).parent
# what the guest's translated clock and two processes' wake-ups may differ by
TOLERANCE_S = 0.06

Truth = dict[str, Any]


def recorded() -> Truth:
    """What the real driver (2.11.1, Debian 12) showed; renewed by the guest test's command."""
    return json.loads((HERE / "truth.json").read_text())  # type: ignore[no-any-return]


def assert_same(seen: Truth, truth: Truth) -> None:
    """Each port's events are the same in order, each within the tolerance in time."""
    assert seen["steps"].keys() == truth["steps"].keys()
    for step, expected in truth["steps"].items():
        for port in "AB":
            got = [(at, what) for at, who, what in seen["steps"][step] if who == port]
            want = [(at, what) for at, who, what in expected if who == port]
            assert [what for _, what in got] == [what for _, what in want], (step, port)
            for (at, what), (due, _) in zip(got, want, strict=True):
                assert at == pytest.approx(due, abs=TOLERANCE_S), (step, port, what)
    for way, amplitude in truth["audio"].items():
        assert seen["audio"][way] == pytest.approx(amplitude, rel=0.02), way


@needs_card
async def test_virtual_card_is_like_the_recorded_driver() -> None:
    async with LineCard.start() as card:
        await card.cable(1, 5)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.guest.line_truth", str(card.directory), "1", "5"),
            cwd=HERE.parents[1],
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert_same(json.loads(out), recorded())


@pytest.mark.guest
@pytest.mark.skipif(bool(guest.why_not()), reason=str(guest.why_not()))
def test_real_driver_is_like_the_record() -> None:
    outcome = guest.outcome(guest.TRUTH)
    assert outcome.status == 0, outcome.output
    line = next(row for row in outcome.output.splitlines() if row.startswith("{"))
    assert_same(json.loads(line), recorded())


@pytest.mark.guest
@pytest.mark.skipif(bool(guest.why_not()), reason=str(guest.why_not()))
def test_driver_tests_pass_on_the_real_driver() -> None:
    outcome = guest.outcome(guest.DRIVER)
    assert outcome.status == 0, outcome.output
    assert " passed" in outcome.output
    assert "skipped" not in outcome.output
