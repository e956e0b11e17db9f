"""What is understood without click is what click makes of it."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import COMMANDS, Settings, declaration
from gateway.cli.brief import Command
from gateway.cli.group import gateway
from tests.box import Box

DECLARED = {name: declaration(name) for name in COMMANDS}
BRIEF = {name: found for name, found in DECLARED.items() if isinstance(found, Command)}
WORDS = (
    "a", "fxs/1", "last", "7", "x y", "", "-", "--", "-5", "--json", "-f", "-n", "--follow",
    "--no-follow", "--follow=1", "--at", "--at=2h", "--html", "--legs", "--endpoint", "-ofile",
    "--endpoint=fxs/*", "--by=route", "--down", "--calling", "--calling=", "--trace", "-o",
    "--output", "--dry-run", "--now", "--since=1d", "--limit=3", "--unknown", "--help", "-h",
    "--watch", "--every", "--strict", "-a", "ack", "--followed", "--fol", "--kinds=x",
    "--variant=offered", "--last=5m", "--priority", "--kept", "--tone", "--loop",
)  # fmt: skip


def by_click(command: Command, words: list[str]) -> tuple[dict[str, object], bool]:
    settings = Settings(None, None, False)
    context = command.made().make_context("test", list(words), obj=settings)
    return context.params, settings.as_json


@given(st.sampled_from(sorted(BRIEF)), st.lists(st.sampled_from(WORDS), max_size=5))
def test_click_agrees(name: str, words: list[str]) -> None:
    settings = Settings(None, None, False)
    found = BRIEF[name].understood(settings, words)
    if found is not None:
        assert (found, settings.as_json) == by_click(BRIEF[name], words)


@pytest.mark.parametrize(
    "line",
    [
        "status", "status --json", "calls", "calls fxs/* --watch", "call 12345678", "alarms",
        "alarms --active --endpoint=mqtt/panel", "endpoints --down", "explain a/b 911 --calling 7",
        "trace last", "trace next -f", "diag last --json", "records --legs --endpoint fxs/1",
        "events -n", "events --type Leg* --no-follow", "capture next -f", "hangup fxs/1#18",
        "reload --dry-run", "dial a/b c/d --wait", "stats --by route", "safe-state", "stop --now",
    ],
)  # fmt: skip
def test_what_is_asked_every_day_needs_no_click(line: str) -> None:
    name, *words = line.split()
    settings = Settings(None, None, False)
    found = BRIEF[name].understood(settings, words)
    assert found is not None
    assert (found, settings.as_json) == by_click(BRIEF[name], words)


@pytest.mark.parametrize(
    "line",
    [
        "trace", "trace a b", "trace last --html", "status --help", "records --since 2h",
        "explain fxs/1 --calling", "explain fxs/1 --calling -5", "alarms ack fxs/1", "calls -- -x",
        "calls --every 2", "stats --interval week", "status --jso",
    ],
)  # fmt: skip
def test_the_rest_is_left_to_click(line: str) -> None:
    name, *words = line.split()
    assert BRIEF[name].understood(Settings(None, None, False), words) is None


def test_all_commands_are_made_for_click() -> None:
    with click.Context(gateway) as context:
        for name in gateway.list_commands(context):
            command = gateway.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.help


BY_CLICK = """
import sys
import gateway.cli
gateway.cli._briefly = lambda words: False
gateway.cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "line",
    [
        "endpoints", "endpoints nothing/*", "calls", "alarms --json", "alarms", "diag nobody",
        "trace nobody --json", "explain loopback/nobody 102", "explain loopback/alice --input x=y",
        "records", "trace last --html x --follow", "hangup nobody", "events --type Leg* -n --json",
    ],
)  # fmt: skip
def test_both_ways_say_the_same(talking: Box, line: str) -> None:
    words = ["--socket", str(talking.socket), *line.split()]
    brief, whole = (
        subprocess.run([sys.executable, *tool, *words], capture_output=True, text=True, check=False)
        for tool in (["-m", "gateway"], ["-c", BY_CLICK])
    )
    age = re.compile(r"\d:\d\d\b|\d+\.\d+")
    assert brief.returncode == whole.returncode
    assert age.sub("", brief.stdout) == age.sub("", whole.stdout)
    assert brief.stderr == whole.stderr
