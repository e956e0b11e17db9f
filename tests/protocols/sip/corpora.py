"""Where the RFC message corpora are; tests that need them are skipped without."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CORPORA = Path(
    os.environ.get("CROSSPOINT_CORPORA", Path(__file__).resolve().parents[4] / "shared" / "corpora")
)


def expected(name: str) -> dict[str, dict[str, Any]]:
    """What RFC 4475 or RFC 5118 wants of each message; empty without the corpus."""
    path = CORPORA / name / "expected.json"
    return json.loads(path.read_text()) if path.exists() else {}


def octets(corpus: str, name: str) -> bytes:
    path = CORPORA / (f"rfc4475/{name}.dat" if corpus == "rfc4475" else f"rfc5118/wire/{name}")
    return path.read_bytes()
