"""``[adapters.sip]``: what a box listens on, its phones and its trunks."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from gateway.adapters.secrets import Secret
from gateway.errors import PeerError
from gateway.media.shaping import Shaping
from gateway.protocols.sip.uri import Uri, parse_uri

_NIGHT = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d\Z")
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]

Precedence = Literal["routine", "priority", "urgent", "emergency"]


class DtmfMode(StrEnum):
    """How digits travel to a peer."""

    AUTO = "auto"
    """RFC 4733 where negotiated, else in the audio."""
    INFO = "info"
    """SIP INFO (application/dtmf-relay)."""
    INBAND = "inband"
    """In the audio alone: telephone-event is neither offered nor taken."""


class SrtpMode(StrEnum):
    """Whether the audio of a peer is encrypted (SRTP, keys by RFC 4568)."""

    NEVER = "never"
    OFFERED = "offered"
    """Where the peer can; else in the clear."""
    REQUIRED = "required"
    """Or there is no call."""


class SrtpOver(StrEnum):
    """Which signalling may carry keys."""

    TLS = "tls"
    ANY = "any"
    """Whoever reads the signalling can then hear the audio."""


class Identity(StrEnum):
    """How a trunk is told who calls."""

    PAI = "pai"
    """P-Asserted-Identity (RFC 3325)."""
    PPI = "ppi"
    """P-Preferred-Identity (RFC 3325): for carriers that assert by themselves."""
    RPID = "rpid"
    """Remote-Party-ID: what exchanges understood before RFC 3325."""
    FROM = "from"
    """In From alone."""


class VerifyClients(StrEnum):
    """What we ask of those who connect to us over TLS."""

    NO = "no"
    OPTIONAL = "optional"
    """A certificate may be shown; one that is shown must be good."""
    REQUIRED = "required"


Suite = Literal[
    "AEAD_AES_128_GCM", "AEAD_AES_256_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"
]
"""Of SDES (RFC 4568, RFC 7714)."""


class FollowMedia(StrEnum):
    """Whose audio is followed when it comes from another port in mid-call."""

    NEVER = "never"
    BEHIND_NAT = "behind_nat"
    """Of peers whose signalling or audio shows that a NAT is between."""
    ALWAYS = "always"


class Diverting(StrEnum):
    """How a peer is told who sent a call on, and whether it is believed."""

    NONE = "none"
    DIVERSION = "diversion"
    HISTORY_INFO = "history-info"
    BOTH = "both"


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.tls]``: our certificate, and whom we believe. Changed files count from the
    next connection on."""

    cert_file: str = ""
    """PEM, ours first, then those above it."""
    key_file: str = ""
    """PEM without passphrase; empty: it is in `cert_file`."""
    ca_file: str = ""
    """Authorities of our peers; empty: the system's."""
    clients: VerifyClients = VerifyClients.NO


class Phone(Shaping, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.phones.<user>]``: a phone that registers with this user name."""

    password: Secret
    number: str = ""
    """Directory number; also the caller number that others see."""
    label: str = ""
    location: str = ""
    calls: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 2
    """Calls at a time, so that a second one can wait or be taken in consultation. Those that it
    begins itself are refused beyond 100, or beyond this if it is more."""
    auto_answer: bool = False
    """Paging and intercom calls may ask it to answer by itself."""
    tells_hold: bool = True
    """Tell it with a re-INVITE that its partner put the call on hold; false: it hears so."""
    dtmf: DtmfMode = DtmfMode.AUTO
    codecs: tuple[str, ...] = ()
    """In order of preference; empty: the adapter's."""
    watches: tuple[str, ...] = ("*",)
    """Endpoints whose state it may subscribe to, as patterns: ``fxs/*``."""
    picks_up: tuple[str, ...] = ()
    """Endpoints whose ringing calls it may pick up (Replaces)."""
    mailbox: str = ""
    """``endpoint:input`` whose value is the number of new messages for it."""
    forwards: bool = True
    """A 3xx of it sends the call to the number in its Contact, as if it had dialled that."""
    priority: Precedence = "routine"
    """Highest precedence that it may ask for (RFC 4412)."""
    srtp: SrtpMode = SrtpMode.NEVER

    def __post_init__(self) -> None:
        endpoint, _, name = self.mailbox.partition(":")
        if self.mailbox and not (name and "/" in endpoint):
            raise ValueError(f"mailbox {self.mailbox!r}: write it like mqtt/voicemail:anna")


