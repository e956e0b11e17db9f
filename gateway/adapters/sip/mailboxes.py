"""Mailboxes at carriers: how many messages wait there for our account (RFC 3842), as an input."""

from __future__ import annotations

from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection
from gateway.adapters.sip.trunks import MESSAGES, Trunks
from gateway.core.events import InputChanged
from gateway.errors import UsageError
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import Notified, SubscriptionEnded
from gateway.protocols.sip.packages import CONTENT_TYPES, SUMMARY, read_message_summary
from gateway.protocols.sip.uri import make_uri

_EXPIRES_S: Final = 3600
# After a refusal, and after the end of one that stood.
_AGAIN_S: Final = 300.0
_SOON_S: Final = 10.0


class Mailboxes:
    """Our subscriptions at trunks. Driven by `beat` and the agent's events; the caller pumps."""

    def __init__(self, name: str, config: SipSection, host: Host, trunks: Trunks) -> None:
        self._name, self._config, self._host, self._trunks = name, config, host, trunks
        self._by_token: dict[int, str] = {}
        self._again_at = {name: 0.0 for name, trunk in config.trunks.items() if trunk.messages}

    def beat(self, agent: SipAgent, now: float) -> None:
        """About once a second: subscribe where we are not."""
        for name, due in self._again_at.items():
            flows = self._trunks.flows(name)
            if now < due or not flows or name in self._by_token.values():
                continue
            trunk, host = self._config.trunks[name], self._trunks.host(name)
            self._again_at[name] = now + _AGAIN_S
            try:
                token = agent.subscribe(
                    self._trunks.target(name, trunk.user),
                    SUMMARY,
                    now,
                    expires=_EXPIRES_S,
                    accept=CONTENT_TYPES[SUMMARY],
                    from_=make_uri(host, trunk.user),
                    flow=flows[0],
                    credentials=self._trunks.credentials(name),
                )
            except UsageError as error:
                self._host.log.warning("mailbox not watched", trunk=name, why=str(error))
            else:
                self._by_token[token] = name

    def took(self, event: Notified | SubscriptionEnded) -> bool:
        """News of a mailbox; False when it is none of ours."""
        name = self._by_token.get(event.token)
        if name is None:
            return False
        if isinstance(event, SubscriptionEnded):
            del self._by_token[event.token]
            if event.status:
                self._host.count("mailboxes_refused")
            else:
                self._again_at[name] = self._host.now() + _SOON_S
            return True
        n_new = read_message_summary(event.body)
        if n_new is None:
            self._host.count("summaries_refused")
        else:
            endpoint = f"{self._name}/{name}"
            self._host.emit(
                InputChanged(
                    endpoint=endpoint, input=MESSAGES, value=n_new, trace=self._host.new_trace()
                )
            )
        return True

    def stop(self, agent: SipAgent, now: float) -> None:
        """Watch no longer."""
        for token in self._by_token:
            agent.unsubscribe(token, now)
        self._by_token.clear()
        self._again_at = dict.fromkeys(self._again_at, 0.0)
