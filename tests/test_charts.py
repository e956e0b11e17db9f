"""Charts say what the history says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.bench import chart


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chart, "HISTORY", tmp_path)
    return tmp_path


def write(file: Path, *rows: dict[str, object]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_nothing_is_drawn_of_nothing(folder: Path) -> None:
    assert {draw() for draw in chart.CHARTS.values()} == {None}


def test_only_like_is_compared_with_like(folder: Path) -> None:
    line = {"at": "2026-01-01", "commit": "a", "case": "relay", "calls": 100, "ratio": 0.5,
            "against": "rtpengine"}  # fmt: skip
    others = {**line, "commit": "c", "threads": 2}, {**line, "commit": "d", "against": "own relay"}
    write(folder / "relay.jsonl", line, {**line, "commit": "b-dirty", "ratio": 0.25}, *others)
    svg = chart.relay()
    assert svg is not None
    words = [each.text for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"a", "b", "relay, 100 calls"} <= set(words)
    assert not {"c", "d"} & set(words)
    circles = list(ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle"))
    height = chart.HEIGHT - chart.TOP - chart.BOTTOM
    ups = [chart.HEIGHT - chart.BOTTOM - float(each.attrib["cy"]) for each in circles]
    assert ups == pytest.approx([height / 2, height / 4], abs=0.1)


def test_only_clean_crowds_are_drawn(folder: Path) -> None:
    line = {"at": "2026-01-01", "case": "relay", "calls": 500, "steer": False, "core_percent": 25.0,
            "broken": [], "generator_broken": []}  # fmt: skip
    lost = {**line, "calls": 1000, "broken": ["all came"]}
    late = {**line, "calls": 1500, "generator_broken": ["late"]}
    again = {**line, "at": "2026-01-02", "core_percent": 50.0}
    write(folder / "crowd.jsonl", line, lost, late, again, {**line, "steer": True})
    svg = chart.crowd()
    assert svg is not None
    words = [each.text for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"relay", "relay, shared", "500"} <= set(words)
    assert not {"1000", "1500"} & set(words)
    circles = list(ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle"))
    height = chart.HEIGHT - chart.TOP - chart.BOTTOM
    ups = [chart.HEIGHT - chart.BOTTOM - float(each.attrib["cy"]) for each in circles]
    assert ups == pytest.approx([height / 2, height / 4], abs=0.1)


def test_a_kernel_is_shown_with_its_best_instruction_set(folder: Path) -> None:
    write(folder / "codecs.jsonl", {
        "at": "2026-01-01", "commit": "a",
        "ns": {"g722-encode-avx2": 500.0, "g722-encode-avx512": 400.0, "spandsp:g722-encode": 8000},
    })  # fmt: skip
    svg = chart.codecs()
    assert svg is not None
    assert "g722-encode-avx512 / spandsp" in svg
    assert "20.0" in svg
