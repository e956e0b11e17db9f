"""Digest authentication, both ends (RFC 3261 section 22, RFC 7616, RFC 8760).

`DigestServer` challenges and checks; its nonces carry their own proof (time and HMAC), so a
flood of challenges costs no memory.  A nonce count is accepted once, in a sliding window, so a
captured request cannot be replayed.  `stale=true` is said only of a nonce that is verifiably
ours and expired.  Unknown users cost the same work and get the same answer as wrong passwords.

`DigestClient` answers challenges for one set of credentials.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.headers import parse_auth, quote, tokens
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.uri import parse_uri

_HASHES = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}
"""Strongest first: the order of preference when a peer offers several."""

_INFORMED = (
    ("authentication-info", "Authorization"),
    ("proxy-authentication-info", "Proxy-Authorization"),
)
NC_WINDOW = 64
"""Nonce counts may overtake each other by this many (parallel requests over UDP)."""


def digest(algorithm: str, text: str | bytes) -> str:
    """Hex digest of ``text`` under an RFC 7616 algorithm name (without ``-sess``)."""
    octets = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return hashlib.new(_HASHES[algorithm], octets).hexdigest()


def ha1(algorithm: str, username: str, realm: str, password: str) -> str:
    """The stored form of a password: H(user:realm:password)."""
    return digest(algorithm, f"{username}:{realm}:{password}")


def digest_response(
    algorithm: str,
    secret: str,
    method: str,
    uri: str,
    nonce: str,
    *,
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
    session: bool = False,
) -> str:
    """RFC 7616 section 3.4.1; ``secret`` is HA1, ``session`` the ``-sess`` variant."""
    if session:
        secret = digest(algorithm, f"{secret}:{nonce}:{cnonce}")
    a2 = f"{method}:{uri}"
    if qop == "auth-int":
        a2 += f":{digest(algorithm, body)}"
    middle = f"{nonce}:{nc}:{cnonce}:{qop}" if qop else nonce
    return digest(algorithm, f"{secret}:{middle}:{digest(algorithm, a2)}")


class Credentials(msgspec.Struct, frozen=True):
    """What we prove who we are with."""

    username: str
    password: str
    realm: str = ""
    """Answer only challenges of this realm; empty: any realm of the peer they are given to."""
    allow_md5: bool = True
    """False: leave a challenge that offers nothing better unanswered."""


class DigestClient:
    """Answers a peer's challenges and reuses its nonces, counting."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._challenges: dict[str, dict[str, str]] = {}
        self._counts: dict[str, int] = {}
        self._tries: dict[str, int] = {}

    def challenged(self, response: Response) -> bool:
        """Take in a 401 or 407; False if it cannot be answered, or was answered and refused."""
        header, key = (
            ("Authorization", "www-authenticate")
            if response.status == 401
            else ("Proxy-Authorization", "proxy-authenticate")
        )
        best: dict[str, str] | None = None
        best_rank = 99
        for line in response.all(key):
            try:
                scheme, params = parse_auth(line)
            except PeerError:
                continue
            realm, nonce = params.get("realm"), params.get("nonce")
            if scheme != "digest" or realm is None or not nonce:
                continue
            if self.credentials.realm and realm != self.credentials.realm:
                continue
            name = params.get("algorithm", "MD5").upper().removesuffix("-SESS")
            if name not in _HASHES or (name == "MD5" and not self.credentials.allow_md5):
                continue
            qops = tokens([params["qop"].lower()]) if "qop" in params else []
            if qops and not {"auth", "auth-int"} & set(qops):
                continue
            rank = list(_HASHES).index(name)
            if rank < best_rank:
                best, best_rank = params, rank
        if best is None:
            return False
        tries = self._tries.get(header, 0)
        stale = best.get("stale", "").lower() == "true"
        # Refused once since the last success: only an expired nonce is worth another try.
        if tries >= 3 or (tries and not stale):
            self._challenges.pop(header, None)
            return False
        self._tries[header] = tries + 1
        self._take(header, best)
        return True

    def _take(self, header: str, challenge: dict[str, str]) -> None:
        self._challenges[header] = challenge
        self._counts.setdefault(challenge["nonce"], 0)
        while len(self._counts) > 8:
            self._counts.pop(next(iter(self._counts)))

    def succeeded(self, response: Response) -> None:
        """The peer took our answer: its next challenge will be answered again. It may name the
        nonce that it wants next (RFC 7616 section 3.5)."""
        self._tries.clear()
        for key, header in _INFORMED:
            challenge = self._challenges.get(header)
            if challenge is None or key not in response.headers:
                continue
            for line in response.all(key):
                try:
                    fresh = parse_auth(f"Digest {line}")[1].get("nextnonce")
                except PeerError:
                    continue
                if fresh:
                    self._take(header, {**challenge, "nonce": fresh})

    def headers(self, method: str, uri: str, body: bytes) -> list[Header]:
        """Authorization lines for a request; empty before any challenge."""
        lines: list[Header] = []
        for header, challenge in self._challenges.items():
            lines.append((header, self._answer(challenge, method, uri, body)))
        return lines

    def _answer(self, challenge: dict[str, str], method: str, uri: str, body: bytes) -> str:
        named = challenge.get("algorithm")
        algorithm = (named or "MD5").upper()
        session = algorithm.endswith("-SESS")
        algorithm = algorithm.removesuffix("-SESS")
        nonce, realm = challenge["nonce"], challenge["realm"]
        qop = nc = cnonce = ""
        if "qop" in challenge:
            qop = "auth" if "auth" in tokens([challenge["qop"].lower()]) else "auth-int"
        if qop or session:
            count = self._counts.get(nonce, 0) + 1
            self._counts[nonce] = count
            nc, cnonce = f"{count:08x}", os.urandom(12).hex()
        else:
            self._counts[nonce] = 1
        who = self.credentials
        response = digest_response(
            algorithm,
            ha1(algorithm, who.username, realm, who.password),
            method,
            uri,
            nonce,
            qop=qop,
            nc=nc,
            cnonce=cnonce,
            body=body,
            session=session,
        )
        parts = [
            f"username={quote(who.username)}",
            f"realm={quote(realm)}",
            f"nonce={quote(nonce)}",
            f"uri={quote(uri)}",
            f'response="{response}"',
        ]
        if named:
            parts.append(f"algorithm={named}")
        if qop:
            parts += [f"qop={qop}", f"nc={nc}"]
        if cnonce:
            parts.append(f'cnonce="{cnonce}"')
        if "opaque" in challenge:
            parts.append(f"opaque={quote(challenge['opaque'])}")
        return "Digest " + ", ".join(parts)


