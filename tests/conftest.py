"""What tests of several rooms share; the sanitizers' part in a run."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.box import Box
from tests.small_disk import SmallDisk, mounted

# How long one example takes says something of the machine and who else uses it, not of the code.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A run finds what the last one found. `--hypothesis-profile=search` looks further each time.
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True)
settings.load_profile("repeatable")

# Run in the background of a shell, they are ignored, and every program of a test inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def sanitizers() -> Iterator[None]:
    """Under `make sanitize`: keeps foreign programs free of them, and looks for leaks at the end,
    while all that Python holds is still there."""
    if not os.environ.get("CROSSPOINT_SANITIZE"):
        yield
        return
    os.environ["CROSSPOINT_PRELOAD"] = os.environ.pop("LD_PRELOAD", "")
    yield
    ctypes.CDLL(None).__lsan_do_recoverable_leak_check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of two mebibytes."""
    with mounted(tmp_path / "disk") as disk:
        yield disk


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
