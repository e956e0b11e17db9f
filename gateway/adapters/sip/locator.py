"""From a SIP URI to addresses: the questions of RFC 3263, asked of DNS."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from gateway.drivers.dns import Resolver
from gateway.protocols.sip.locating import Naptr, Query, Record, Srv, Target, locate
from gateway.protocols.sip.uri import Uri


class Locator:
    """Looks up where requests go. Answers are kept by the resolver for their time to live."""

    def __init__(self, resolver: Resolver, speaks: Collection[str] = ("udp", "tcp", "tls")) -> None:
        self._resolver = resolver
        self.speaks = speaks
        """Transports that we can send over."""
        # Equals are drawn anew by each gateway, but always the same by this one: a trunk stays
        # where it is until DNS or its server says otherwise.
        self._seed = Random().random()

    async def targets(self, uri: Uri) -> list[Target]:
        """Places to try, best first; empty when there are none."""
        search = locate(uri, self.speaks, Random(f"{self._seed} {uri.host}"))
        try:
            query = next(search)
            while True:
                query = search.send(await self._answer(query))
        except StopIteration as end:
            found: list[Target] = end.value
            return list(dict.fromkeys(found))

    async def _answer(self, query: Query) -> Sequence[Record]:
        match query.kind:
            case "NAPTR":
                return [Naptr(*record) for record in await self._resolver.naptr(query.name)]
            case "SRV":
                return [Srv(*record) for record in await self._resolver.srv(query.name)]
            case _:
                return await self._resolver.addresses(query.name)