class Authenticated(msgspec.Struct, frozen=True):
    """The request proved who sent it."""

    username: str


class Challenge(msgspec.Struct, frozen=True):
    """Answer the request with this."""

    status: int
    """401 or 407."""
    headers: list[Header]
    failed: bool
    """Credentials were given and are wrong (for lock-out); False: none or expired."""
    username: str = ""
    """Whose credentials were given, wrong or expired, for a nonce of ours."""


Lookup = Callable[[str, str, str], str | None]
"""(username, realm, algorithm) to HA1 in hex, or None."""


class DigestServer:
    """Challenges requests and checks the answers, for one realm.

    `check` is the only input; it needs ``now`` in seconds.
    """

    def __init__(
        self,
        realm: str,
        lookup: Lookup,
        *,
        algorithms: Sequence[str] = ("SHA-256",),
        proxy: bool = False,
        nonce_lifetime: float = 300.0,
        require_qop: bool = True,
        secret: bytes | None = None,
        max_nonces: int = 65536,
    ) -> None:
        """``algorithms`` in order of preference, each offered in a challenge of its own (RFC 8760).

        ``require_qop`` False admits clients of RFC 2069, whose nonces then work once.
        """
        unknown = [name for name in algorithms if name not in _HASHES]
        if unknown or not algorithms:
            raise UsageError(f"unknown digest algorithms {unknown}; known: {', '.join(_HASHES)}")
        self.realm = realm
        self._lookup = lookup
        self._algorithms = tuple(algorithms)
        self._proxy = proxy
        self._lifetime = nonce_lifetime
        self._require_qop = require_qop
        self._secret = secret or os.urandom(32)
        self._used: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._max_nonces = max_nonces
        self._floor = 0
        self._decoy = os.urandom(32).hex()

    def check(self, request: Request, now: float, source: str = "") -> Authenticated | Challenge:
        """Judge a request by its Authorization (or Proxy-Authorization) lines.

        source: address it came from. A nonce is good there alone, and only who was sent it can
        fail with it: forged senders shut nobody out.
        """
        key = "proxy-authorization" if self._proxy else "authorization"
        failed = stale = False
        username = ""
        for line in request.all(key)[:4]:
            try:
                scheme, params = parse_auth(line)
            except PeerError:
                continue
            if scheme != "digest" or params.get("realm") != self.realm:
                continue
            ours = self._is_ours(params.get("nonce", ""), source)
            verdict = self._judge(request, params, now, ours=ours)
            if not ours:
                continue
            username = params.get("username", "")
            if verdict is None:
                return Authenticated(username)
            stale |= verdict
            failed = not verdict
            if failed:
                # Else each request would be as many guesses as it has lines.
                break
        found = self.challenge(now, source, stale=stale)
        return msgspec.structs.replace(found, failed=failed, username=username)

    def challenge(self, now: float, source: str = "", *, stale: bool = False) -> Challenge:
        """What a request without credentials is answered with."""
        name = "Proxy-Authenticate" if self._proxy else "WWW-Authenticate"
        nonce = self._nonce(now, source)
        lines = [
            (
                name,
                f'Digest realm={quote(self.realm)}, nonce="{nonce}", algorithm={algorithm}, '
                f'qop="auth"{", stale=true" if stale else ""}',
            )
            for algorithm in self._algorithms
        ]
        return Challenge(407 if self._proxy else 401, lines, failed=False)

    def _nonce(self, now: float, source: str) -> str:
        head = f"{max(0, int(now * 1000)):014x}{os.urandom(8).hex()}"
        return head + self._proof(head, source)

    def _proof(self, head: str, source: str) -> str:
        text = f"{head} {source}".encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, text, "sha256").hexdigest()[:32]

    def _is_ours(self, nonce: str, source: str) -> bool:
        """Whether we made a nonce for this source."""
        return (
            len(nonce) == 62
            and nonce.isascii()
            and hmac.compare_digest(self._proof(nonce[:30], source), nonce[30:])
        )

    def _judge(
        self, request: Request, params: dict[str, str], now: float, *, ours: bool
    ) -> bool | None:
        """None: right.  True: right but for an expired nonce.  False: wrong."""
        nonce, given = params.get("nonce", ""), params.get("response", "").lower()
        username, uri = params.get("username", ""), params.get("uri", "")
        algorithm = params.get("algorithm", "MD5").upper()
        qop, nc, cnonce = params.get("qop", "").lower(), params.get("nc", ""), params.get("cnonce")
        if algorithm not in self._algorithms:
            return False
        if qop:
            try:
                count = int(nc, 16) if len(nc) == 8 else -1
            except ValueError:
                count = -1
            if qop != "auth" or count < 1 or not cnonce:
                return False
        elif self._require_qop:
            return False
        else:
            count = 0
        secret = self._lookup(username, self.realm, algorithm)
        expected = digest_response(
            algorithm,
            (secret or self._decoy).lower(),
            request.method,
            uri,
            nonce,
            qop=qop,
            nc=nc,
            cnonce=cnonce or "",
        )
        right = hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogateescape"))
        if (
            not ours
            or not right
            or secret is None
            or not _same_target(uri, request, legacy=not qop)
        ):
            return False
        issued = int(nonce[:14], 16)
        age = now - issued / 1000
        if age > self._lifetime or age < -1 or issued < self._floor:
            return True
        return None if self._take(nonce, count, issued) else False

    def _take(self, nonce: str, count: int, issued: int) -> bool:
        """Use a nonce count up; False if it was used before."""
        highest, window = self._used.get(nonce, (0, 0))
        if count == 0:
            if nonce in self._used:
                return False
            highest, window = NC_WINDOW + 2**32, ~0
        elif count > highest:
            shift = count - highest
            window = ((window << shift) | 1) & (2**NC_WINDOW - 1) if shift < NC_WINDOW else 1
            highest = count
        else:
            bit = 1 << (highest - count)
            if highest - count >= NC_WINDOW or window & bit:
                return False
            window |= bit
        self._used[nonce] = (highest, window)
        if len(self._used) > self._max_nonces:
            # Its counts are forgotten, so it must not be believed again: neither it nor any older.
            oldest, _ = self._used.popitem(last=False)
            self._floor = max(self._floor, int(oldest[:14], 16) + 1)
        return True


def _same_target(uri: str, request: Request, *, legacy: bool) -> bool:
    """What the digest covers must be what the request asks for (RFC 7616 section 3.4.6).

    legacy: clients of RFC 2069 name the server alone; their nonce is good for one request anyway.
    """
    if uri == request.target:
        return True
    try:
        given = parse_uri(uri)
        if legacy and not given.user:
            return given.host == request.uri.host
        return (given.user, given.host) == (request.uri.user, request.uri.host)
    except PeerError:
        return False
