"""A location service: who can be reached where (RFC 3261 section 10.3, RFC 3327, RFC 5626).

Bindings live in memory, the owner persists what it wants through `dump` and `load`.  The owner
authenticates before it calls `process`.
"""

from __future__ import annotations

import msgspec

from gateway.errors import PeerError
from gateway.protocols.sip.headers import NameAddr, parse_number
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import Uri, host_port, parse_uri, same_uri


class Binding(msgspec.Struct):
    """One contact of one address of record."""

    contact: str
    """Contact URI."""
    expires_at: float
    call_id: str
    cseq: int
    flow: Flow
    """How the registration came: the way back through a NAT or a connection."""
    q: float = 1.0
    path: list[str] = []
    """Route values for requests to this contact (RFC 3327)."""
    params: str = ""
    """Further Contact parameters, each with its leading semicolon."""
    user_agent: str = ""
    instance: str = ""
    """The phone itself, whatever its address (RFC 5626 section 4.1)."""
    reg_id: int = 0
    """Which of its flows this is; 0: it does not say, so the flow means nothing."""

    @property
    def outbound(self) -> bool:
        """It is reached over the flow it registered over and no other way (RFC 5626)."""
        return bool(self.instance and self.reg_id)


def one_flow_each(bindings: list[Binding]) -> list[Binding]:
    """Bindings without the further flows of a phone, in the same order: one that has several is
    called over the latest alone (RFC 5626 section 5.3)."""
    latest: dict[str, Binding] = {}
    for binding in bindings:
        known = latest.get(binding.instance)
        if known is None or binding.expires_at > known.expires_at:
            latest[binding.instance] = binding
    return [b for b in bindings if not b.outbound or latest[b.instance] is b]


def address_of_record(uri: Uri) -> str:
    """Canonical form: scheme, user and host without port and parameters (section 10.3, step 5)."""
    if uri.scheme == "tel":
        return f"tel:{uri.user}"
    return f"sip:{uri.user}@{host_port(uri.host, 0)}"


