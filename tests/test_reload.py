"""Another configuration for a running gateway: what changes changes, the rest goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.changes import Change, compare
from gateway.config import Configuration, GatewaySection, load
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import AlarmRaised, LegAnswered, LegEnded, LegOffered, Severity
from gateway.core.routes import Route
from gateway.errors import ConfigError, DeviceError
from gateway.kept import KEEP, Kept
from gateway.reload import Reloader
from tests.box import Box
from tests.runtime_rig import TO_B, Obedient, Rig, section


class Other(Obedient):
    """A second adapter, whose configuration has something to change."""

    kind = "other"
    places = ()
    broken: str = ""
    """Why none of them comes up."""

    class Config(msgspec.Struct, frozen=True):
        port: int = 1
        password: str = ""

    def endpoints(self) -> Any:
        for place in Obedient.places:
            yield msgspec.structs.replace(place, id=place.id.replace("far/", "other/"))

    async def run(self) -> None:
        if self.config.port == 13:
            raise DeviceError("port 13 is taken")
        await super().run()


def _two(port: int = 1, password: str = "") -> dict[str, Any]:
    config = Other.Config(port=port, password=password)
    return {"far": section("far", Obedient), "other": section("other", Other, config)}


def _rig(directory: Path) -> tuple[Rig, Reloader]:
    rig = Rig(directory, TO_B, adapters=_two())
    return rig, Reloader(rig.gateway)


def _with(rig: Rig, **fields: Any) -> Configuration:
    return msgspec.structs.replace(rig.gateway.configuration, **fields)


async def test_a_changed_adapter_starts_anew_and_other_calls_go_on(tmp_path: Path) -> None:
    rig, reloader = _rig(tmp_path)
    async with rig.running():
        gateway = rig.gateway
        await rig.until(lambda: gateway.hosts["other"].up)
        caller = rig.far.offer()
        dialled = (await rig.see(Dial)).leg
        rig.far.host.emit(LegAnswered(leg=dialled))
        await rig.see(LegAnswered, leg=caller)
        old: Any = gateway.hosts["other"].adapter
        alarm = AlarmRaised(
            endpoint="other/panel", alarm="x", kind="fire", severity=Severity.MAJOR,
            trace="t", raised_at=gateway.now(),
        )  # fmt: skip
        old.host.emit(alarm)
        await rig.until(lambda: gateway.switchboard.alarms)

        outcome = await reloader.apply(_with(rig, adapters=_two(port=2, password="s3cret")))
        assert outcome.applied
        assert outcome.touched == []
        (change,) = outcome.changes
        assert change == Change(
            what="adapter", name="other", how="changed",
            details=["port: 1 -> 2", "password: none -> ***"],
        )  # fmt: skip
        fresh: Any = gateway.hosts["other"].adapter
        assert fresh is not old
        assert (old.safe, fresh.config.port) == (1, 2)
        await rig.until(lambda: gateway.places["other/a"][0].condition is Condition.UP)
        assert {caller, dialled} <= set(gateway.legs), "the call has nothing to do with it"
        assert gateway.switchboard.alarms, "an alarm outlives the adapter that told of it"
        assert rig.bodies(LegEnded) == []
        await rig.until(lambda: fresh.host.up)
        await rig.see(LegOffered, leg=fresh.offer("other/a", "55"))
    assert gateway.generation == 2


async def test_calls_that_would_end_are_named_and_kept_until_it_has_to_be_now(
    tmp_path: Path,
) -> None:
    rig, reloader = _rig(tmp_path)
    async with rig.running():
        gateway = rig.gateway
        await rig.until(lambda: gateway.hosts["other"].up)
        other: Any = gateway.hosts["other"].adapter
        caller = other.offer("other/a", "77")
        await rig.until(lambda: gateway.switchboard.calls)
        wanted = _with(rig, adapters=_two(port=2))
        (touched,) = reloader.preview(wanted).touched
        assert touched.legs == [caller]
        with pytest.raises(ConfigError, match=r"would end 1 calls: other/a#1"):
            await reloader.apply(wanted)
        assert gateway.hosts["other"].adapter is other
        assert (await reloader.apply(wanted, now=True)).applied
        ended = await rig.see(LegEnded, leg=caller)
        assert (ended.cause, ended.detail) == (
            Cause.SHUTDOWN, "its configuration is being changed",
        )  # fmt: skip


async def test_what_does_not_come_up_is_undone(tmp_path: Path) -> None:
    rig, reloader = _rig(tmp_path)
    async with rig.running():
        gateway = rig.gateway
        await rig.until(lambda: gateway.hosts["other"].up)
        routes = (Route(name="new", called="9", targets=("far/b",)),)
        before = gateway.configuration
        outcome = await reloader.apply(_with(rig, adapters=_two(port=13), routes=routes))
        assert not outcome.applied
        assert outcome.undone == "other: port 13 is taken"
        assert gateway.configuration is before
        assert [route.name for route in gateway.switchboard.table.routes] == ["to b"]
        restored: Any = gateway.hosts["other"]
        assert restored.up
        assert restored.adapter.config.port == 1
        await rig.until(lambda: gateway.places["other/a"][0].condition is Condition.UP)
        assert gateway.generation == 1
        assert gateway.counters["reloads_undone"] == 1
        assert any("port 13 is taken" in line for line in rig.log.of("error"))


async def test_an_adapter_that_was_down_before_may_stay_down(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TO_B, adapters=_two(port=13))
    reloader = Reloader(rig.gateway)
    async with rig.running():
        outcome = await reloader.apply(_with(rig, adapters=_two(port=13, password="x")))
        assert outcome.applied
        assert outcome.still_down == ["other"]
        assert (await reloader.apply(_with(rig, adapters=_two(port=2)))).still_down == []
        await rig.until(lambda: rig.gateway.places["other/a"][0].condition is Condition.UP)


async def test_adapters_come_and_go(tmp_path: Path) -> None:
    rig, reloader = _rig(tmp_path)
    async with rig.running():
        gateway = rig.gateway
        only = {"far": gateway.configuration.adapters["far"]}
        assert (await reloader.apply(_with(rig, adapters=only))).applied
        await rig.until(lambda: "other/a" not in gateway.switchboard.endpoints)
        assert list(gateway.hosts) == ["far"]
        assert (await reloader.apply(_with(rig, adapters=_two(port=3)))).applied
        await rig.until(lambda: "other/a" in gateway.switchboard.endpoints)
        assert list(gateway.hosts) == ["far", "other"]


async def test_what_needs_a_restart_changes_nothing(tmp_path: Path) -> None:
    rig, reloader = _rig(tmp_path)
    other = _with(rig, routes=(), gateway=GatewaySection(name="other"))
    with pytest.raises(ConfigError, match=r"\[gateway\] changed"):
        await reloader.apply(other)
    assert rig.gateway.generation == 1
    assert [route.name for route in rig.gateway.switchboard.table.routes] == ["to b"]


async def test_sighup(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    text = f'[gateway]\nname = "box"\ndata_dir = "{tmp_path}"\ndrain_s = 1\n[adapters.loopback]\n'
    route = '[[routes]]\nname = "r"\ncalled = "1"\ntargets = ["loopback/echo"]\n'
    file.write_text(text)
    configuration = load(file)
    rig = Rig(tmp_path, gateway=configuration.gateway, adapters=configuration.adapters)
    async with rig.running():
        Reloader(rig.gateway).handle_signal()
        file.write_text("[gateway")
        os.kill(os.getpid(), signal.SIGHUP)
        await rig.until(lambda: rig.gateway.counters["reloads_refused"])
        assert any("c.toml:1: not TOML" in line for line in rig.log.of("error"))
        file.write_text(text + route)
        os.kill(os.getpid(), signal.SIGHUP)
        await rig.until(lambda: rig.gateway.generation == 2)
        assert rig.gateway.switchboard.table.routes[0].name == "r"


def test_routes_are_compared_by_name_and_by_order(tmp_path: Path) -> None:
    def of(*routes: Route) -> Configuration:
        return Configuration(file=tmp_path / "c.toml", routes=routes)

    a, b, c = (Route(name=name, called=name, targets=("x/y",)) for name in "abc")
    found = compare(of(a, b, c), of(c, a, msgspec.structs.replace(b, called="8")))
    assert [(change.name, change.how) for change in found] == [("b", "changed"), ("c", "moved")]
    assert found[0].details == ['called: "b" -> "8"']
    assert found[1].details == ["now the first"]
    assert [(x.name, x.how) for x in compare(of(a), of(b))] == [("a", "removed"), ("b", "added")]
    assert compare(of(a, b), of(a, b)) == []


def test_the_last_ten_are_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    assert kept.all() == []
    for n in range(KEEP + 3):
        kept.keep(f"n = {n}\n")
        kept.keep(f"n = {n}\n")
    found = kept.all()
    assert [each.number for each in found] == list(range(4, KEEP + 4))
    assert [each.current for each in found] == [False] * (KEEP - 1) + [True]
    assert Path(found[-1].path).read_text() == f"n = {KEEP + 2}\n"
    assert Path(found[-1].path).stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be written"):
        Kept(tmp_path / "file" / "kept").keep("x = 1\n")


SIP = """
[adapters.sip]
listen = ["udp:127.0.0.1:{port}"]
"""


def _free() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    """Whether a foreign program's OPTIONS is answered there."""
    command = ["sipsak", "-s", f"sip:ping@127.0.0.1:{port}", "-D", "2"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=90)
    return done.returncode == 0


