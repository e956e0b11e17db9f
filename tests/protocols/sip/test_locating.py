"""Where a URI leads (RFC 3263), without a name server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.locating import (
    MAX_TARGETS,
    Naptr,
    Query,
    Record,
    Srv,
    Target,
    locate,
    order,
)
from gateway.protocols.sip.uri import parse_uri

ALL = ("udp", "tcp", "tls")
Zone = dict[tuple[str, str], Sequence[Record]]


def found(uri: str, zone: Zone, speaks: Sequence[str] = ALL) -> tuple[list[Target], list[Query]]:
    asked: list[Query] = []
    search = locate(parse_uri(uri), speaks, Random(1))
    try:
        query = next(search)
        while True:
            asked.append(query)
            assert len(asked) < 1000
            query = search.send(zone.get((query.kind, query.name), []))
    except StopIteration as end:
        return end.value, asked


# The example of RFC 3263 section 4.1, with addresses.
EXAMPLE: Zone = {
    ("NAPTR", "example.com"): [
        Naptr(50, 50, "s", "SIPS+D2T", "_sips._tcp.example.com"),
        Naptr(90, 50, "s", "SIP+D2T", "_sip._tcp.example.com"),
        Naptr(100, 50, "s", "SIP+D2U", "_sip._udp.example.com"),
        Naptr(10, 50, "u", "E2U+sip", ""),
    ],
    ("SRV", "_sips._tcp.example.com"): [Srv(0, 1, 5061, "server1.example.com")],
    ("SRV", "_sip._tcp.example.com"): [
        Srv(0, 1, 5060, "server1.example.com"),
        Srv(10, 2, 5080, "server2.example.com"),
    ],
    ("SRV", "_sip._udp.example.com"): [Srv(0, 1, 5060, "server1.example.com")],
    ("ADDRESS", "server1.example.com"): ["192.0.2.1", "2001:db8::1"],
    ("ADDRESS", "server2.example.com"): ["192.0.2.2"],
    ("ADDRESS", "example.com"): ["192.0.2.9"],
}


def test_the_example_of_the_standard() -> None:
    targets, asked = found("sip:user@example.com", EXAMPLE, ("udp", "tcp"))
    assert targets == [
        Target("tcp", "192.0.2.1", 5060),
        Target("tcp", "2001:db8::1", 5060),
        Target("tcp", "192.0.2.2", 5080),
        Target("udp", "192.0.2.1", 5060),
        Target("udp", "2001:db8::1", 5060),
    ]
    assert asked[0] == Query("NAPTR", "example.com")


def test_sips_takes_nothing_but_tls() -> None:
    targets, asked = found("sips:example.com", EXAMPLE)
    assert {target.transport for target in targets} == {"tls"}
    assert Query("SRV", "_sip._udp.example.com") not in asked
    assert found("sips:bare.test", {("ADDRESS", "bare.test"): ["192.0.2.3"]})[0] == [
        Target("tls", "192.0.2.3", 5061)
    ]


def test_what_the_uri_says_is_not_asked() -> None:
    assert found("sip:192.0.2.7", {}) == ([Target("udp", "192.0.2.7", 5060)], [])
    assert found("sip:[2001:db8::7]:5070", {}) == ([Target("udp", "2001:db8::7", 5070)], [])
    assert found("sip:192.0.2.7;transport=tls", {})[0] == [Target("tls", "192.0.2.7", 5061)]
    targets, asked = found("sip:example.com:5099", EXAMPLE)
    assert targets == [Target("udp", "192.0.2.9", 5099)]
    assert asked == [Query("ADDRESS", "example.com")]
    targets, asked = found("sip:example.com;transport=tcp", EXAMPLE)
    assert targets[-1] == Target("tcp", "192.0.2.2", 5080)
    assert asked[0] == Query("SRV", "_sip._tcp.example.com")


def test_without_records_the_name_itself_is_the_server() -> None:
    zone: Zone = {("ADDRESS", "box.test"): ["192.0.2.4"]}
    assert found("sip:box.test", zone)[0] == [Target("udp", "192.0.2.4", 5060)]
    assert found("sip:nowhere.test", {})[0] == []


def test_a_dot_says_that_there_is_no_service() -> None:
    zone: Zone = {
        ("SRV", "_sip._tcp.box.test"): [Srv(0, 0, 0, ".")],
        ("ADDRESS", "box.test"): ["192.0.2.4"],
    }
    assert found("sip:box.test;transport=tcp", zone)[0] == []


def test_weights_share_the_load() -> None:
    heavy, light, never = Srv(1, 90, 1, "h"), Srv(1, 10, 1, "l"), Srv(2, 100, 1, "n")
    random = Random(7)
    orders = [order([never, light, heavy], random) for _ in range(2000)]
    first = Counter(found[0].target for found in orders)
    assert all(found[2] is never for found in orders)
    assert 0.85 < first["h"] / 2000 < 0.95


@given(
    st.lists(
        st.builds(Srv, st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535),
                  st.text(max_size=5)),
        max_size=40,
    ),
    st.integers(),
)  # fmt: skip
def test_any_records_give_a_bounded_list_without_loss(servers: list[Srv], seed: int) -> None:
    assert sorted(order(servers, Random(seed))) == sorted(servers)
    zone: Zone = {("SRV", "_sip._udp.x.test"): servers}
    zone |= {("ADDRESS", server.target): ["192.0.2.1"] * 20 for server in servers}
    targets, _ = found("sip:x.test;transport=udp", zone)
    assert len(targets) <= max(MAX_TARGETS, 20)
