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

# Reports go to files, as a test may have taken standard error; those of undefined behaviour, whose
# library finds the other one's way of reporting before its own, go to standard error all the same,
# which pytest must leave alone. Leaks are looked for at the end of the tests, not of the
# process (tests/conftest.py): CPython gives up much of its own by then. What CPython lost is told
# apart by its stack: ours is what our own C took, or objects by the dozen (CPython hands single ones
# on, so that the stack shows who had it first). Freed memory is held back for 64 MiB, not 256,
# because there is a test that counts memory.
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
sanitized() {
    LD_PRELOAD=$preload PYTHONMALLOC=malloc PYTHONPATH=$copy \
        ASAN_OPTIONS="detect_leaks=1:log_path=$copy/report:quarantine_size_mb=64" \
        LSAN_OPTIONS="leak_check_at_exit=0" UBSAN_OPTIONS="print_stacktrace=1:log_path=$copy/report" \
        timeout 780 "$python" "$@" 2>>report.stderr
}
run() {
    sanitized -m pytest -q -n 2 --dist loadfile --capture=sys --hypothesis-profile=search \
        tests/_codecs tests/media tests/drivers/test_framer.py tests/protocols/sip/test_timers.py \
        tests/protocols/sip/test_lines.py tests/protocols/sip/test_message.py tests/adapters/test_page.py \
        --deselect tests/_codecs/test_stubs.py "$@"
}
findings() {
    grep -h -A 12 'runtime error:' report.stderr || true
    find . -maxdepth 1 -name 'report.[0-9]*' -exec cat {} + | awk -v RS= -v ORS='\n\n' '
        /LeakSanitizer: detected|^SUMMARY: .* leaked/ { next }
        !/^(Direct|Indirect) leak/ || /#1 [^\n]*gateway\// || ($7 > 9 && /gateway\//)'
}

# First of all: is anything found where there is something?
cat >gateway/canary.c <<'CODE'
#include <stdlib.h>
void lose(void) { *(volatile char *)malloc(77) = 1; }
int shift(int n) { return 1 << n; }
int beyond(int n)
{
    volatile char *p = malloc(4);
    int found = p[n];
    free((void *)p);
    return found;
}
CODE
gcc -shared -fPIC -g -O1 -fno-omit-frame-pointer -fsanitize=$CROSSPOINT_SANITIZE \
    -o gateway/canary.so gateway/canary.c
sanitized - <<'CODE' || true
import ctypes
canary = ctypes.CDLL("gateway/canary.so")
for _ in range(9):
    canary.lose()
canary.shift(33)
ctypes.CDLL(None).__lsan_do_recoverable_leak_check()
canary.beyond(4)
CODE
for wanted in "leak of .* allocated" "runtime error: shift exponent 33" "heap-buffer-overflow"; do
    findings | grep -q "$wanted" || { echo "$0: the sanitizers do not work: no $wanted" >&2; exit 1; }
done
rm report.* gateway/canary.*

said=0
run "$@" || said=$?
if [ $said -eq 1 ]; then # as in `make test`: what failed in company has to pass alone
    said=0
    run --last-failed --last-failed-no-failures=none -n 0 "$@" || said=$?
fi
found=$(findings)
if [ -n "$found" ]; then
    echo "$found"
    said=1
fi
[ $said -ne 0 ] || echo "sanitizers: nothing found"
exit $said
