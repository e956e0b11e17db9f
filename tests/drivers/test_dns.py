"""Names, asked of a name server that is not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.drivers.dns import Resolver
from tests.name_server import name_server

pytestmark = pytest.mark.interop

RECORDS = (
    "naptr-record=carrier.test,10,50,S,SIP+D2U,,_sip._udp.carrier.test",
    "srv-host=_sip._udp.carrier.test,a.carrier.test,5062,10,30",
    "srv-host=_sip._udp.carrier.test,b.carrier.test,5063,20,0",
    "host-record=a.carrier.test,192.0.2.1,2001:db8::1",
    "host-record=b.carrier.test,192.0.2.2",
)


async def test_records_and_their_time_to_live(tmp_path: Path) -> None:
    async with name_server(tmp_path, *RECORDS) as server:
        resolver = Resolver([("127.0.0.1", server.port)], hosts=tmp_path / "none")
        assert await resolver.naptr("carrier.test") == [
            (10, 50, "S", "SIP+D2U", "_sip._udp.carrier.test")
        ]
        assert sorted(await resolver.srv("_sip._udp.carrier.test")) == [
            (10, 30, 5062, "a.carrier.test"),
            (20, 0, 5063, "b.carrier.test"),
        ]
        for _ in range(3):
            assert await resolver.addresses("a.carrier.test") == ["192.0.2.1", "2001:db8::1"]
        assert server.asked("A", "a.carrier.test") == 1
        resolver.forget()
        assert await resolver.addresses("a.carrier.test") == ["192.0.2.1", "2001:db8::1"]
        assert server.asked("A", "a.carrier.test") == 2
        assert await resolver.addresses("nowhere.test") == []
        assert await resolver.srv("_sip._tcp.carrier.test") == []
        for odd in ("", "a" * 300, "a..b", "\udcff", "-.test", "*" * 64):
            assert await resolver.addresses(odd) == []


async def test_answers_run_out(tmp_path: Path) -> None:
    async with name_server(tmp_path, *RECORDS, ttl=0) as server:
        resolver = Resolver([("127.0.0.1", server.port)], hosts=tmp_path / "none")
        await resolver.addresses("b.carrier.test")
        await resolver.addresses("b.carrier.test")
        assert server.asked("A", "b.carrier.test") == 2


async def test_the_hosts_file_comes_first_and_is_read_again(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.9 a.carrier.test other # a.b\n::1 a.carrier.test\n\n192.0.2.8\n")
    async with name_server(tmp_path, *RECORDS) as server:
        resolver = Resolver([("127.0.0.1", server.port)], hosts=hosts)
        assert await resolver.addresses("A.Carrier.TEST") == ["192.0.2.9", "::1"]
        assert server.asked("A", "a.carrier.test") == 0
        hosts.write_text("192.0.2.7 a.carrier.test\n")
        os.utime(hosts, (1, 1))
        assert await resolver.addresses("a.carrier.test") == ["192.0.2.7"]


async def test_without_a_name_server_nothing_is_found(tmp_path: Path) -> None:
    # Nobody listens on the discard port of this address.
    resolver = Resolver([("127.0.0.1", 9)], hosts=tmp_path / "none")
    assert await resolver.addresses("a.carrier.test") == []
