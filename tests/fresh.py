"""What a test finds in its process: parts that need one of their own, and what is open in it."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

_CODE: Final = """
import asyncio, importlib, sys
made = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
if asyncio.iscoroutine(made):
    asyncio.run(made)
"""


def fresh(part: Callable[[], object]) -> Callable[[], None]:
    """A test whose body is carried out in an interpreter of its own.

    What it measures of its process, its memory before all, hangs on what ran there before: a
    worker that has carried out a hundred tests has room in its heap, and its peak behind it.
    """
    module = sys.modules[part.__module__]

    def test() -> None:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, module.__name__, _body(part)],
            cwd=Path(__file__).parent.parent,
            env=os.environ
            | {
                "LD_PRELOAD": os.environ.get("CROSSPOINT_PRELOAD", ""),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.fail(done.stdout + done.stderr, pytrace=False)

    test.__name__, test.__doc__ = part.__name__, inspect.getdoc(part)
    setattr(module, _body(part), part)
    return test


def _body(part: Callable[[], object]) -> str:
    return f"body_of_{part.__name__}"


def descriptors(*, tidy: bool = False) -> int:
    """How many descriptors the process has open.

    `tidy` closes those first that only wait for the garbage collector: other tests', which would
    go at any moment of the one that counts.
    """
    if tidy:
        gc.collect()
    return len(os.listdir("/proc/self/fd"))
