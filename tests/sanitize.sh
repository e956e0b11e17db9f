#!/bin/sh
# Build all extensions with the address, undefined-behaviour and leak sanitizers in a copy below
# build/ and run the tests of codecs, engine and framer on them: a report, a leak of ours or a test
# that fails ends it with an error.
# Usage: tests/sanitize.sh [pytest arguments]; PYTHON names the interpreter.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
copy=$root/build/sanitize
cd "$root"
rm -rf "$copy" && mkdir -p "$copy/build"
# What Cython generated is taken along; the file times tell whether it still holds.
tar -c --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml gateway tests | tar -xC "$copy"
[ ! -d build/cython ] || cp -rp build/cython "$copy/build/"
export CROSSPOINT_SANITIZE=address,undefined
export CROSSPOINT_CORPORA="${CROSSPOINT_CORPORA:-$root/../shared/corpora}"
cd "$copy"
"$python" setup.py -q build_ext --inplace --parallel 2 >build.log 2>&1 || { cat build.log; exit 1; }

# Reports go to files, as a test may have taken standard error. Leaks are looked for at the end of
# the tests, not of the process (tests/conftest.py): CPython gives up much of its own by then. What
# CPython lost is told apart by its stack, which has none of our files. Freed memory is held back
# for 64 MiB, not 256, because there is a test that counts memory.
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
run() {
    LD_PRELOAD=$preload PYTHONMALLOC=malloc PYTHONPATH=$copy \
        ASAN_OPTIONS="detect_leaks=1:log_path=$copy/report:quarantine_size_mb=64" \
        LSAN_OPTIONS="leak_check_at_exit=0" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$copy/report" \
        timeout 780 "$python" -m pytest -q -n 2 --dist loadfile \
        tests/_codecs tests/media tests/drivers/test_framer.py tests/adapters/test_page.py \
        --deselect tests/_codecs/test_stubs.py "$@"
}
said=0
run "$@" || said=$?
if [ $said -eq 1 ]; then # as in `make test`: what failed in company has to pass alone
    said=0
    run --last-failed --last-failed-no-failures=none -n 0 "$@" || said=$?
fi

findings=$(cat report.* 2>/dev/null | awk -v RS= -v ORS='\n\n' -v ours="$copy/gateway/" '
    /LeakSanitizer: detected|^SUMMARY: .* leaked/ { next }
    !/^(Direct|Indirect) leak/ || index($0, ours)')
if [ -n "$findings" ]; then
    echo "$findings"
    said=1
fi
[ $said -ne 0 ] || echo "sanitizers: nothing found"
exit $said
