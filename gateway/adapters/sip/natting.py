"""NATs between us and a telephone: what shows them, and what follows when they change a port.

A NAT that forgets a phone's binding (a restart, an idle time) gives it another port. Its next
REGISTER, answered to its digest, says so (RFC 5626 section 4): the calls and subscriptions of that
phone go on over the new way. Audio is followed by the engine, see `RtpSpec.follow`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.adapters.sip.config import FollowMedia
from gateway.media.streams import Follow
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.locating import is_address
from gateway.protocols.sip.registrar import Binding
from gateway.protocols.sip.transaction import Flow
from gateway.protocols.sip.uri import parse_uri


def hidden(binding: Binding) -> bool:
    """Whether a contact names another address than the phone is seen at: a NAT is between. Behind
    a proxy (Path) its own address is nobody's business but the proxy's."""
    host = parse_uri(binding.contact).host
    return not binding.path and is_address(host) and host != binding.flow.host


def unreachable(binding: Binding) -> bool:
    """Whether requests inside a dialog have to go where the phone registered from, for they would
    not arrive at its Contact."""
    uri, flow = parse_uri(binding.contact), binding.flow
    return hidden(binding) or (
        not binding.path and not flow.reliable and (uri.port or 5060) != flow.port
    )


def follow(policy: FollowMedia, *, behind_nat: bool) -> Follow:
    """Whether audio is followed to another port in mid-call."""
    match policy:
        case FollowMedia.NEVER:
            return Follow.NEVER
        case FollowMedia.ALWAYS:
            return Follow.ALWAYS
        case FollowMedia.BEHIND_NAT:
            return Follow.ALWAYS if behind_nat else Follow.LEARNED


def moves(
    before: Mapping[str, Sequence[Binding]], after: Mapping[str, Sequence[Binding]], flow: Flow
) -> list[tuple[Flow, Flow]]:
    """Which ways of a phone were given up for `flow` by a registration that came over it, from the
    bindings of each of its addresses of record."""
    flows = {key: binding.flow for key, binding in _identified(before)}
    given_up = (flows.get(key, flow) for key, binding in _identified(after) if binding.flow == flow)
    return [(old, flow) for old in dict.fromkeys(given_up) if old != flow]


def _identified(
    bindings: Mapping[str, Sequence[Binding]],
) -> Iterator[tuple[tuple[str, str, int], Binding]]:
    """Each binding with what stays when it is registered anew (RFC 5626 section 6)."""
    for address, found in bindings.items():
        for binding in found:
            lasting = binding.instance if binding.reg_id else binding.contact
            yield (address, lasting, binding.reg_id), binding


def rebind(agent: SipAgent, numbers: Iterable[int], changes: list[tuple[Flow, Flow]]) -> None:
    """Let sessions and subscriptions of a phone go on over its new way."""
    for number in numbers:
        for old, new in changes:
            agent.rebind(number, old, new)
