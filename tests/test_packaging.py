"""The source distribution: whole, and refused where it is not. `make dist` builds and runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_NATIVE = (".pyx", ".pxd", ".pyi", ".c", ".h")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what the distribution is made of."""
    copy = tmp_path_factory.mktemp("tree")
    skip = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for folder in ("gateway", "docs", "hardware"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    return copy


def _setup(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=tree, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_sdist_holds_everything(tree: Path, tmp_path: Path) -> None:
    # From a tree of its own: what setuptools leaves behind would be taken for sources.
    copy = shutil.copytree(tree, tmp_path / "tree")
    done = _setup(copy, "sdist", "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        str(file.relative_to(tree))
        for folder in ("gateway", "docs", "hardware")
        for file in (tree / folder).rglob("*")
        if file.is_file()
    }
    assert sum(name.endswith(_NATIVE) for name in wanted) > 40
    assert wanted - held == set()
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml"} <= held
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


@pytest.mark.parametrize(
    "gone",
    [
        "gateway/_codecs/g722_impl.c", "gateway/_codecs/g722_lanes.h", "gateway/_codecs/sine.h",
        "gateway/_codecs/rtp_impl.h", "gateway/media/engine_jitter.c", "gateway/media/_engine.pyx",
    ],
)  # fmt: skip
def test_an_incomplete_tree_is_refused(tree: Path, gone: str) -> None:
    kept = tree / gone
    aside = kept.rename(tree / "aside")
    try:
        done = _setup(tree, "--version")
    finally:
        aside.rename(kept)
    assert done.returncode != 0
    assert "incomplete" in done.stderr
    named = Path(gone).name if not gone.endswith(".pyx") else "gateway/media"
    assert named in done.stderr
