"""Shell completion: the scripts, and what they complete."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.box import Box


def _complete(box: Box, *words: str) -> list[str]:
    done = box.run(
        _GATEWAY_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(("gateway", *words)),
        COMP_CWORD=str(len(words)),
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_and_options(idle: Box) -> None:
    assert _complete(idle, "sta") == ["status", "stats"]
    assert "--counters" in _complete(idle, "endpoints", "--")


def test_ids_come_from_the_gateway(talking: Box) -> None:
    assert _complete(talking, "dial", "loopback/al") == ["loopback/alice"]
    call = talking.json("calls")[0]["id"][-8:]
    assert call in _complete(talking, "call", "")
    assert "loopback/bob#1" in _complete(talking, "hangup", "loop")
    assert _complete(talking, "safe-state", "") == ["loopback"]


def test_without_a_gateway_there_is_nothing_to_offer_and_no_noise(idle: Box) -> None:
    assert _complete(idle, "call", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(idle: Box, shell: str) -> None:
    script = idle.ok("completion", shell)
    assert f"_GATEWAY_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", script], check=True, timeout=90)
