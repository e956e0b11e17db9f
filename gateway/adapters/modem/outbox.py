"""Outbox: texts that wait until the module and its network take them."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from gateway.adapters.base import Host
from gateway.core.actions import SendMessage
from gateway.errors import DeviceError
from gateway.protocols.modem import pdu
from gateway.protocols.modem.happenings import TextFailed
from gateway.protocols.modem.module import Module

MAX_TEXTS: Final = 32
WITHIN_S: Final = 600.0
"""A text that could not be sent for so long is given up: it would tell of what is long over."""
_TRIES: Final = 3
_PAUSE_S: Final = 20.0


@dataclass(eq=False)
class _Text:
    action: SendMessage
    until: float
    tries: int = 0


class Outbox:
    """Driven by `put`, `send` and what the module says of the text that it has. It outlives the
    module: what waits when that is lost is sent when it is back."""

    def __init__(self, endpoint: str, an_hour: int, host: Host) -> None:
        """an_hour: short messages that may be sent in one."""
        self._endpoint, self._an_hour, self._host = endpoint, an_hour, host
        self._taken: deque[float] = deque()
        self._texts: deque[_Text] = deque()
        self._sending = False
        self._not_before = -math.inf
        self._reference = 0

    @property
    def trace(self) -> str:
        """Of the text that the module has now; empty: it has none."""
        return self._texts[0].action.trace if self._sending else ""

    @property
    def count(self) -> int:
        """Texts that wait, or are on their way."""
        return len(self._texts)

    def put(self, action: SendMessage) -> None:
        """Have a text sent. Raises `DeviceError`: too many wait, or were sent in this hour;
        `UsageError`: it cannot be sent at all."""
        n_parts, now = len(pdu.submitted(action.recipient, action.text, 0)), self._host.now()
        self._forget(now)
        why = ""
        if len(self._texts) >= MAX_TEXTS:
            why = f"{MAX_TEXTS} texts wait already"
        elif len(self._taken) + n_parts > self._an_hour:
            why = f"that would be more than texts_an_hour = {self._an_hour} short messages"
        if why:
            self._host.count("messages_refused")
            raise DeviceError(f"{self._endpoint}: {why}")
        self._taken.extend([now] * n_parts)
        self._texts.append(_Text(action, now + WITHIN_S))

    def send(self, module: Module) -> None:
        """Give the module the next text, if it can send one now."""
        now = self._host.now()
        while self._texts and not self._sending and now >= self._texts[0].until:
            self._give_up("it could not be sent in time")
        if self._texts and not self._sending and now >= self._not_before and module.can_send:
            action = self._texts[0].action
            self._reference = (self._reference + 1) % 256
            self._sending = True
            module.send(action.recipient, action.text, self._reference, now)

    def due(self) -> float:
        """When `send` has something to do; infinite: not before the module says something."""
        if not self._texts or self._sending:
            return math.inf
        now = self._host.now()
        first = self._texts[0].until
        return min(first, self._not_before) if self._not_before > now else first

    def sent(self) -> None:
        """The network has taken it."""
        self._texts.popleft()
        self._sending = False
        self._host.count("messages_sent")

    def failed(self, failure: TextFailed) -> None:
        """It was not taken."""
        self._sending = False
        text = self._texts[0]
        text.tries += 1
        if failure.passing and text.tries < _TRIES:
            # What the network took of it is paid for, and is sent once more.
            now = self._host.now()
            self._forget(now)
            if len(self._taken) + failure.n_taken > self._an_hour:
                self._give_up(f"{failure.why}; another attempt would be more than texts_an_hour")
                return
            self._taken.extend([now] * failure.n_taken)
            self._not_before = now + _PAUSE_S
        else:
            self._give_up(failure.why)

    def lost(self) -> None:
        """The module is gone; whether it has sent the text that it had nobody knows."""
        if self._sending:
            self._sending = False
            self._give_up("the module was lost meanwhile")

    def close(self) -> None:
        """The gateway stops."""
        while self._texts:
            self._give_up("the gateway stops")

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - 3600.0:
            self._taken.popleft()

    def _give_up(self, why: str) -> None:
        text = self._texts.popleft()
        self._host.count("messages_failed")
        self._host.log.warning(
            "a text was not delivered", endpoint=self._endpoint, trace=text.action.trace, reason=why
        )
