"""Tests that need the virtual line card."""

from __future__ import annotations

import pytest

from gateway.lab import linecard

needs_card = pytest.mark.skipif(bool(linecard.why_not()), reason=str(linecard.why_not()))
