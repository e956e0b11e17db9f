"""The control interface itself: who gets in, what it answers, and its own description."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import load
from gateway.control import desk as desks
from gateway.control.desk import OPERATIONS, Desk
from gateway.control.openapi import document
from gateway.control.peers import Peer, may_use, peer_of
from gateway.control.questions import CallsQuery, EventsQuery, ExplainQuery
from gateway.core.events import CallRequested, InputChanged
from gateway.runtime import Gateway
from gateway.testing import PaperEngine
from tests.box import CONFIG, Box

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def _curl(box: Box, path: str, *options: str) -> tuple[int, str]:
    """Status and body, by a client that is not ours."""
    done = subprocess.run(
        ["curl", "-s", "-m", "10", "-w", "\n%{http_code}", "--unix-socket", str(box.socket),
         *options, f"http://box{path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


# Its description


def test_the_description_is_valid_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="not installed")
    validator.validate(document(OPERATIONS, version="1"))


@needs_curl
def test_the_description_agrees_with_what_is_served(talking: Box) -> None:
    status, text = _curl(talking, "/v1/openapi.json")
    described = json.loads(text)
    assert status == 200
    for path, methods in described["paths"].items():
        place = path.replace("{call}", "nothing")
        for method in ("get", "post", "delete"):
            options = ("-X", method.upper(), "-d", "{") if method == "post" else (
                "-X", method.upper(), "-G", "-d", "no_such_parameter=1")  # fmt: skip
            status, _ = _curl(talking, place, *options)
            # 400: it is there and did not like the question; 405: there is no such method.
            assert status == (400 if method in methods else 405), (method, path, status)


@needs_curl
@pytest.mark.parametrize(
    "operation",
    # What is posted, and what streams, is shown by the command line's tests.
    [
        each
        for each in OPERATIONS
        if each.method == "GET" and not (each.lines or each.text or each.octets)
    ],
    ids=lambda operation: operation.path,
)
def test_answers_have_the_described_shape(talking: Box, operation: Any) -> None:
    path = operation.path.replace("{call}", quote("loopback/bob", safe=""))
    query = {
        "explain": "?source=loopback/alice&called=911",
        "stats": f"?since=0&until={time.time()}",
    }.get(operation.name, "")
    status, text = _curl(talking, path + query)
    assert status == 200, text
    msgspec.json.decode(text, type=operation.answer)
    # Strict the other way round too: every field that is described is there.
    first = json.loads(text)
    for item in (first if isinstance(first, list) else [first])[:1]:
        kind = operation.answer
        kind = kind if isinstance(kind, type) else kind.__args__[0]
        assert set(item) == {field.encode_name for field in msgspec.structs.fields(kind)}


# Who gets in


def test_the_kernel_says_who_the_peer_is() -> None:
    near, far = socket.socketpair(socket.AF_UNIX)
    with near, far:
        peer = peer_of(near)
        assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
        assert set(os.getgroups()) | {os.getegid()} == peer.groups


def test_a_socket_without_a_peer_lets_nobody_in() -> None:
    with socket.socket(socket.AF_INET) as other:
        # The kernel's word for nobody is -1: neither root nor us.
        assert not may_use(peer_of(other), None)


@pytest.mark.parametrize(
    ("peer", "group", "allowed"),
    [
        (Peer(1, 0, frozenset()), None, True),
        (Peer(1, os.geteuid(), frozenset()), None, True),
        (Peer(1, 4242, frozenset((7, 8))), 8, True),
        (Peer(1, 4242, frozenset((7, 8))), 9, False),
        (Peer(1, 4242, frozenset((0,))), None, False),
    ],
)
def test_who_may(peer: Peer, group: int | None, allowed: bool) -> None:
    assert may_use(peer, group) is allowed


def test_permissions_of_the_socket(talking: Box) -> None:
    assert talking.socket.stat().st_mode & 0o777 == 0o660


# What is wrong with a request is said


@needs_curl
def test_mistakes_are_named(talking: Box) -> None:
    for path, options, status, words in (
        ("/v1/calls?enpoint=x", (), 400, "did you mean endpoint?"),
        ("/v1/stats?since=x&until=1", (), 400, "Expected `float`"),
        ("/v1/endpoints?condition=good", (), 400, "Invalid enum value"),
        ("/v1/dial", ("-d", '{"origin": 5}'), 400, "$.origin"),
        ("/v1/dial", ("-d", '{"origin":"a/b","target":"c/d","x":1}'), 400, "unknown field `x`"),
        ("/v1/hangup", ("-d", '{"call":"a","leg":"b"}'), 400, "either a call or a leg"),
        ("/v1/explain?source=loopback/alice&alarm=x&severity=bad", (), 400, "none of"),
        ("/v1/calls/zz", (), 404, "there is no call zz now"),
        ("/v2/calls", (), 404, "Not Found"),
    ):
        found, text = _curl(talking, path, *options)
        assert found == status, (path, text)
        assert words in text
        problem = json.loads(text)
        assert set(problem) == {"title", "status", "detail", "remedy"}
        assert problem["status"] == status


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([each for each in OPERATIONS if each.name not in ("stop", "safe_state")]),
    st.binary(max_size=200) | st.from_regex(rb'\{"[a-z]{1,8}": ?[0-9"\[{]{1,4}', fullmatch=True),
    st.text(max_size=20),
)
def test_garbage_is_refused_and_nothing_falls(
    talking: Box, operation: Any, body: bytes, text: str
) -> None:
    name = quote(text, safe="") or "x"
    path = operation.path.replace("{call}", name)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(talking.socket))
        head = f"{operation.method} {path}?{name}=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    assert re.match(rb"HTTP/1.1 40[04] ", answer), answer


# In-process: what would be slow or random to provoke from outside


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0)


@asynccontextmanager
async def _desk(tmp_path: Path, config: str) -> AsyncIterator[Desk]:
    file = tmp_path / "gateway.toml"
    file.write_text(config)
    gateway = Gateway(load(file), engine=PaperEngine())
    running = asyncio.create_task(gateway.run())
    try:
        await _until(lambda: all(host.up for host in gateway.hosts.values()))
        yield Desk(gateway)
    finally:
        gateway.stop()
        gateway.stop()
        await running


async def test_a_reader_that_is_too_slow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "FEED", 100)
    config = CONFIG.format(home=tmp_path, control="", records="", carol="")
    async with _desk(tmp_path, config) as desk:
        lines = desk.events(EventsQuery(type="InputChanged"))
        first = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        for n in range(1000):
            desk.gateway.emit(InputChanged(endpoint="loopback/bob", input="x", value=n))
        line = await first
        values: list[float] = []
        dropped = 0
        while not values or values[-1] != 999:
            found = json.loads(line)
            if found["type"] == "crosspoint.control.Dropped":
                dropped = found["data"]["dropped"]
            else:
                values.append(found["data"]["value"])
            if not values or values[-1] != 999:
                line = await anext(lines)
        # The oldest went, the newest are there, and none is missing without a word.
        assert dropped > 0
        assert values == sorted(values)
        assert len(values) + dropped == 1000
        await lines.aclose()
        assert not desk.gateway.feeds


async def test_500_calls_are_shown_within_50_ms(tmp_path: Path) -> None:
    ports = "".join(f"[adapters.loopback.ports.p{n}]\n" for n in range(1000))
    config = f'[gateway]\ndata_dir = "{tmp_path}/data"\n[media]\nlocal_ip = "127.0.0.1"\n{ports}'
    async with _desk(tmp_path, config) as desk:
        gateway = desk.gateway
        for n in range(0, 1000, 2):
            gateway.emit(
                CallRequested(
                    origin=f"loopback/p{n}", target=f"loopback/p{n + 1}", trace=f"trace-{n}"
                )
            )
        calls = gateway.switchboard.calls
        await _until(lambda: sum(bool(call.answered_at) for call in calls.values()) == 500)
        took = []
        for _ in range(5):
            begin = time.thread_time()
            encoded = msgspec.json.encode(await desk.calls(CallsQuery()))
            took.append(time.thread_time() - begin)
        assert len(json.loads(encoded)) == 500
        assert sorted(took)[2] < 0.05, took


async def test_explain_says_who_makes_room_and_who_waits(tmp_path: Path) -> None:
    ports = "".join(f"[adapters.loopback.ports.{name}]\n" for name in ("a", "b", "c", "panel"))
    routes = "".join(
        f'[[routes]]\nname = "{name}"\n{event}\npriority = "{priority}"\ntargets = ["loopback/b"]\n'
        for name, event, priority in (
            ("fire", 'on = "alarm"\nkind = ["fire"]', "emergency"),
            ("damp", 'on = "alarm"\nkind = ["damp"]', "routine"),
            ("call", 'called = "1"', "routine"),
        )
    )
    config = f'[gateway]\ndata_dir = "{tmp_path}/data"\n{ports}{routes}'
    async with _desk(tmp_path, config) as desk:

        def asked(**question: str) -> tuple[bool, str]:
            (target,) = desk.explain(ExplainQuery(**question)).targets
            return target.usable, target.reason

        assert asked(source="loopback/c", called="1") == (True, "")
        desk.gateway.emit(CallRequested(origin="loopback/a", target="loopback/b", trace="t"))
        calls = desk.gateway.switchboard.calls
        await _until(lambda: any(call.answered_at for call in calls.values()))
        busy = "loopback/b is in use"
        assert asked(source="loopback/c", called="1") == (False, busy)
        damp = asked(source="loopback/panel", alarm="damp")
        assert damp == (True, f"{busy}: called when it is free")
        fire = asked(source="loopback/panel", alarm="fire")
        assert fire == (True, f"{busy}: a lower call makes room")


async def test_digits_are_not_shown_unless_configured(tmp_path: Path) -> None:
    from gateway.core.events import DigitPressed, LegOffered

    config = CONFIG.format(home=tmp_path, control="", records="", carol="")
    async with _desk(tmp_path, config) as desk:
        lines = desk.events(EventsQuery(type="DigitPressed"))
        first = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        desk.gateway.emit(
            LegOffered(leg="loopback/bob#9", endpoint="loopback/bob", trace="t", demanded_at=0.0)
        )
        desk.gateway.emit(DigitPressed(leg="loopback/bob#9", digit="7", via="inband"))
        assert json.loads(await first)["data"]["digit"] == "?"
        await lines.aclose()
