"""``[adapters.sip]``: what a box listens on, its phones and its trunks."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

import msgspec

from gateway.adapters.secrets import Secret
from gateway.errors import PeerError
from gateway.protocols.sip.uri import parse_uri

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


class DtmfMode(StrEnum):
    """How digits travel to a peer."""

    AUTO = "auto"
    """RFC 4733 where negotiated, else in the audio."""
    INFO = "info"
    """SIP INFO (application/dtmf-relay)."""


class Phone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.phones.<user>]``: a phone that registers with this user name."""

    password: Secret
    number: str = ""
    """Directory number; also the caller number that others see."""
    label: str = ""
    location: str = ""
    calls: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    """Calls at a time, so that a second one can wait or be taken in consultation."""
    auto_answer: bool = False
    """Paging and intercom calls may ask it to answer by itself."""
    dtmf: DtmfMode = DtmfMode.AUTO


class Trunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.trunks.<name>]``: another exchange or a carrier."""

    peer: str
    """Where calls go: ``sip:host[:port][;transport=tcp]``."""
    user: str = ""
    password: Secret = Secret()
    realm: str = ""
    """Answer only challenges of this realm; empty: any that the peer asks for."""
    register: bool = False
    """Register `user` with the peer and keep it registered."""
    expires_s: Annotated[int, msgspec.Meta(ge=60, le=86400)] = 600
    allow: tuple[str, ...] = ()
    """Addresses or networks calls may come from, besides the peer's own."""
    number: str = ""
    """Caller number to show, if the caller's own may not be shown; empty: the caller's."""
    label: str = ""
    calls: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    keepalive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """OPTIONS this often to see that it is there; 0: never."""
    no_response_s: Annotated[float, msgspec.Meta(gt=0, le=32)] = 8.0
    """Give up on a peer that answers nothing at all."""
    dtmf: DtmfMode = DtmfMode.AUTO


class SipSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip]``."""

    listen: tuple[str, ...] = ("udp:0.0.0.0:5060", "tcp:0.0.0.0:5060")
    """``udp:`` or ``tcp:``, address and port; port 0 takes a free one."""
    public_ip: str = ""
    """Address to show in SIP and SDP when peers see another one than ours (behind NAT)."""
    inside: tuple[str, ...] = (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
        "169.254.0.0/16", "fc00::/7", "fe80::/10",
    )  # fmt: skip
    """Networks on our side of the NAT: peers there are shown our own address."""
    realm: str = "crosspoint"
    codecs: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("G722", "PCMA", "PCMU")
    """In order of preference: ``G722``, ``PCMA``, ``PCMU``."""
    digest: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("SHA-256",)
    """Digest algorithms offered to phones, best first. Older phones only know ``MD5``, and some
    stumble over a challenge that offers anything else beside it: write ``["MD5"]`` for those."""
    require_qop: bool = True
    """False lets phones in that only speak the digest of RFC 2069; each nonce then works once."""
    session_expires_s: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 1800
    """Session timer (RFC 4028); 0: off."""
    media_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60.0
    """End a call that gets no audio for so long (not while held); 0: never."""
    keepalive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """OPTIONS to each registered phone this often: to see that it is there, and to keep its way
    through a NAT open; 0: never."""
    lockout_failures: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Wrong passwords from one address before it is ignored."""
    lockout_s: Annotated[float, msgspec.Meta(ge=1)] = 300.0
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 1000
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1)] = 50
    country: str = "us"
    """Tone plan for tones played into calls."""
    phones: dict[_Name, Phone] = {}
    trunks: dict[_Name, Trunk] = {}

    def __post_init__(self) -> None:
        for text in self.listen:
            parse_listen(text)
        for name in self.codecs:
            if name not in ("G722", "PCMA", "PCMU"):
                raise ValueError(f"codec {name!r} is none of G722, PCMA, PCMU")
        for name in self.digest:
            if name not in ("SHA-512-256", "SHA-256", "MD5"):
                raise ValueError(f"digest {name!r} is none of SHA-512-256, SHA-256, MD5")
        if self.public_ip:
            ipaddress.ip_address(self.public_ip)
        for network in self.inside:
            ipaddress.ip_network(network, strict=False)
        both = self.phones.keys() & self.trunks.keys()
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is both a phone and a trunk")
        for trunk in self.trunks.values():
            check_peer(trunk.peer)
            for network in trunk.allow:
                ipaddress.ip_network(network, strict=False)
            if trunk.register and not trunk.user:
                raise ValueError("a trunk that registers needs a user")


def check_peer(text: str) -> None:
    """Raises `ValueError` saying how to write a trunk's peer."""
    try:
        uri = parse_uri(text)
    except PeerError:
        uri = None
    if uri is None or uri.scheme != "sip" or not uri.host or uri.user:
        raise ValueError(f"{text!r}: write it like sip:pbx.example.org:5060")
    if uri.transport not in ("", "udp", "tcp"):
        raise ValueError(f"{text!r}: transport is none of udp, tcp")


def parse_listen(text: str) -> tuple[str, str, int]:
    """Transport, host and port of ``udp:0.0.0.0:5060`` or ``tcp:[::]:5060``.

    Raises `ValueError` saying how to write it.
    """
    transport, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if transport not in ("udp", "tcp") or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r}: write it like udp:0.0.0.0:5060")
    ipaddress.ip_address(host)
    return transport, host, int(port)
