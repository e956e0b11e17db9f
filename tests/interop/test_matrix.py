"""Every network reaches every other: the matrix is played, and the page says what came of it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from tests.adapters.page_stand import own_network
from tests.cards import needs_card
from tests.interop.matrix import played
from tests.interop.matrix_page import OK, PAGE, Matrix, plan, render
from tests.interop.peers import need


def table_rows(text: str) -> list[tuple[str, ...]]:
    """The cells of all tables, without the lines that only separate."""
    rows = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [tuple(cell.strip(" *") for cell in row.strip("|").split("|")) for row in rows]


def test_the_page_has_every_cell_and_every_cell_says_something() -> None:
    empty = Matrix(plan())
    for cell in empty.cells:
        cell.says = OK
    wanted, found = table_rows(render(empty)), table_rows(PAGE.read_text())
    assert [row[0] for row in found] == [row[0] for row in wanted]
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for row in found:
        assert all(row[1:]), row
    said = [cell for row in found for cell in row[1:] if cell.startswith((OK, "not done"))]
    assert len(said) == len(empty.cells)
    done = sum(cell.startswith(OK) for cell in said)
    assert f"{done} of {len(said)} cells are shown." in PAGE.read_text()


def test_a_cell_that_was_not_played_is_not_shown() -> None:
    untouched = Matrix(plan())
    assert not any(cell.ok for cell in untouched.cells)
    assert f"0 of {len(untouched.cells)} cells are shown." in render(untouched)


@pytest.mark.interop
@pytest.mark.alone
@needs_card
async def test_every_network_reaches_every_other() -> None:
    need("baresip", "kamailio", "mosquitto", "mosquitto_pub", "mosquitto_sub", "sox", "dahdi_cfg")
    pytest.importorskip("pyVoIP")
    # The path of a control socket has room for 107 octets.
    with tempfile.TemporaryDirectory(prefix="matrix-") as home, own_network():
        matrix = await played(Path(home))
    assert not matrix.missing, "\n".join(map(str, matrix.missing))
    assert matrix.records == OK
    # The page is a result of this code, and holds what this run showed.
    assert _without_layout(render(matrix)) == _without_layout(PAGE.read_text())


def _without_layout(text: str) -> str:
    return re.sub(r"\s+", " ", text)
