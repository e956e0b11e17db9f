"""All benchmarks, one after the other: ``python -m tests.bench [NAME ...]``."""

from __future__ import annotations

import platform
import subprocess
import sys

BENCHMARKS = ("codecs", "relay", "crowd", "sip_calls", "technician")
BY_NAME = ("kernel",)
"""Need rights that not everybody has."""


def main() -> None:
    """Run the named benchmarks, or all; the first line says what machine the figures are of."""
    wanted = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in wanted if name not in (*BENCHMARKS, *BY_NAME)]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}: {', '.join((*BENCHMARKS, *BY_NAME))}")
    print(f"{platform.platform()}, Python {platform.python_version()}", flush=True)
    failed = 0
    for name in wanted:
        print(f"\n== {name}: python -m tests.bench.{name}", flush=True)
        failed += (
            subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode
            != 0
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
