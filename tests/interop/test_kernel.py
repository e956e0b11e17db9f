"""Calls that the kernel carries, or steers, between telephones that are not ours."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.core.actions import Hold, Retrieve
from tests.interop.peers import Box, assert_hears, box, phone, until
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


CODECS = pytest.mark.parametrize("codecs", [("PCMU", "PCMU"), ("PCMA", "PCMU")], ids="-".join)


@contextlib.asynccontextmanager
async def talking(
    tmp_path: Path, media: str, refused: str, codecs: tuple[str, str]
) -> AsyncIterator[Box]:
    """Two telephones talk by a way of ``[media]``; afterwards they have heard each other, and the
    engine has kept no stream of it. `refused`: the engine's word on why it cannot."""
    a, b = (f"{codec}/8000/1" for codec in codecs)
    async with box(PHONES.format(more=""), media=media) as gateway:
        engine = gateway.gateway.engine
        if why := getattr(engine, refused):
            pytest.skip(f"BPF: {why}")
        async with (
            phone(tmp_path, "anna", "a1", gateway, hz=1000, codec=a) as anna,
            phone(tmp_path, "bert", "b1", gateway, hz=440, codec=b) as bert,
        ):
            await gateway.up("sip/anna", "sip/bert")
            await talk(gateway, anna, bert)
            yield gateway
            await anna.hang_up()
            await bert.wait("CALL_CLOSED")
            legs = await gateway.legs(2)
            await until(
                lambda: not engine.stats().kernel_streams + engine.stats().steered_streams,
                "nothing is left",
            )
        assert_hears(anna.heard(), 440, 1000)
        assert_hears(bert.heard(), 1000, 440)
        for leg in legs.values():
            assert leg.packets_received > 100
            assert leg.cause == "normal"


@CODECS
async def test_baresip_calls_baresip_through_the_kernel(
    tmp_path: Path, codecs: tuple[str, str]
) -> None:
    async with talking(tmp_path, "kernel = true", "kernel_refused", codecs) as gateway:
        stats = gateway.gateway.engine.stats
        await until(lambda: stats().kernel_packets > 100, "the kernel relays")
        before = stats().kernel_packets
        gateway.gateway._dispatch(Hold(leg="sip/bert#1"))
        await until(lambda: not stats().kernel_streams, "held: taken back")
        gateway.gateway._dispatch(Retrieve(leg="sip/bert#1"))
        await until(lambda: stats().kernel_packets > before + 100, "it relays again")


@CODECS
async def test_baresip_calls_baresip_by_shared_sockets(
    tmp_path: Path, codecs: tuple[str, str]
) -> None:
    async with talking(tmp_path, "steer = true", "steer_refused", codecs) as gateway:
        stats = gateway.gateway.engine.stats
        await until(lambda: stats().steered_packets > 300, "it comes by shared sockets")
