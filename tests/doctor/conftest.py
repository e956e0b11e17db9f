"""Boxes for the doctor's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.box import Box


@pytest.fixture
def box() -> Iterator[Box]:
    """A running gateway of its own."""
    made = Box()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def idle() -> Iterator[Box]:
    """A configuration whose gateway does not run."""
    made = Box()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def talking() -> Iterator[Box]:
    """A gateway on which carol, by herself, has called 900 and talks to bob."""
    made = Box(carol='calls = "900"\nevery_s = 3600.0')
    try:
        made.start()
        made.wait_for_call()
        yield made
    finally:
        made.close()
