"""Compare what tests/arm64/driver.c wrote on two machines: ``compare.py NATIVE OTHER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 2
"""Of 32768: compilers contract multiplications and additions differently."""
SAID = ["dtmf 0123456789*#ABCD", "tone 7 in second", "fsk Crosspoint", "rtcp 1 packets"]


def main(native: Path, other: Path) -> int:
    """The number of files that differ."""
    bad = 0
    names = sorted(file.name for file in native.iterdir())
    if names != sorted(file.name for file in other.iterdir()) or len(names) < 10:
        raise SystemExit(f"not the same files: {names}")
    for name in names:
        ours, theirs = (folder.joinpath(name).read_bytes() for folder in (native, other))
        if name.startswith("close-"):
            a, b = (np.frombuffer(raw, "<i2").astype(int) for raw in (ours, theirs))
            if not (same := len(a) == len(b) > 0 and np.any(a)):
                difference = "another length"
            else:
                worst = int(np.abs(a - b).max())
                same, difference = worst <= TOLERANCE, f"{len(a)} samples within {worst}"
        else:
            same, difference = ours == theirs and bool(ours), f"{len(ours)} octets, identical"
            if name == "said":
                words = ours.decode()
                same = same and all(word in words for word in SAID)
        print(f"{name}: {difference if same else f'DIFFERENT ({difference})'}")
        bad += not same
    return bad


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])) and 1)