class Numbers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.trunks.<name>.numbers]``: how numbers are written towards a trunk."""

    strip: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """Leading digits of the called number that are left out."""
    prefix: str = ""
    """Put before the called number afterwards."""
    country_code: str = ""
    """Ours, such as ``49``: then all numbers go out as E.164 with a plus, and calling numbers from
    there come in as such."""
    national_prefix: str = "0"
    international_prefix: str = "00"

    def __post_init__(self) -> None:
        for text in (self.country_code, self.national_prefix, self.international_prefix):
            if text and not text.isdigit():
                raise ValueError(f"{text!r} is not made of digits")


class Trunk(Shaping, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.trunks.<name>]``: another exchange or a carrier."""

    peer: str
    """Where calls go: ``sip:host[:port][;transport=tcp|tls]`` or ``sips:host[:port]``."""
    proxy: str = ""
    """Outbound proxy, written like `peer`: everything is sent there."""
    tls_name: str = ""
    """Domain that its certificate must name; empty: the host of `proxy` or `peer`."""
    tls_verify: bool = True
    """False takes any certificate: encrypted, but perhaps with somebody else."""
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
    identity: Identity = Identity.PAI
    tells_hidden: bool = False
    """Tell it, and it alone, who a caller is that does not want to be shown (RFC 3325 section 7):
    some take no call without, to bill it or for emergency calls."""
    numbers: Numbers = Numbers()
    codecs: tuple[str, ...] = ()
    """In order of preference; empty: the adapter's."""
    md5: bool | None = None
    """Prove ourselves with MD5 too; None: when the adapter's `digest` lists it."""
    label: str = ""
    calls: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    calls_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """New calls a second, each way; 0: no limit."""
    keepalive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """OPTIONS this often to see that it is there; 0: never."""
    no_response_s: Annotated[float, msgspec.Meta(gt=0, le=32)] = 8.0
    """Give up on a peer that answers nothing at all."""
    precedence: Literal["", "dsn", "drsn", "q735", "ets", "wps"] = ""
    """Namespace of Resource-Priority (RFC 4412) that is believed from there and told to it; empty:
    none, all its calls are routine."""
    messages: bool = False
    """Watch the mailbox of `user` there; its new messages are the endpoint's input ``messages``."""
    diversion: Diverting = Diverting.NONE
    """Tell it who sent a call on, and believe what it says: Diversion (RFC 5806), History-Info
    (RFC 7044)."""
    redirects: bool = False
    """Follow its 3xx to the number in its Contact, as if it had called that."""
    tells_hold: bool = True
    """Tell it with a re-INVITE that its partner put the call on hold; false: it hears so."""
    dtmf: DtmfMode = DtmfMode.AUTO
    srtp: SrtpMode = SrtpMode.NEVER


