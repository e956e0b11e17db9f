#!/bin/sh
# Asterisk, which Debian 12 does not have: Debian's unstable suite has it. Its packages and the
# libraries that they need are unpacked into build/asterisk, and build/asterisk/bin/asterisk starts
# it with those libraries and nothing else of them. Nothing is installed or mounted, and no root is
# needed; it sees the same files, addresses and processes as any program.
# Usage: hardware/lab/asterisk.sh; does nothing when it is there. SUITE names another suite.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
home=$root/build/asterisk
suite=${SUITE:-unstable}
packages="asterisk"
fail() {
    echo "$0: $*" >&2
    exit 1
}
[ "$(cat "$home/stamp" 2>/dev/null)" = "$suite $packages" ] && exit 0
for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null || fail "no $program: this needs Debian"
done

# The mirror that apt uses, asked for another suite.
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" \
    'Component: main' | head -n 1)
[ -n "$mirror" ] || fail "apt has no source for the suite '$release', whose mirror is wanted"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keys" ] || fail "no $keys: apt-get install debian-archive-keyring"

work=$home/apt
rm -rf "$home"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/parts" "$home/bin"
: >"$work/status"
echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources"
apt() {
    timeout 600 apt-get -qq -o Dir::Etc::sourcelist="$work/sources" \
        -o Dir::Etc::sourceparts="$work/parts" -o Dir::State="$work/state" \
        -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
        -o Acquire::Languages=none -o Acquire::http::Timeout=30 -o Acquire::Retries=3 \
        -o APT::Sandbox::User="$(id -un)" "$@" >>"$work/log" 2>&1
}
told() {
    tail -n 20 "$work/log" >&2
    fail "$1; the whole story is in $work/log"
}
echo "unpacking asterisk of Debian's $suite into $home"
apt update || told "$mirror does not give the suite $suite"
# shellcheck disable=SC2086
apt install -y --no-install-recommends --download-only $packages || told "no download"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$work/root" >>"$work/log" 2>&1 || told "$package cannot be unpacked"
done

# Of all that only what runs: the program, its modules and documentation, and the libraries.
mkdir -p "$home/usr/sbin" "$home/usr/share"
mv "$work/root/usr/lib" "$home/usr/lib"
mv "$work/root/usr/sbin/asterisk" "$home/usr/sbin/"
mv "$work/root/usr/share/asterisk" "$home/usr/share/"
cd "$home"
loader=$(echo usr/lib/*/ld-linux-*.so.*)
[ -x "$loader" ] || told "no loader among $loader"
cat >bin/asterisk <<SCRIPT
#!/bin/sh
# Written by hardware/lab/asterisk.sh.
home=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
exec "\$home/$loader" --argv0 asterisk --library-path "\$home/${loader%/*}" \\
    "\$home/usr/sbin/asterisk" "\$@"
SCRIPT
chmod +x bin/asterisk
bin/asterisk -V >>"$work/log" 2>&1 || told "it does not start"
rm -rf "$work"
echo "$suite $packages" >stamp
echo "$(bin/asterisk -V): $home/bin/asterisk"
