"""Logging: one line for each thing a technician wants to know, key=value or JSON."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

_SECRET = re.compile(r"(?:^|_)(?:password|passwd|secret|pins?|token|authorization)$", re.IGNORECASE)
LINES_PER_SECOND = 100
"""A flood from outside must not fill the disk: more than this is dropped and counted."""

_EventDict = MutableMapping[str, Any]


def redact(_logger: Any, _method: str, event: _EventDict) -> _EventDict:
    """Hide the values of facts whose name says that they are secret."""
    for key in event:
        if _SECRET.search(key):
            event[key] = "***"
    return event


class Traces:
    """Gives each line the trace that it belongs to: that of its `leg`, or else of the event or
    action that is being handled at this moment.

    No context variable: those that a timer or task inherits outlive the call that began it.
    """

    def __init__(self) -> None:
        self.of_leg: Callable[[str], str] | None = None
        """The trace of a leg that is up; empty: unknown."""
        self._now = threading.local()

    def begin(self, trace: str) -> None:
        """What this thread logs until `end` is about this trace."""
        self._now.trace = trace

    def end(self) -> None:
        """What follows is about nothing in particular."""
        self._now.trace = ""

    def __call__(self, _logger: Any, _method: str, event: _EventDict) -> _EventDict:
        if not event.get("trace"):
            leg = event.get("leg")
            trace = self.of_leg(leg) if self.of_leg is not None and isinstance(leg, str) else ""
            trace = trace or getattr(self._now, "trace", "")
            if trace:
                event["trace"] = trace
        return event


_STARVED: Final = "socket.accept() out of system resource"
"""What asyncio calls it. Another part without a descriptor has another remedy."""
_AGAIN_S: Final = 60.0
TRACES: Final = Traces()


class Limit:
    """Lets `per_second` lines through each second; then says how many were dropped.

    Errors always pass: they are rare, and the one that explains the flood must not be lost.
    """

    def __init__(
        self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._clock = per_second, clock
        self._second, self._lines, self._dropped = -1, 0, 0

    def __call__(self, _logger: Any, method: str, event: _EventDict) -> _EventDict:
        second = int(self._clock())
        if second != self._second:
            if self._dropped:
                event["lines_dropped"] = self._dropped
            self._second, self._lines, self._dropped = second, 0, 0
        self._lines += 1
        if self._lines > self._per_second and method not in ("error", "exception", "critical"):
            self._dropped += 1
            raise structlog.DropEvent
        return event


def setup(
    *,
    level: str = "info",
    style: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
    timestamps: bool = True,
) -> None:
    """Send our own lines and those of libraries to `stream` (default: standard error).

    `timestamps` off leaves the time to journald.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        TRACES,
        redact,
    ]
    if timestamps:
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"))
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if style == "json":
        last += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        last += [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["time", "level", "event", "adapter"], drop_missing=True
            ),
        ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            Limit(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # Libraries that repeat at INFO or WARNING what the adapter already reports as an event.
    for name in ("aiohttp.access", "asyncio", "pymodbus", "paho"):
        logging.getLogger(name).setLevel(logging.ERROR)


def of_loop(log: Any) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler for what the event loop could not do (`set_exception_handler`).

    That nobody can be accepted is told once a minute, without its traceback: the loop tries again
    each second, for everybody who waits.
    """
    told = float("-inf")

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told
        error = context.get("exception")
        if context.get("message") != _STARVED or not isinstance(error, OSError):
            loop.default_exception_handler(context)
        elif loop.time() - told >= _AGAIN_S:
            told = loop.time()
            log.error(
                "no connection can be accepted", why=error.strerror, remedy="raise LimitNOFILE"
            )

    return tell


def set_level(level: str) -> None:
    """Show more or less from now on."""
    logging.getLogger().setLevel(level.upper())


def get(**facts: Any) -> Any:
    """A logger with facts that each of its lines carries."""
    return structlog.get_logger("gateway").bind(**facts)
