"""Calls that the kernel carries, or steers, between telephones of other hosts: not by loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab.softphone import Softphone
from tests.interop.peers import assert_hears, box, common_port, microphone, need, until
from tests.interop.test_sip_phones import PHONES, talk
from tests.media.kernel_net import Far, Switch, Switched, namespace

pytestmark = pytest.mark.interop


@pytest.fixture(params=["two networks", "a switch, by macvlan"])
def hosts(request: pytest.FixtureRequest) -> Iterator[tuple[Far, Far]]:
    """Two hosts: each on a network of its own, or both at a switch as the gateway is."""
    if shutil.which("nsenter") is None:
        pytest.skip("nsenter is not installed")
    try:
        with namespace():
            found: list[Far] = []
            try:
                if request.param == "two networks":
                    found += Far(1), Far(2)
                else:
                    found.append(switch := Switch())
                    found += Switched(switch, 1), Switched(switch, 2)
                yield found[-2], found[-1]
            except subprocess.CalledProcessError as error:
                pytest.skip(f"{request.param}: {error.stderr.decode()}")
            finally:
                for far in found:
                    far.close()
    except PermissionError as error:
        pytest.skip(f"network namespaces: {error}")


def telephone(home: Path, user: str, far: Far, port: int, hz: float, codec: str) -> Softphone:
    """A baresip of another host."""
    need("baresip")
    account = (
        f"<sip:{user}@{far.near_ip}:{port}>;auth_pass={user[0]}1;audio_codecs={codec}/8000/1;"
        "answermode=manual;regint=60"
    )
    directory = home / user
    return Softphone(account, microphone(home, hz), directory, address=far.ip, before=far.before)


@pytest.mark.parametrize("option", ["kernel", "steer"])
async def test_baresip_calls_baresip_of_another_host(
    tmp_path: Path, hosts: tuple[Far, Far], option: str
) -> None:
    port = common_port()
    ours = ", ".join(f'"udp:{address}:{port}"' for address in {far.near_ip for far in hosts})
    more = f"listen = [{ours}]"
    async with box(PHONES.format(more=more), media=f"{option} = true") as gateway:
        engine = gateway.gateway.engine
        if refused := engine.kernel_refused or engine.steer_refused:
            pytest.skip(f"BPF: {refused}")
        async with (
            telephone(tmp_path, "anna", hosts[0], port, 1000, "PCMA") as anna,
            telephone(tmp_path, "bert", hosts[1], port, 440, "PCMU") as bert,
        ):
            await gateway.up("sip/anna", "sip/bert")
            await talk(gateway, anna, bert, f"{hosts[0].near_ip}:{port}")

            def carried() -> bool:
                stats = engine.stats()
                return stats.kernel_packets + stats.steered_packets > 300

            await until(carried, f"{option}: {engine.stats()}")
            await anna.hang_up()
            await bert.wait("CALL_CLOSED")
            legs = await gateway.legs(2)
        assert_hears(anna.heard(), 440, 1000)
        assert_hears(bert.heard(), 1000, 440)
        for leg in legs.values():
            assert leg.packets_received > 100
            assert leg.cause == "normal"
