"""SRTP of one SIP leg: whether it is asked for, and whose keys are agreed on (RFC 4568)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from gateway.adapters.sip.config import Phone, SipSection, SrtpMode, SrtpOver, Trunk, first_hop
from gateway.errors import DeviceError, PeerError
from gateway.media import srtp
from gateway.media.streams import Srtp, SrtpSuite
from gateway.protocols import sdp, sdp_crypto

PLAIN = "RTP/AVP"
SECURE = "RTP/SAVP"

NOT_OVER_TLS = (
    'SRTP is required, but the keys would go over SIP without TLS; use TLS, or srtp_over = "any"'
)


class Keying:
    """Offers and answers of keys, for the policy of one phone or trunk.

    ``required`` offers RTP/SAVP; ``offered`` writes RTP/AVP with crypto lines, which those without
    SRTP pass over. Either takes both in a peer's offer.
    """

    def __init__(self, mode: SrtpMode, *, private: bool, suites: tuple[str, ...] = ()) -> None:
        """private: keys may be shown to the peer, that is the signalling is encrypted; suites:
        which may be agreed on, best first; none: all that there are."""
        self._suites = srtp.suites() if mode is not SrtpMode.NEVER and private else ()
        if suites:
            known = {suite.value: suite for suite in self._suites}
            self._suites = tuple(known[name] for name in suites if name in known)
        self.blocked = ""
        """Why nothing can be agreed on at all."""
        if mode is SrtpMode.REQUIRED and not self._suites:
            self.blocked = f"SRTP is required: {srtp.missing()}" if private else NOT_OVER_TLS
        self._mode = mode if self._suites else SrtpMode.NEVER
        self.agreed: Srtp | None = None
        self._tag = 1
        self._protocol = SECURE if self._mode is SrtpMode.REQUIRED else PLAIN
        self._offered: dict[int, tuple[SrtpSuite, bytes]] = {}
        self._settled = False

    @property
    def protocols(self) -> tuple[str, ...]:
        """Of media lines that can be taken, best first."""
        return (PLAIN,) if self._mode is SrtpMode.NEVER else (SECURE, PLAIN)

    def offer(self) -> tuple[str, list[str]]:
        """Protocol and crypto lines of our next offer. Raises `DeviceError` when blocked.

        What was agreed on is offered again with the same key, which goes on counting.
        """
        if self.blocked:
            raise DeviceError(self.blocked)
        if self.agreed is not None:
            self._offered = {self._tag: (self.agreed.suite, self.agreed.send)}
        elif self._mode is SrtpMode.NEVER or self._settled:
            self._offered = {}
        elif not self._offered:
            self._offered = {
                tag: (suite, secrets.token_bytes(suite.key_octets))
                for tag, suite in enumerate(self._suites, 1)
            }
        lines = [sdp_crypto.line(tag, *found) for tag, found in self._offered.items()]
        return self._protocol, lines

    def accept(self, choice: sdp.Choice) -> None:
        """Take in an answer to our offer. Raises `PeerError` when the leg cannot go on with it."""
        if not self._offered or not choice.crypto:
            if self._mode is SrtpMode.REQUIRED or choice.protocol.upper() == SECURE:
                raise PeerError("SRTP is required, but the answer has no key", status=488)
            self._settle(None, choice)
            return
        try:
            theirs = sdp_crypto.parse(choice.crypto[0])
        except PeerError as error:
            raise PeerError(f"SRTP: {error}", status=488) from None
        ours = self._offered.get(theirs.tag)
        if ours is None or ours[0].value != theirs.suite:
            raise PeerError(
                f"SRTP: the answer to a=crypto {theirs.tag} was not offered", status=488
            )
        if theirs.refusal:
            raise PeerError(f"SRTP: {theirs.refusal}", status=488)
        self._tag = theirs.tag
        self._settle(Srtp(suite=ours[0], receive=theirs.key, send=ours[1]), choice)

    def answer(self, choice: sdp.Choice) -> list[str]:
        """Our crypto line for an offer, if it gets one. Raises `PeerError` when it cannot be taken.

        A peer that changes its key gets a new one of ours: both sides count from zero again.
        """
        if self.blocked:
            raise PeerError(self.blocked, status=488)
        found, why = None, ""
        if self._mode is not SrtpMode.NEVER:
            names = {suite.value for suite in self._suites}
            found, why = sdp_crypto.choose(choice.crypto, names)
        if found is None:
            if self._mode is SrtpMode.REQUIRED or choice.protocol.upper() == SECURE:
                raise PeerError(f"SRTP cannot be agreed on: {why}", status=488)
            self._settle(None, choice)
            return []
        suite, send = SrtpSuite(found.suite), b""
        if self.agreed is not None and self.agreed.suite is suite:
            send = self.agreed.send if self.agreed.receive == found.key else b""
        send = send or secrets.token_bytes(suite.key_octets)
        self._tag = found.tag
        self._settle(Srtp(suite=suite, receive=found.key, send=send), choice)
        return [sdp_crypto.line(found.tag, suite.value, send)]

    def _settle(self, agreed: Srtp | None, choice: sdp.Choice) -> None:
        self.agreed, self._settled = agreed, True
        self._protocol = SECURE if choice.protocol.upper() == SECURE else PLAIN


def doubts(config: SipSection) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What of SRTP will not work, or not protect anybody, as it is configured."""
    peers: list[tuple[str, str, Phone | Trunk]] = []
    peers += [("phones", *item) for item in config.phones.items()]
    peers += [("trunks", *item) for item in config.trunks.items()]
    wanted = [each for each in peers if each[2].srtp is not SrtpMode.NEVER]
    if not wanted:
        return
    if config.srtp_over is SrtpOver.ANY:
        yield (
            ("srtp_over",),
            "keys of SRTP may go over signalling that is not encrypted: who reads it can listen",
            'write "tls"',
        )
    missing = srtp.missing()
    listens = any(text.startswith("tls:") for text in config.listen)
    for table, name, who in wanted:
        key, required = (table, name, "srtp"), who.srtp is SrtpMode.REQUIRED
        instead = "every call is refused" if required else "the audio goes in the clear"
        if missing:
            yield key, f"{instead}: {missing.partition(';')[0]}", srtp.REMEDY
        elif config.srtp_over is SrtpOver.TLS:
            # A connection that a trunk's peer opens, too, comes to a listener.
            private = first_hop(who).transport == "tls" if isinstance(who, Trunk) else listens
            if not private:
                yield key, f"{instead}: its signalling is not over TLS", "use TLS for it"
        if isinstance(who, Trunk) and not who.tls_verify:
            yield key, "keys go to whoever answers: tls_verify is false", "verify its certificate"
