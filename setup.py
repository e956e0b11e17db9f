"""Compile every ``gateway/**/*.pyx``; everything else lives in pyproject.toml."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent


def extensions() -> list[Extension]:
    """One extension per ``.pyx``; a ``*_impl.c`` of the same stem beside it is linked in."""
    sources = sorted(p.relative_to(ROOT) for p in ROOT.glob("gateway/**/*.pyx"))
    if not sources:
        sys.exit("setup.py: no gateway/**/*.pyx found: the source tree or sdist is incomplete")
    sanitize = os.environ.get("CROSSPOINT_SANITIZE", "")
    flags = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
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
                libraries=["m"],
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
