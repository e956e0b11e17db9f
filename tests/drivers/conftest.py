"""The virtual line card as a fixture."""

from collections.abc import AsyncIterator

import pytest

from gateway.lab import linecard
from gateway.lab.linecard import LineCard


@pytest.fixture
async def card() -> AsyncIterator[LineCard]:
    """Four FXS ports (1 to 4) and four FXO ports (5 to 8), configured by dahdi_cfg."""
    if reason := linecard.why_not():
        pytest.skip(reason)
    async with LineCard.start() as running:
        yield running
