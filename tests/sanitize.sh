#!/bin/sh
# Build all extensions with the address and undefined-behaviour sanitizers in a temporary copy and
# run the tests of codecs and engine on them. Any report ends the run with an error.
# Usage: tests/sanitize.sh [pytest arguments]; PYTHON names the interpreter.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/setup.py" "$root/pyproject.toml" "$root/gateway" "$root/tests" "$work/"
find "$work/gateway" -name '*.so' -delete
export CROSSPOINT_SANITIZE=address,undefined
export CROSSPOINT_CORPORA="${CROSSPOINT_CORPORA:-$root/../shared/corpora}"
cd "$work"
"$python" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }
# Python itself is not instrumented: the runtimes come first, and its own leaks are not ours.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    PYTHONMALLOC=malloc PYTHONPATH="$work" \
    "$python" -m pytest -q -p no:cacheprovider \
    --capture=sys tests/_codecs tests/media \
    --ignore tests/media/test_foreign.py \
    --deselect tests/media/test_engine.py::test_ten_thousand_opens_leave_nothing_behind "$@"
