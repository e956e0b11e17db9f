#!/bin/sh
# The compiled parts on arm64: every extension is compiled and linked by Debian's cross compiler,
# and every kernel runs in an emulated arm64 process beside the same source built for this machine.
# Integer kernels must agree to the last bit, those in floating point within 2 of 32768.
# Usage: tests/arm64/run.sh; PYTHON names the interpreter.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
cross=aarch64-linux-gnu
for program in $cross-gcc qemu-aarch64-static; do
    command -v "$program" >/dev/null || {
        echo "$0: no $program: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross" \
            "qemu-user-static" >&2
        exit 1
    }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
flags="-fno-strict-aliasing -Wall -Werror -Wno-unused-function -D_GNU_SOURCE
    -Igateway/_codecs -Igateway/media"

for machine in native arm64; do
    case $machine in native) cc=gcc ;; arm64) cc="$cross-gcc -static" ;; esac
    mkdir "$work/$machine"
    # shellcheck disable=SC2086
    $cc -O3 $flags -o "$work/driver.$machine" tests/arm64/driver.c \
        gateway/_codecs/*_impl.c gateway/media/engine_*.c -lm -lpthread
done
vectors=${CROSSPOINT_CORPORA:-$root/../shared/corpora}/g722-itu/le
[ -d "$vectors" ] || { echo "no ITU vectors in $vectors: not checked"; vectors=; }
"$work/driver.native" "$work/native" ${vectors:+"$vectors"} >/dev/null
qemu-aarch64-static "$work/driver.arm64" "$work/arm64" ${vectors:+"$vectors"}
"$python" tests/arm64/compare.py "$work/native" "$work/arm64"

# The extensions. Python's headers are the same for both machines, which are both LP64.
"$python" - "$work" <<'SCRIPT'
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools

work, include = Path(sys.argv[1]), sysconfig.get_path("include")
extensions = []
setuptools.setup = lambda **keys: extensions.extend(keys["ext_modules"])
runpy.run_path("setup.py")
for extension in extensions:
    out = work / f"{extension.name}.so"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-O1", "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{include}",
         *(f"-I{each}" for each in extension.include_dirs), *extension.sources, "-lm", "-o", out],
        check=True,
    )
    assert out.read_bytes()[18] == 0xB7, "not for EM_AARCH64"
    print(f"{extension.name}: built for arm64")
SCRIPT
