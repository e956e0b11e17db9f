#!/bin/sh
# Build the codec extensions with the address and undefined-behaviour sanitizers in a temporary
# copy and run tests/_codecs on them. Any report ends the run with an error.
# Usage: tests/sanitize.sh [pytest arguments]; PYTHON names the interpreter.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/gateway/_codecs" "$work/tests"
cp "$root/setup.py" "$root/pyproject.toml" "$work/"
cp "$root/gateway/__init__.py" "$root/gateway/errors.py" "$work/gateway/"
for file in "$root"/gateway/_codecs/*; do
    case $file in *.py | *.pyx | *.pxd | *.pyi | *.c | *.h) cp "$file" "$work/gateway/_codecs/" ;; esac
done
rm -f "$work"/gateway/_codecs/*.cpython-*
cp -r "$root/tests/_codecs" "$root/tests/__init__.py" "$work/tests/"
export CROSSPOINT_SANITIZE=address,undefined
export CROSSPOINT_CORPORA="${CROSSPOINT_CORPORA:-$root/../shared/corpora}"
cd "$work"
"$python" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }
# Python itself is not instrumented: the runtimes come first, and its own leaks are not ours.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    PYTHONMALLOC=malloc \
    "$python" -m pytest -q -p no:cacheprovider tests/_codecs "$@"
