#!/bin/sh
# The compiled parts on arm64: an arm64 Debian with its Python is unpacked below build/, the
# extensions are built for it by the cross compiler, and its Python imports them and runs the tests
# of codecs, framer and engine in user-mode emulation. Needs no root, no chroot, no binfmt_misc.
# Usage: tests/arm64/run.sh [pytest arguments]; PYTHON names this machine's interpreter.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
gcc=aarch64-linux-gnu-gcc
for program in $gcc qemu-aarch64-static dpkg-deb apt-get; do
    command -v "$program" >/dev/null || {
        echo "$0: no $program: hardware/lab/packages.sh arm64 installs it" >&2
        exit 1
    }
done
home=$root/build/arm64
debian=$home/debian site=$home/site copy=$home/copy
mkdir -p "$home"
cd "$root"

# This machine's own sources of packages, asked for another machine's.
packages="python3 libpython3-dev libspandsp2 libstdc++6"
if [ "$(cat "$debian.stamp" 2>/dev/null)" != "$packages" ]; then
    rm -rf "$debian" "$home/apt"
    mkdir -p "$home/apt/state/lists/partial" "$home/apt/cache/archives/partial" "$debian"
    : >"$home/apt/status"
    apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
            -o Dir::State="$home/apt/state" -o Dir::State::status="$home/apt/status" \
            -o Dir::Cache="$home/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
    }
    apt update
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends --download-only $packages
    for package in "$home"/apt/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$debian"
    done
    rm -rf "$home/apt"
    echo "$packages" >"$debian.stamp"
fi
their=$(readlink "$debian/usr/bin/python3") # python3.11
version=${their#python}

# What the gateway and these tests need of PyPI, as wheels.
if [ ! "$site.stamp" -nt pyproject.toml ]; then
    rm -rf "$site"
    "$python" - "$version" >"$home/requirements" <<'SCRIPT'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
tools = ("G722", "hypothesis", "numpy", "pytest")
wanted = [each for each in project["optional-dependencies"]["test"] if each.startswith(tools)]
print(*project["dependencies"], *wanted, sep="\n")
SCRIPT
    "$python" -m pip install -q --disable-pip-version-check --target "$site" --python-version "$version" \
        --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 -r "$home/requirements"
    touch "$site.stamp"
fi

# The source, and the extensions built as setup.py says, with the other Python's configuration.
mkdir -p "$copy/build" "$home/config"
find "$copy" -type f ! -name '*.so' ! -path "$copy/build/*" -delete
tar -c --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml gateway tests | tar -xC "$copy"
[ ! -d build/cython ] || cp -rpu build/cython "$copy/build/"
cp "$debian"/usr/lib/"$their"/_sysconfigdata__aarch64-linux-gnu.py "$home/config/"
cd "$copy"
_PYTHON_HOST_PLATFORM=linux-aarch64 PYTHONPATH=$home/config \
    _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
    CFLAGS="-I$debian/usr/include/$their -idirafter $debian/usr/include" CC=$gcc LDSHARED="$gcc -shared" \
    "$python" setup.py -q build_ext --inplace --parallel 2 >"$home/build.log" 2>&1 ||
    { cat "$home/build.log"; exit 1; }

$gcc -O1 -shared -fPIC -D_GNU_SOURCE -o "$home/emulator.so" "$root/tests/arm64/emulator.c"
# Emulated programs cannot start emulated programs by themselves: this does.
cat >"$home/python" <<SCRIPT
#!/bin/sh
exec qemu-aarch64-static -E LD_PRELOAD="$home/emulator.so" -L "$debian" "$debian/usr/bin/$their" "\$@"
SCRIPT
chmod +x "$home/python"
echo 'import os, sys; sys.executable = os.environ["CROSSPOINT_PYTHON"]' >"$site/sitecustomize.py"
export CROSSPOINT_CORPORA="${CROSSPOINT_CORPORA:-$root/../shared/corpora}"
export CROSSPOINT_PYTHON="$home/python" PYTHONPATH="$copy:$site" CC=$gcc PYTHONDONTWRITEBYTECODE=1
"$home/python" - <<'SCRIPT'
import importlib
import platform
from pathlib import Path

assert platform.machine() == "aarch64"
for source in sorted(Path("gateway").rglob("*.pyx")):
    file = importlib.import_module(".".join(source.with_suffix("").parts)).__file__
    assert Path(file).read_bytes()[18] == 0xB7, f"{file} is not for EM_AARCH64"
    print(f"{Path(file).name}: built and imported")
SCRIPT
# The emulator is ten times slower. Left to real machines is what must keep up with a clock: minutes
# of audio, a dozen of talkers, ten thousand streams.
run() {
    "$home/python" -m pytest -q tests/_codecs tests/drivers/test_framer.py tests/protocols/sip/test_timers.py \
        tests/media/test_engine.py tests/media/test_bridges.py tests/media/test_devices.py \
        tests/media/test_offer.py tests/media/test_patchbay.py \
        --deselect tests/_codecs/test_stubs.py \
        --deselect tests/media/test_engine.py::test_ten_thousand_opens_leave_nothing_behind \
        --deselect tests/media/test_engine.py::test_pacing_holds_beside_a_busy_python_thread \
        --deselect tests/media/test_bridges.py::test_a_conference_of_twelve_hears_all_others_and_not_itself \
        --deselect tests/media/test_devices.py::test_a_drifting_card_slips_and_does_not_pile_up "$@"
}
run "$@" || { echo "Again:"; run --last-failed --last-failed-no-failures=none "$@"; }
