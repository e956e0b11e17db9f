"""The tour: everything it says is measured, and its journal is the same again when replayed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.lab import pbx
from tests.cards import needs_card
from tests.lab.test_lab import gateway

pytestmark = [pytest.mark.interop, needs_card]


@dataclass
class Tour:
    """A tour that was played to its end."""

    place: Path
    shown: str


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    place = tmp_path_factory.mktemp("lab")
    done = gateway(place, "lab", "run", "--leave")
    assert done.returncode == 0, done.stdout + done.stderr
    return Tour(place, done.stdout)


def test_the_tour_is_measured_and_passes(tour: Tour) -> None:
    for claim in (
        "ok  the telephone heard the softphone",
        "ok  the softphone heard the telephone",
        "ok  telephone 2 is lifted and hears the dial tone",
        "ok  the caller heard the telephone",
        "ok  the telephone heard the mobile",
        "ok  the mobile heard the telephone",
        "ok  talk key down: the telephone heard the gate",
        "ok  talk key up: the gate heard the telephone",
        "ok  the telephone heard the radio",
        "ok  the telephone was on the air",
        "ok  the transmitter is released",
        "ok  the hall heard her",
        "ok  the contact lit the lamp",
        "ok  the hall heard the bell",
        "ok  the guard pressed 1: acknowledged, and the panel was told (by fxs/1)",
        "ok  everything stopped: siren, radio, hall, gate",
        *(
            f"ok  the {who} heard the announcement"
            for who in ("guard", "hall", "gate", "platform", "radio")
        ),
        "ok  dora heard the telephone" if not pbx.why_not() else f"left out: {pbx.why_not()}",
    ):
        assert claim in tour.shown
    assert "FAILED" not in tour.shown
    for name in ("on-the-air", "hall-hears-bell", "gate-hears-telephone", "alarm-platform"):
        assert (tour.place / "heard" / f"{name}.wav").stat().st_size > 8000


def test_the_tours_journal_is_the_same_again(tour: Tour, tmp_path: Path) -> None:
    # Digits are hidden in it: what was pressed has to be guessed from what followed.
    journal = tour.place / "data" / "journal"
    written = [json.loads(line) for file in journal.glob("*.jsonl") for line in file.open()]
    actions = [line["action"] for line in written if "action" in line]
    # Every call of the tour, and no other: by its steps, then the alarm's all at once.
    dialled = [action["endpoint"] for action in actions if action["type"] == "Dial"]
    account = [] if pbx.why_not() else ["pyvoip/line"]
    steps = ["fxs/1", "sip/anna", *["fxs/1"] * 4, "page/hall", "page/hall", *account]
    assert dialled[: len(steps)] == steps
    assert dialled[len(steps) :] == ["page/hall", "intercom/all", "radio/north", "fxs/1"]

    done = gateway(tour.place, "replay", str(journal), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["difference"] is None
    assert run["actions"] == len(actions), "everything that was written is done again"
    assert run["unwritten"] == 0, "and nothing else"
    assert run["guessed"] == len("*#1")
    flow = tmp_path / "tour.flow"
    done = gateway(tour.place, "replay", str(journal), "--make-test", str(flow))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-> CloseAlarm endpoint=mqtt/house" in flow.read_text()
