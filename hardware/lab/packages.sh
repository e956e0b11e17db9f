#!/usr/bin/env bash
# Install the Debian packages that a verb of the Makefile needs, if any is missing.
#   packages.sh run    what the lab needs
#   packages.sh test   what the tests need: foreign phones, proxies, brokers, decoders, the guest
#   packages.sh arm64  what `make arm64` needs: a cross compiler and an emulator
set -euo pipefail

build="gcc libc6-dev make pkg-config python3 python3-dev python3-venv"
run="$build baresip-core dahdi espeak-ng libhamlib-utils libsrtp2-1 sox"
test="$run baresip-ffmpeg ffmpeg flite gammu kamailio kamailio-tls-modules libasound2-plugins
  libmodbus-dev libopus0 libspandsp-dev linphone-cli mbpoll minimodem mosquitto mosquitto-clients
  prometheus multimon-ng netcat-openbsd postgresql-15 rtpengine-daemon sip-tester sipsak sngrep socat sofia-sip-bin sqlite3 svxlink-server svxreflector tmux tshark curl iproute2
  conntrack coturn dnsmasq-base iptables openssl cpio dahdi-source gcc-12 kmod qemu-system-x86 xz-utils"
arm64="gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"

case "${1:-}" in
  run) wanted=$run ;;
  test) wanted=$test ;;
  arm64) wanted=$arm64 ;;
  *) echo "usage: $0 run|test|arm64" >&2; exit 2 ;;
esac

missing=()
for package in $wanted; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
sudo=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "become root and run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  }
  sudo=sudo
fi

# Debian starts a service as soon as its package is installed. Here brokers and proxies are only
# started by tests, on ports of their own: forbid it for the length of the installation.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
  $sudo chmod +x "$policy"
  trap '$sudo rm -f "$policy"' EXIT
fi
log=$(mktemp)
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >>"$log" 2>&1; }
if ! apt update || ! apt install -y --no-install-recommends "${missing[@]}"; then
  tail -20 "$log" >&2
  echo "the packages could not be installed; the whole story is in $log" >&2
  exit 1
fi
rm -f "$log"
