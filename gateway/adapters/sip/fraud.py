"""Toll fraud: an account that calls as if somebody else were paying raises an alarm.

A stolen password shows in numbers: many calls at once, many numbers that lead nowhere, costly ones,
and those at night. What is too much is configured (``[adapters.sip.fraud]``). Before it is stolen
somebody may guess at it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import Fraud
from gateway.core.causes import Cause
from gateway.core.events import AlarmCleared, AlarmRaised, Severity

ALARM: Final = "toll-fraud"
_NOWHERE: Final = frozenset(
    (
        Cause.UNALLOCATED, Cause.NO_ROUTE, Cause.NO_ROUTE_NETWORK, Cause.ADDRESS_INCOMPLETE,
        Cause.BARRED, Cause.FACILITY_REJECTED, Cause.NOT_AUTHORIZED, Cause.NOT_AVAILABLE,
        Cause.REJECTED, Cause.SERVICE_UNAVAILABLE,
    )
)  # fmt: skip
# Of one account in the window; more says nothing new.
_MOST: Final = 1000


@dataclass(slots=True)
class _Account:
    calls: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))
    costly: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))
    failed: dict[str, float] = field(default_factory=dict)
    """When a number was last not reached."""
    raised: Severity | None = None
    blocked_until: float = 0.0
    guessed_until: float = 0.0
    """Until when somebody's guesses at its password are worth an alarm."""


class Watchman:
    """Watches what accounts call."""

    def __init__(self, name: str, config: Fraud, host: Host) -> None:
        self._name, self._config, self._host = name, config, host
        self._accounts: dict[str, _Account] = {}
        self._night = _minutes(config.night) if config.night else None

    def admits(self, user: str, now: float) -> bool:
        """Whether an account may call at all."""
        account = self._accounts.get(user)
        return account is None or account.blocked_until <= now

    def began(self, user: str, called: str, now: float) -> None:
        """An account calls a number."""
        account = self._accounts.setdefault(user, _Account())
        config = self._config
        account.calls.append(now)
        self._forget(account, now)
        if config.calls and len(account.calls) > config.calls:
            self._raise(user, account, now, f"{len(account.calls)} calls")
        if config.prefixes and called.startswith(config.prefixes):
            account.costly.append(now)
            if self._is_night():
                self._raise(user, account, now, f"{called} was called at night")
            elif len(account.costly) > config.costly:
                self._raise(user, account, now, f"{len(account.costly)} calls like {called}")

    def ended(self, user: str, called: str, now: float, cause: Cause) -> None:
        """A call of an account is over."""
        account = self._accounts.get(user)
        if account is None or cause not in _NOWHERE or not self._config.failed:
            return
        account.failed[called[:64]] = now
        self._forget(account, now)
        if len(account.failed) > self._config.failed:
            text = f"{len(account.failed)} numbers that lead nowhere, {called} the last"
            self._raise(user, account, now, text)

    def guessed(self, user: str, source: str, now: float) -> None:
        """A source is ignored from now on, for it guessed at passwords, this account's the last.
        That blocks no account: its owner is somebody else."""
        account = self._accounts.setdefault(user, _Account())
        account.guessed_until = now + self._config.window_s
        text = f"{user}: too many wrong passwords from {source}"
        self._tell(user, account, now, Severity.MINOR, text)

    def beat(self, now: float) -> None:
        """About once a second: accounts that are quiet again."""
        for user, account in list(self._accounts.items()):
            self._forget(account, now)
            if account.calls or account.failed:
                continue
            if max(account.blocked_until, account.guessed_until) > now:
                continue
            del self._accounts[user]
            if account.raised is not None:
                self._host.emit(AlarmCleared(endpoint=f"{self._name}/{user}", alarm=ALARM))

    def _forget(self, account: _Account, now: float) -> None:
        since = now - self._config.window_s
        for times in (account.calls, account.costly):
            while times and times[0] < since:
                times.popleft()
        failed = account.failed
        if len(failed) > self._config.failed or (failed and min(failed.values()) < since):
            kept = sorted((at, number) for number, at in failed.items() if at >= since)[-_MOST:]
            account.failed = {number: at for at, number in kept}

    def _raise(self, user: str, account: _Account, now: float, what: str) -> None:
        if self._config.block_s:
            account.blocked_until = now + self._config.block_s
        text = f"{user}: {what} within {self._config.window_s:g} s"
        self._tell(user, account, now, Severity.MAJOR, text)

    def _tell(
        self, user: str, account: _Account, now: float, severity: Severity, text: str
    ) -> None:
        if account.raised is not None and severity <= account.raised:
            return
        account.raised = severity
        self._host.count("fraud_suspected")
        self._host.log.warning("toll fraud suspected", user=user, what=text)
        self._host.emit(
            AlarmRaised(
                endpoint=f"{self._name}/{user}",
                alarm=ALARM,
                kind="fault",
                severity=severity,
                text=text,
                trace=self._host.new_trace(),
                raised_at=now,
            )
        )

    def _is_night(self) -> bool:
        if self._night is None:
            return False
        begin, end = self._night
        here = time.localtime()
        minute = here.tm_hour * 60 + here.tm_min
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


def _minutes(text: str) -> tuple[int, int]:
    begin, _, end = text.partition("-")
    return tuple(int(t[:2]) * 60 + int(t[3:]) for t in (begin, end))  # type: ignore[return-value]
