"""The analog adapter in the QEMU guest, on the real DAHDI driver."""

from __future__ import annotations

import pytest

from tests.guest import guest


@pytest.mark.guest
@pytest.mark.skipif(bool(guest.why_not()), reason=str(guest.why_not()))
def test_the_adapter_serves_real_lines() -> None:
    outcome = guest.outcome(guest.ADAPTER)
    assert outcome.status == 0, outcome.output
    assert "1 passed" in outcome.output
