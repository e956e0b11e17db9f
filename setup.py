"""Compile every ``gateway/**/*.pyx``; everything else lives in pyproject.toml."""

import os
import re
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent


def incomplete() -> list[str]:
    """Files that another one needs and that are not there.

    A missing ``.c`` would link all the same, and be noticed by whoever imports it on the box.
    """
    missing = [] if any(ROOT.glob("gateway/_codecs/*.pyx")) else ["gateway/_codecs/*.pyx"]
    engine_pyx = "gateway/media/_engine.pyx"
    missing += [] if (ROOT / engine_pyx).exists() else [engine_pyx]
    for path in sorted(
        p for kind in ("pyx", "pxd", "c", "h") for p in ROOT.glob(f"gateway/**/*.{kind}")
    ):
        named = re.findall(r'^\s*(?:cdef extern from|#include) "([^"<]+)"', path.read_text(), re.M)
        for header in named:
            homes = [path.parent, ROOT / "gateway/_codecs", ROOT / "gateway/media"]
            found = next((home / header for home in homes if (home / header).exists()), None)
            if found is None:
                missing.append(f"{header} (for {path.relative_to(ROOT)})")
            elif header.endswith("_impl.h") and not found.with_suffix(".c").exists():
                missing.append(str(found.with_suffix(".c").relative_to(ROOT)))
    # Each part of the engine is named by a comment in its header, where its functions are declared.
    engine = ROOT / "gateway/media/engine_impl.h"
    if engine.exists():
        parts = re.findall(r"^/\* (engine_\w+\.c)\b", engine.read_text(), re.M)
        missing += [part for part in parts if not engine.with_name(part).exists()]
    return sorted(set(missing))


def extensions() -> list[Extension]:
    """One extension per ``.pyx``; a ``*_impl.c`` of the same stem beside it is linked in."""
    sources = sorted(p.relative_to(ROOT) for p in ROOT.glob("gateway/**/*.pyx"))
    if missing := incomplete():
        sys.exit(f"setup.py: the source tree or sdist is incomplete: no {', '.join(missing)}")
    sanitize = os.environ.get("CROSSPOINT_SANITIZE", "")
    flags = ["-O3", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wno-unused-function"]
    if sanitize:
        flags = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitize}"]
    found = []
    for pyx in sources:
        impl = pyx.with_name(pyx.stem.lstrip("_") + "_impl.c")
        c_files = [str(impl)] if (ROOT / impl).exists() else []
        depends = [str(h.relative_to(ROOT)) for h in (ROOT / pyx).parent.glob("*.[hc]")]
        if pyx.stem == "_engine":  # the real-time thread calls the kernels as plain C
            parts = {*ROOT.glob("gateway/media/engine_*.c"), *ROOT.glob("gateway/_codecs/*_impl.c")}
            c_files = sorted(str(p.relative_to(ROOT)) for p in parts)
            depends += [str(h.relative_to(ROOT)) for h in ROOT.glob("gateway/_codecs/*.h")]
        found.append(
            Extension(
                ".".join(pyx.with_suffix("").parts),
                [str(pyx), *c_files],
                include_dirs=["gateway/_codecs", "gateway/media"],
                depends=depends,
                define_macros=[("_GNU_SOURCE", "1")],
                extra_compile_args=flags,
                extra_link_args=[f"-fsanitize={sanitize}"] if sanitize else [],
                libraries=["m", "dl"],
            )
        )
    return found


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
    )
)
