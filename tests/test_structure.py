"""Who may `cimport` whom: import-linter reads Python only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GATEWAY = Path(__file__).parents[1] / "gateway"
SOURCES = sorted([*GATEWAY.rglob("*.pyx"), *GATEWAY.rglob("*.pxd")])
# Room to the rooms it may take C declarations from; libc, posix and cpython are everybody's.
ALLOWED = {
    "_codecs": {"_codecs"},
    "drivers": {"drivers"},
    "media": {"media", "_codecs"},
    "protocols": {"protocols"},
}
FOREIGN = ("libc", "posix", "cpython", "cython")


def cimported(text: str) -> set[str]:
    """Modules named in ``cimport`` statements."""
    found = re.findall(r"^\s*from\s+([\w.]+)\s+cimport\b", text, re.M)
    found += re.findall(r"^\s*cimport\s+([\w.]+)", text, re.M)
    return {name for name in found if name.split(".")[0] not in FOREIGN}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(GATEWAY)))
def test_compiled_rooms_keep_to_their_neighbours(path: Path) -> None:
    room = path.relative_to(GATEWAY).parts[0]
    for name in cimported(path.read_text()):
        assert name.startswith("gateway."), f"{path.name} cimports {name}: write it in full"
        assert name.split(".")[1] in ALLOWED[room], f"{room} may not cimport {name}"


def test_compiled_code_lives_where_it_may() -> None:
    assert {path.relative_to(GATEWAY).parts[0] for path in SOURCES} == set(ALLOWED)
