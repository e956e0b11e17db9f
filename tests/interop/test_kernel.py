"""Calls that the kernel carries, or steers, between telephones that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.actions import Hold, Retrieve
from tests.interop.peers import assert_hears, box, phone, until
from tests.interop.test_sip_phones import PHONES, talk
from tests.media.kernel_net import namespace

pytestmark = pytest.mark.interop


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A loopback of this test's own."""
    try:
        with namespace():
            yield
    except PermissionError as error:
        pytest.skip(f"network namespaces: {error}")


@pytest.mark.parametrize("codecs", [("PCMU", "PCMU"), ("PCMA", "PCMU")], ids="-".join)
async def test_baresip_calls_baresip_through_the_kernel(
    tmp_path: Path, codecs: tuple[str, str]
) -> None:
    a, b = (f"{codec}/8000/1" for codec in codecs)
    async with box(PHONES.format(more=""), media="kernel = true") as gateway:
        engine = gateway.gateway.engine
        if engine.kernel_refused:
            pytest.skip(f"BPF: {engine.kernel_refused}")
        async with (
            phone(tmp_path, "anna", "a1", gateway, hz=1000, codec=a) as anna,
            phone(tmp_path, "bert", "b1", gateway, hz=440, codec=b) as bert,
        ):
            await gateway.up("sip/anna", "sip/bert")
            await talk(gateway, anna, bert)
            await until(lambda: engine.stats().kernel_packets > 100, "the kernel relays")
            before = engine.stats().kernel_packets
            gateway.gateway._dispatch(Hold(leg="sip/bert#1"))
            await until(lambda: not engine.stats().kernel_streams, "held: taken back")
            gateway.gateway._dispatch(Retrieve(leg="sip/bert#1"))
            await until(lambda: engine.stats().kernel_packets > before + 100, "it relays again")
            await anna.hang_up()
            await bert.wait("CALL_CLOSED")
            legs = await gateway.legs(2)
            await until(lambda: not engine.stats().kernel_streams, "nothing is left")
        assert_hears(anna.heard(), 440, 1000)
        assert_hears(bert.heard(), 1000, 440)
        for leg in legs.values():
            assert leg.packets_received > 100
            assert leg.cause == "normal"


@pytest.mark.parametrize("codecs", [("PCMU", "PCMU"), ("PCMA", "PCMU")], ids="-".join)
async def test_baresip_calls_baresip_by_shared_sockets(
    tmp_path: Path, codecs: tuple[str, str]
) -> None:
    a, b = (f"{codec}/8000/1" for codec in codecs)
    async with box(PHONES.format(more=""), media="steer = true") as gateway:
        engine = gateway.gateway.engine
        if engine.steer_refused:
            pytest.skip(f"BPF: {engine.steer_refused}")
        async with (
            phone(tmp_path, "anna", "a1", gateway, hz=1000, codec=a) as anna,
            phone(tmp_path, "bert", "b1", gateway, hz=440, codec=b) as bert,
        ):
            await gateway.up("sip/anna", "sip/bert")
            await talk(gateway, anna, bert)
            await until(lambda: engine.stats().steered_packets > 300, "it comes by shared sockets")
            await anna.hang_up()
            await bert.wait("CALL_CLOSED")
            legs = await gateway.legs(2)
            await until(lambda: not engine.stats().steered_streams, "nothing is left")
        assert_hears(anna.heard(), 440, 1000)
        assert_hears(bert.heard(), 1000, 440)
        for leg in legs.values():
            assert leg.packets_received > 100
            assert leg.cause == "normal"
