"""What a process holds, and what it gained: descriptors, threads, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
from typing import Any


class Holdings:
    """What the process holds now: descriptors, threads, tasks."""

    def __init__(self) -> None:
        self._before = self._look()

    def gained(self) -> str:
        """What was added since, in words; empty for nothing."""
        now = self._look()
        return ", ".join(
            f"{kind} {what}"
            for kind, held in now.items()
            for key, what in held.items()
            if key not in self._before[kind]
        )

    @staticmethod
    def _look() -> dict[str, dict[Any, str]]:
        # A descriptor whose object is garbage is closed as soon as that is collected.
        gc.collect()
        descriptors = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if not target.startswith("/proc/"):
                    descriptors[(name, target)] = target
        return {
            "descriptor": descriptors,
            "thread": {(t.ident, t.name): t.name for t in threading.enumerate() if not _idle(t)},
            "task": {id(t): t.get_name() for t in asyncio.all_tasks() if not t.done()},
        }


def _idle(thread: threading.Thread) -> bool:
    """A worker of the event loop's pool, which keeps it when `asyncio.to_thread` is done."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "_worker"