class Registrar:
    """Bindings of any number of addresses of record."""

    def __init__(
        self,
        *,
        min_expires: int = 60,
        max_expires: int = 3600,
        max_contacts: int = 10,
        max_addresses: int = 10000,
        flow_timer: int = 0,
    ) -> None:
        """`flow_timer`: seconds within which phones with flows must say something, told to them
        (RFC 5626 section 5.4); 0: they are told nothing."""
        self.min_expires = min_expires
        self.max_expires = max_expires
        self.max_contacts = max_contacts
        self.max_addresses = max_addresses
        self.flow_timer = flow_timer
        self._bindings: dict[str, list[Binding]] = {}

    def lookup(self, address: str, now: float) -> list[Binding]:
        """Live bindings of an address of record, best first."""
        live = [b for b in self._bindings.get(address, ()) if b.expires_at > now]
        return sorted(live, key=lambda binding: -binding.q)

    def addresses(self, now: float) -> list[str]:
        """Addresses with at least one live binding."""
        return [a for a, bs in self._bindings.items() if any(b.expires_at > now for b in bs)]

    def expire(self, now: float) -> list[str]:
        """Forget what has run out; returns the addresses that lost their last binding."""
        gone: list[str] = []
        for address, bindings in list(self._bindings.items()):
            live = [b for b in bindings if b.expires_at > now]
            if live:
                self._bindings[address] = live
            else:
                del self._bindings[address]
                gone.append(address)
        return gone

    def dump(self) -> dict[str, list[Binding]]:
        """All bindings, for saving; ``expires_at`` is on the caller's clock."""
        return {address: list(bindings) for address, bindings in self._bindings.items()}

    def load(self, bindings: dict[str, list[Binding]]) -> None:
        """Replace all bindings by saved ones."""
        self._bindings = {address: list(found) for address, found in bindings.items()}

    def process(
        self, request: Request, flow: Flow, now: float, n_elsewhere: int = 0
    ) -> tuple[int, list[Header]]:
        """Carry out a REGISTER; returns the status and header fields of the response.

        Either all its contacts are taken or none (section 10.3, step 7). `n_elsewhere`: contacts
        that the same user has under other addresses of record.
        """
        try:
            return self._process(request, flow, now, n_elsewhere)
        except PeerError as error:
            return error.status or 400, []

    def _process(
        self, request: Request, flow: Flow, now: float, n_elsewhere: int
    ) -> tuple[int, list[Header]]:
        if request.to.uri.scheme not in ("sip", "sips", "tel"):
            raise PeerError("To is not an address of record", status=400)
        address = address_of_record(request.to.uri)
        current = [b for b in self._bindings.get(address, ()) if b.expires_at > now]
        call_id, cseq = request.call_id, request.cseq.number
        default = request.number("expires", 2**31)
        lines = [line.strip() for line in request.all("contact")]
        if "*" in lines:
            if len(lines) != 1 or default != 0:
                raise PeerError("Contact: * needs Expires: 0 and nothing else", status=400)
            _in_order(current, call_id, cseq)
            self._bindings.pop(address, None)
            return 200, []
        changed = list(current)
        # Behind a proxy without Path the flow would be the proxy's (RFC 5626 section 6).
        direct = bool(request.all("path")) or len(request.values("via")) == 1
        flows = direct and "outbound" in (tag.lower() for tag in request.tokens("supported"))
        outbound = False
        for contact in request.addresses("contact"):
            expires = self._expires(contact, default)
            if 0 < expires < self.min_expires:
                return 423, [("Min-Expires", str(self.min_expires))]
            expires = min(expires, self.max_expires)
            instance, reg_id = _flow_of(contact) if flows else ("", 0)
            outbound |= bool(reg_id)
            old = [
                b
                for b in changed
                if (b.instance, b.reg_id) == (instance, reg_id)
                and (reg_id or same_uri(parse_uri(b.contact), contact.uri))
            ]
            _in_order(old, call_id, cseq)
            changed = [b for b in changed if b not in old]
            if expires:
                path, params = request.values("path"), _further(contact)
                _must_be_text(contact.uri.text, call_id, params, *path)
                changed.append(
                    Binding(
                        contact=contact.uri.text,
                        expires_at=now + expires,
                        call_id=call_id,
                        cseq=cseq,
                        flow=flow,
                        q=quality(contact),
                        path=path,
                        params=params,
                        user_agent=_as_text(request.get("user-agent") or "")[:256],
                        instance=instance,
                        reg_id=reg_id,
                    )
                )
        if changed and len(changed) + n_elsewhere > self.max_contacts:
            raise PeerError(f"more than {self.max_contacts} contacts", status=403)
        if changed and address not in self._bindings:
            if len(self._bindings) >= self.max_addresses:
                self.expire(now)
            if len(self._bindings) >= self.max_addresses:
                raise PeerError("no room for another address", status=503)
        if changed:
            self._bindings[address] = changed
        else:
            self._bindings.pop(address, None)
        headers: list[Header] = [
            ("Contact", f"<{b.contact}>{b.params};expires={max(0, round(b.expires_at - now))}")
            for b in changed
        ]
        headers += [("Path", value) for value in request.all("path")]
        if outbound:
            headers.append(("Require", "outbound"))
            if self.flow_timer:
                headers.append(("Flow-Timer", str(self.flow_timer)))
        return 200, headers

    def _expires(self, contact: NameAddr, default: int | None) -> int:
        value = contact.params.get("expires")
        if value is not None:
            try:
                return parse_number(value, 2**31)
            except PeerError:
                # Section 10.3 step 7: a value that is not a number counts as the default.
                return self.max_expires
        return self.max_expires if default is None else default


def _must_be_text(*pieces: str) -> None:
    """What is kept must be text, for the owner writes it to disk. Raises `PeerError`."""
    for piece in pieces:
        if not piece.isascii() and _as_text(piece) != piece:
            raise PeerError("a binding that is not UTF-8", status=400)


def _as_text(text: str) -> str:
    """Question marks for octets that were not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _in_order(bindings: list[Binding], call_id: str, cseq: int) -> None:
    """A REGISTER that overtook a later one of the same client must not undo it."""
    for binding in bindings:
        if binding.call_id == call_id and cseq <= binding.cseq:
            raise PeerError("a later REGISTER has been processed", status=500)


def _flow_of(contact: NameAddr) -> tuple[str, int]:
    """Instance and reg-id of a Contact, both or neither (RFC 5626 section 4.2)."""
    instance, number = contact.params.get("+sip.instance", ""), contact.params.get("reg-id", "")
    if not instance or len(instance) > 256 or not (number.isascii() and number.isdigit()):
        return "", 0
    reg_id = int(number[:10])
    return (instance, reg_id) if 0 < reg_id < 2**31 else ("", 0)


def quality(contact: NameAddr) -> float:
    """How much a Contact is preferred, 0 to 1 (RFC 3261 section 20.10)."""
    try:
        return min(1.0, max(0.0, float(contact.params.get("q", "1"))))
    except ValueError:
        return 1.0


def _further(contact: NameAddr) -> str:
    """Contact parameters that are not about the binding, as they are given back."""
    pieces = []
    for name, value in contact.params.items():
        if name == "expires":
            continue
        plain = all(c.isalnum() or c in "-.!%*_+`'~:[]" for c in value)
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        written = value if plain else f'"{escaped}"'
        pieces.append(f";{name}={written}" if value else f";{name}")
    return "".join(pieces)
