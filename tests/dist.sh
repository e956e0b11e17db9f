#!/bin/sh
# Build the source distribution, install it with pip into a fresh environment somewhere else, and
# run what was installed: a gateway that takes a call with everything compiled.
# Usage: tests/dist.sh; PYTHON names the interpreter.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || :; rm -rf "$work"' EXIT

mkdir "$work/tree"
cd "$root"
for each in gateway docs hardware setup.py pyproject.toml MANIFEST.in README.md LICENSE; do
    cp -r "$each" "$work/tree/"
done
find "$work/tree" \( -name '*.so' -o -name '*.pyc' \) -delete
cd "$work/tree"
"$python" setup.py -q sdist -d "$work"

cd "$work"
"$python" -m venv fresh
PYTHONWARNINGS=ignore fresh/bin/pip install -q --disable-pip-version-check ./*.tar.gz
fresh/bin/gateway --version
fresh/bin/python -I - <<'SCRIPT'
import gateway, pathlib, sys
from gateway._codecs import dtmf, fsk, g711, g722, mix, plc, resample, rtp, tone
from gateway.media import _engine
home = pathlib.Path(gateway.__file__).parent
assert home.is_relative_to(sys.prefix), home
for kind, least in (("so", 10), ("pyi", 10), ("pxd", 9), ("pyx", 10), ("h", 10), ("c", 15)):
    found = len(list(home.rglob(f"*.{kind}")))
    assert found >= least, f"{found} files *.{kind}"
assert (home / "py.typed").exists()
assert list(home.glob("protocols/intercom/profiles/*.toml"))
SCRIPT
cat >gateway.toml <<EOT
[gateway]
name = "fresh"
data_dir = "$work/data"
[control]
socket = "$work/s"
[media]
realtime = false
local_ip = "127.0.0.1"
[adapters.loopback.ports.alice]
number = "101"
tone_hz = 440.0
[adapters.loopback.ports.bob]
number = "102"
EOT
export GATEWAY_CONFIG="$work/gateway.toml"
fresh/bin/gateway check
fresh/bin/gateway run >log 2>&1 &
daemon=$!
tries=0
until fresh/bin/gateway adapters 2>/dev/null | grep -q ' up'; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { cat log; exit 1; }
    sleep 0.5
done
fresh/bin/gateway dial loopback/alice loopback/bob --wait
fresh/bin/gateway calls | grep loopback/bob
fresh/bin/gateway hangup loopback/bob
fresh/bin/gateway stop
wait $daemon
daemon=
echo "the distribution installs and runs"
