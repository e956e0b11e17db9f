"""The .pyi files say what the extensions have."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "gateway" / "_codecs"
MODULES = sorted(path.stem for path in FOLDER.glob("*.pyx"))

# What Cython adds to every module and class.
ALLOWED = r"""
.*\.__test__
.*__reduce_cython__
.*__setstate_cython__
.*__pyx_capi__
"""


def test_every_module_has_its_faces() -> None:
    assert MODULES
    for name in MODULES:
        for suffix in (".pyi", ".pxd", "_impl.c", "_impl.h"):
            assert (FOLDER / f"{name}{suffix}").exists(), name + suffix


def test_stubs_match_the_extensions(tmp_path: Path) -> None:
    allowlist = tmp_path / "allowed"
    allowlist.write_text(ALLOWED)
    command = [sys.executable, "-m", "mypy.stubtest", "--ignore-unused-allowlist"]
    command += ["--ignore-disjoint-bases", "--allowlist", str(allowlist)]
    command += [f"gateway._codecs.{name}" for name in MODULES]
    done = subprocess.run(
        command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