@pytest.mark.interop
def test_the_port_of_the_telephones_changes_beside_a_call() -> None:
    first, second = _free(), _free()
    box = Box(carol='calls = "900"\nevery_s = 3600.0')
    try:
        plain = box.config.read_text()
        box.config.write_text(plain + SIP.format(port=first))
        box.start()
        box.wait_for_call()
        (call,) = box.json("calls")
        assert _answers(first)
        box.config.write_text(plain + SIP.format(port=second))
        shown = box.ok("reload", "--dry-run")
        assert "~ adapter sip changed" in shown
        assert f"{first}" in shown
        assert f"{second}" in shown
        assert box.ok("reload").endswith("configuration 2 since the start\n")
        assert _answers(second)
        assert not _answers(first)
        # A port that is taken: nobody can come up there, and the one before is back.
        box.config.write_text(plain + SIP.format(port=first).replace("127.0.0.1", "192.0.2.1"))
        done = box.run("reload")
        assert done.returncode == 1
        assert "it did not work and was undone: sip: " in done.stderr
        assert _answers(second)
        (still,) = box.json("calls")
        assert still["id"] == call["id"], "the call has gone through all of it"
        # And back to the first one.
        numbers = [each["number"] for each in box.json("reload", "--kept")]
        assert numbers == [1, 2]
        box.ok("reload", "--restore", "1")
        assert box.config.read_text() == plain + SIP.format(port=first)
        assert _answers(first)
    finally:
        box.close()
