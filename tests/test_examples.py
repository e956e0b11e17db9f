"""The configurations that we ship are ones that the gateway takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import load

HARDWARE = Path(__file__).parents[1] / "hardware"
EXAMPLES = sorted((HARDWARE / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_taken(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text()
    for name in re.findall(r'env = "(\w+)"', text):
        monkeypatch.setenv(name, "secret")
    # Files of a real box stand in /etc/crosspoint; here an empty stand-in will do.
    for file in re.findall(r'"/etc/crosspoint/([^"]+)"', text):
        (tmp_path / file).write_text("stand-in\n")
    text = text.replace("/etc/crosspoint", str(tmp_path))
    copy = tmp_path / path.name
    copy.write_text(text)
    assert load(copy).gateway.name


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
