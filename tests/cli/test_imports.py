"""Commands start quickly: what takes long to import is not imported before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.box import Box

HEAVY = (
    "aiohttp", "asyncio", "curses", "email", "http.client", "ssl", "tempfile",
    "gateway._codecs", "gateway.config", "gateway.media", "gateway.records", "gateway.runtime",
    "msgspec", "numpy", "paho", "prometheus_client", "pymodbus", "sqlalchemy", "structlog",
)  # fmt: skip
SCRIPT = """
import json, sys
from gateway.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(json.dumps(sorted(sys.modules)))
"""


def _imported(*command: str, **environment: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command],
        capture_output=True, text=True, check=True, timeout=60, env=environment or None,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "command",
    [
        "--help", "status", "adapters", "endpoints", "calls", "call x", "alarms",
        "explain loopback/alice 102", "doctor --help", "dial a/b c/d", "hangup x", "safe-state",
        "stop", "reload --dry-run", "reload --kept", "events --last 3", "diag last", "trace --help",
        "capture last -o x", "records", "stats", "test a/b",
    ],
)  # fmt: skip
def test_a_simple_command_imports_nothing_heavy(idle: Box, command: str) -> None:
    # No socket and no configuration: what has to be asked of nobody is not prepared for either.
    before = ["--socket", str(idle.home / "none"), "--config", str(idle.home / "none.toml")]
    found = _imported(*before, *command.split())
    allowed = {"reload --kept": {"msgspec"}, "adapters": {"email", "tempfile"}}.get(command, set())
    assert found & set(HEAVY) <= allowed
    assert len(found) < 260


def test_answers_of_a_gateway_import_nothing_heavy(box: Box) -> None:
    for command in (
        ("status",), ("calls",), ("endpoints",), ("explain", "loopback/alice", "102"), ("records",),
        ("trace", "last"),
    ):  # fmt: skip
        found = _imported("--socket", str(box.socket), *command)
        assert not found & set(HEAVY), command


SLOW = {
    "collections",
    "contextlib",
    "enum",
    "functools",
    "json",
    "re",
    "shutil",
    "tomllib",
    "typing",
}
LISTED = """
import sys
from gateway.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules)
"""


@pytest.mark.parametrize(
    "command",
    ["status", "calls", "endpoints", "explain loopback/alice 102", "diag last", "trace last"],
)
def test_what_a_technician_asks_loads_hardly_more_than_the_interpreter(
    box: Box, command: str
) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob")
    lists = [
        subprocess.run(
            [sys.executable, "-c", *arguments], env=box.environment | {"PYTHONPATH": ""},
            stdout=subprocess.PIPE, text=True, check=False, timeout=60,
        ).stdout.splitlines()[-1].split()
        for arguments in (["import sys; print(*sys.modules)"], [LISTED, *command.split()])
    ]  # fmt: skip
    bare, whole = map(set, lists)
    assert "gateway.client" in whole
    # An editable installation may load some of them for itself.
    assert not (whole - bare) & SLOW