class Fraud(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip.fraud]``: calls of one account that look like somebody else is paying."""

    window_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 600.0
    calls: Annotated[int, msgspec.Meta(ge=0)] = 60
    """Calls of an account in the window; 0: any number."""
    failed: Annotated[int, msgspec.Meta(ge=0)] = 20
    """Different numbers that could not be reached in the window; 0: any number."""
    prefixes: tuple[str, ...] = ()
    """Costly numbers, as they are dialled: ``00``, ``+``, ``0900``."""
    costly: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Calls to those in the window."""
    night: str = ""
    """Local time such as ``22:00-06:00``: then one costly call is enough."""
    block_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Refuse further calls of the account for so long; 0: raise the alarm only."""

    def __post_init__(self) -> None:
        if self.night and not _NIGHT.match(self.night):
            raise ValueError(f"{self.night!r}: write it like 22:00-06:00")


class SipSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[adapters.sip]``."""

    listen: tuple[str, ...] = ("udp:0.0.0.0:5060", "tcp:0.0.0.0:5060")
    """``udp:``, ``tcp:`` or ``tls:``, address and port; port 0 takes a free one."""
    tls: Tls = Tls()
    nameservers: tuple[str, ...] = ()
    """``address`` or ``address:port``; empty: the system's."""
    tcp_above: Annotated[int, msgspec.Meta(ge=0)] = 1300
    """Requests of more octets go over TCP instead of UDP where the peer takes it (RFC 3261 section
    18.1.1); 0: never."""
    public_ip: str = ""
    """Address to show in SIP and SDP when peers see another one than ours (behind NAT)."""
    inside: tuple[str, ...] = (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
        "169.254.0.0/16", "fc00::/7", "fe80::/10",
    )  # fmt: skip
    """Networks on our side of the NAT: peers there are shown our own address."""
    realm: str = "crosspoint"
    codecs: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("G722", "PCMA", "PCMU")
    """In order of preference: ``G722``, ``PCMA``, ``PCMU``; ``L16`` (linear, 16 kHz) and
    ``L16/8000`` for a network that has room for 256 or 128 kbit/s."""
    comfort_noise: bool = False
    """Offer and take comfort noise (RFC 3389, type 13): silence is then no packets but a level."""
    rtcp_xr: bool = True
    """Offer and answer extended reports of voice quality (RFC 3611)."""
    srtp_over: SrtpOver = SrtpOver.TLS
    srtp_suites: tuple[Suite, ...] = ()
    """Suites that may be agreed on, best first; empty: all, AEAD first."""
    digest: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("SHA-256",)
    """Digest algorithms offered to phones, best first. Older phones only know ``MD5``, and some
    stumble over a challenge that offers anything else beside it: write ``["MD5"]`` for those."""
    require_qop: bool = True
    """False lets phones in that only speak the digest of RFC 2069; each nonce then works once."""
    session_expires_s: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 1800
    """Session timer (RFC 4028); 0: off."""
    media_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60.0
    """End a call that gets no audio for so long (not while held); 0: never."""
    follow_media: FollowMedia = FollowMedia.BEHIND_NAT
    """Whose audio is followed to another port when its NAT rebinds in mid-call."""
    keepalive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """OPTIONS to each registered phone this often: to see that it is there, and to keep its way
    through a NAT open; 0: never."""
    lockout_failures: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Wrong passwords from one address before it is ignored."""
    lockout_s: Annotated[float, msgspec.Meta(ge=1)] = 300.0
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 1000
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1)] = 50
    max_bytes_per_s: Annotated[int, msgspec.Meta(ge=10_000)] = 2_000_000
    """What one address may send: more waits (streams) or is lost (UDP). Trunks are not limited."""
    requests_per_s: Annotated[float, msgspec.Meta(ge=1)] = 200.0
    """New requests of one address; more are not answered. Trunks are not limited."""
    allow: tuple[str, ...] = ()
    """Networks that anything may come from at all; empty: everywhere. Trunks may always."""
    deny: tuple[str, ...] = ()
    """Networks that nothing may come from; counts for more than `allow`."""
    min_expires_s: Annotated[int, msgspec.Meta(ge=10, le=3600)] = 60
    max_expires_s: Annotated[int, msgspec.Meta(ge=60, le=86400)] = 3600
    max_subscriptions: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 200
    """Of one phone (lamps, messages waiting); 0: none are taken."""
    max_contacts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    """Of one phone."""
    fraud: Fraud = Fraud()
    country: str = "us"
    """Tone plan for tones played into calls."""
    phones: dict[_Name, Phone] = {}
    trunks: dict[_Name, Trunk] = {}

    def __post_init__(self) -> None:
        for text in self.listen:
            parse_listen(text)
        if any(text.startswith("tls:") for text in self.listen) and not self.tls.cert_file:
            raise ValueError("listening on tls needs tls.cert_file")
        if self.tls.clients is not VerifyClients.NO and not self.tls.ca_file:
            raise ValueError("verifying clients needs tls.ca_file: whose certificates are good")
        for text in self.nameservers:
            parse_nameserver(text)
        peers: list[Phone | Trunk] = [*self.phones.values(), *self.trunks.values()]
        for name in (*self.codecs, *(name for peer in peers for name in peer.codecs)):
            if name not in ("G722", "PCMA", "PCMU", "L16", "L16/8000"):
                raise ValueError(f"codec {name!r} is none of G722, PCMA, PCMU, L16, L16/8000")
        for name in self.digest:
            if name not in ("SHA-512-256", "SHA-256", "MD5"):
                raise ValueError(f"digest {name!r} is none of SHA-512-256, SHA-256, MD5")
        if self.public_ip:
            ipaddress.ip_address(self.public_ip)
        if self.min_expires_s > self.max_expires_s:
            raise ValueError("min_expires_s is longer than max_expires_s")
        for network in (*self.inside, *self.allow, *self.deny):
            ipaddress.ip_network(network, strict=False)
        both = self.phones.keys() & self.trunks.keys()
        if both:
            raise ValueError(f"{sorted(both)[0]!r} is both a phone and a trunk")
        for trunk in self.trunks.values():
            check_peer(trunk.peer)
            if trunk.proxy:
                check_peer(trunk.proxy)
            for network in trunk.allow:
                ipaddress.ip_network(network, strict=False)
            if trunk.messages and not trunk.user:
                raise ValueError("a trunk whose messages are watched needs a user")
            if trunk.register and not trunk.user:
                raise ValueError("a trunk that registers needs a user")


def check_peer(text: str) -> None:
    """Raises `ValueError` saying how to write a trunk's peer."""
    try:
        uri = parse_uri(text)
    except PeerError:
        uri = None
    if uri is None or uri.scheme not in ("sip", "sips") or not uri.host or uri.user:
        raise ValueError(f"{text!r}: write it like sip:pbx.example.org:5060")
    if uri.transport not in ("", "udp", "tcp", "tls"):
        raise ValueError(f"{text!r}: transport is none of udp, tcp, tls")


def first_hop(trunk: Trunk) -> Uri:
    """Where everything for a trunk is sent: its proxy, else its peer."""
    return parse_uri(trunk.proxy or trunk.peer)


def parse_listen(text: str) -> tuple[str, str, int]:
    """Transport, host and port of ``udp:0.0.0.0:5060`` or ``tls:[::]:5061``.

    Raises `ValueError` saying how to write it.
    """
    transport, _, rest = text.partition(":")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    known = transport in ("udp", "tcp", "tls")
    if not known or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r}: write it like udp:0.0.0.0:5060")
    ipaddress.ip_address(host)
    return transport, host, int(port)


def parse_nameserver(text: str) -> tuple[str, int]:
    """Address and port of ``192.0.2.1``, ``192.0.2.1:53`` or ``[2001:db8::1]:53``.

    Raises `ValueError` saying how to write it.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r}: write it like 192.0.2.1:53")
    return str(ipaddress.ip_address(host)), int(port)
