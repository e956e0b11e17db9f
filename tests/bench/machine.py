"""What machine a figure is of, and what processes cost, from /proc (Linux)."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """Date, commit, processor and how busy the machine is with other things (load of 1 min)."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cpu": _model(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def keep(name: str, figures: dict[str, Any]) -> None:
    """Append figures to ``history/<name>.jsonl``."""
    history = Path(__file__).parent / "history" / f"{name}.jsonl"
    history.parent.mkdir(exist_ok=True)
    with history.open("a") as file:
        file.write(json.dumps(figures) + "\n")


class Cost(NamedTuple):
    """CPU seconds of a process, in all and by thread; seconds it was ready but had no core."""

    cpu_s: float
    threads: dict[str, float]
    waited_s: float


def cost(pid: int) -> Cost:
    """What a process and its threads have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    threads: dict[str, float] = {}
    waited = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            ran, ready = (task / "schedstat").read_text().split()[:2]
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        if name != "media":
            name = "loop" if task.name == str(pid) else "disk"
        threads[name] = threads.get(name, 0.0) + int(ran) / 1e9
        waited += int(ready) / 1e9
    return Cost((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), threads, waited)


def memory_kib(pid: int) -> int:
    """Proportional set size: what the process alone holds, and its share of the rest."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
