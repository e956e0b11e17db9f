"""Keeping ourselves registered with a registrar (RFC 3261 section 10.2, RFC 5626 section 4.5)."""

from __future__ import annotations

import random

from gateway.errors import PeerError
from gateway.protocols.sip.auth import DigestClient
from gateway.protocols.sip.core import ClientRequest, Core, retry_after
from gateway.protocols.sip.events import Registered, RegistrationFailed, Unregistered
from gateway.protocols.sip.headers import parse_number
from gateway.protocols.sip.message import Response
from gateway.protocols.sip.names import REGISTER
from gateway.protocols.sip.sessionid import session_id_of
from gateway.protocols.sip.timers import Timer
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import parse_uri, same_uri

FIRST_RETRY = 30.0
LONGEST_RETRY = 1800.0
"""RFC 5626 section 4.5: the wait doubles from 30 s to half an hour."""


class Registration:
    """One binding of ours; refreshed after 80 % of its life, for ever.

    A failure is retried with growing waits: nobody is there to restart an unattended gateway.
    """

    def __init__(
        self,
        core: Core,
        registrar: str,
        address: str,
        flow: Flow,
        routes: list[str],
        call_id: str,
        auth: DigestClient | None,
        expires: int,
        contact_user: str,
        contact_params: str,
        registrations: dict[int, Registration],
    ) -> None:
        self.token = core.serial()
        self._core = core
        self._registrar = registrar
        self._address = address
        self._flow = flow
        self._routes = routes
        self._call_id = call_id
        self._auth = auth
        self._expires = expires
        self._user = contact_user
        self._contact = self._contact_over(flow)
        self._params = contact_params
        self._all = registrations
        self._seq = 0
        self._timer: Timer | None = None
        self._failures = 0
        self._stopping = False
        self._tag = core.random()
        self._heard = ""
        """The registrar's half of the Session-ID."""

    def send(self, now: float) -> None:
        """Send a REGISTER."""
        self._timer = None
        expires = 0 if self._stopping else self._expires
        self._seq += 1
        core = self._core
        request = ClientRequest(
            core,
            REGISTER,
            self._registrar,
            self._flow,
            routes=self._routes,
            from_=f"<{self._address}>;tag={self._tag}",
            to=f"<{self._address}>",
            call_id=self._call_id,
            seq=self._seq,
            extra=[
                ("Contact", f"{self._contact}{self._params};expires={expires}"),
                ("Expires", str(expires)),
                ("Allow", core.allow),
                ("Supported", "path"),
                core.session_id(self._call_id, self._heard),
            ],
            on_response=self._responded,
            auth=self._auth,
        )
        request.send(now)

    def _contact_over(self, flow: Flow) -> str:
        secure = self._registrar.startswith("sips:")
        return self._core.contact(flow, self._user, secure=secure)

    def refresh(self, now: float, flow: Flow | None = None) -> None:
        """Send now what is due later, over another flow if given; nothing if a request is on its
        way."""
        if flow is not None:
            self._flow, self._contact = flow, self._contact_over(flow)
        if self._timer is not None:
            self._timer.stop()
            self.send(now)

    def stop(self, now: float) -> None:
        """Remove the binding."""
        self._stopping = True
        if self._timer is not None:
            self._timer.stop()
        self.send(now)

    def _responded(self, request: ClientRequest, response: Response, now: float) -> None:
        status = response.status
        if status < 200:
            return
        self._seq = max(self._seq, request.seq)
        self._heard = session_id_of(response) or self._heard
        if self._stopping:
            if request is not None and self._all.pop(self.token, None) is not None:
                self._core.emit(Unregistered(token=self.token))
            return
        if status < 300:
            self._failures = 0
            expires = self._granted(response)
            self._later(now, expires * 0.8)
            self._core.emit(Registered(token=self.token, expires=expires, response=response))
            return
        if status == 423:
            least = _number(response, "min-expires")
            if least is not None and self._expires < least <= 86400:
                self._expires = least
                self.send(now)
                return
        self._failures += 1
        wait = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(self._failures - 1, 8))
        wait *= random.uniform(0.75, 1.0)
        wait = max(wait, retry_after(response) or 0.0)
        self._later(now, wait)
        self._core.emit(
            RegistrationFailed(token=self.token, status=status, retry_in=wait, response=response)
        )

    def _later(self, now: float, wait: float) -> None:
        self._timer = self._core.timers.start(now + max(1.0, wait), self.send)

    def _granted(self, response: Response) -> int:
        """Seconds the registrar gave our own Contact, which may be among others."""
        default = _number(response, "expires") or self._expires
        try:
            ours = parse_uri(self._contact.strip("<>"))
            said = [
                (same_uri(contact.uri, ours), parse_number(contact.params["expires"], 2**31))
                for contact in response.addresses("contact")
                if "expires" in contact.params
            ]
            # A border that writes Contacts anew leaves none that is ours: no shorter one is, then.
            # One with 0 is gone.
            granted = [seconds for own, seconds in said if own] or [s for _, s in said if s]
            if granted:
                return max(1, min(granted))
        except PeerError:
            self._core.counters["bad_response"] += 1
        return max(1, default)


def _number(response: Response, key: str) -> int | None:
    try:
        return response.number(key, 2**31)
    except PeerError:
        return None
