#!/bin/bash
# build.sh [DIR]: make the QEMU guest that runs the real DAHDI driver. Default DIR: build/guest.
#
# The guest is Debian's stock kernel, unpacked and never installed, with the DAHDI modules of
# Debian's dahdi-source built against its headers. It has no file system of its own: its root is
# this machine's / read-only over 9p, so checkout and virtual environment are the same inside.
# Needs: apt-get install --no-install-recommends qemu-system-x86 dahdi-source dahdi-dkms cpio \
#        kmod gcc-12 make   (dahdi-dkms may fail for the host's kernel: only its sources are used)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=${1:-$here/build/guest}
mkdir -p "$dir/debs" "$dir/out"
dir=$(cd "$dir" && pwd)
rm -f "$dir/ready"

kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-//p' | head -1)
base=${kernel%-amd64}
(
  cd "$dir/debs"
  for package in "linux-image-$kernel" "linux-headers-$kernel" "linux-headers-$base-common" \
    linux-kbuild-6.1 busybox-static; do
    compgen -G "${package}_*.deb" >/dev/null || apt-get download -q "$package"
  done
)
rm -rf "$dir/root" "$dir/dahdi" "$dir/initrd"
for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/root"; done

# The headers' Makefile names its own directory absolutely; here they are not under /usr/src.
headers=$dir/root/usr/src/linux-headers-$kernel
sed -i "s#include /usr/src/#include $dir/root/usr/src/#" "$headers/Makefile"

source=$(echo /usr/src/dahdi-2.11*)
[ -d "$source/drivers/dahdi" ] || { echo "build.sh: no DAHDI source in /usr/src (apt-get install dahdi-dkms)" >&2; exit 1; }
cp -r "$source" "$dir/dahdi"
# Only what an analog line needs: the core, the loop that wires two spans, an echo canceller.
cat > "$dir/dahdi/drivers/dahdi/Kbuild" <<'K'
obj-m += dahdi.o dahdi_dynamic.o dahdi_dynamic_loc.o dahdi_echocan_mg2.o
ccflags-y += -I$(DAHDI_INCLUDE) -I$(src)
dahdi-objs := dahdi-base.o dahdi-sysfs.o dahdi-sysfs-chan.o dahdi-version.o
K
nice make -j1 -C "$headers" "M=$dir/dahdi/drivers/dahdi" "DAHDI_INCLUDE=$dir/dahdi/include" \
  modules > "$dir/modules.log" 2>&1 || { tail -20 "$dir/modules.log" >&2; exit 1; }
modules=$dir/root/lib/modules/$kernel
mkdir -p "$modules/updates"
cp "$dir"/dahdi/drivers/dahdi/*.ko "$modules/updates/"
/usr/sbin/depmod -b "$dir/root" "$kernel"

mkdir -p "$dir"/initrd/{bin,modules,proc,sys,dev,host}
cp "$dir/root/bin/busybox" "$dir/initrd/bin/"
: > "$dir/initrd/modules/order"
for module in virtio_pci 9pnet_virtio 9p; do
  /usr/sbin/modprobe -d "$dir/root" -S "$kernel" -D "$module" | awk '/insmod/{print $2}' |
    while read -r path; do
      name=$(basename "$path")
      grep -qx "$name" "$dir/initrd/modules/order" && continue
      cp "$path" "$dir/initrd/modules/"
      echo "$name" >> "$dir/initrd/modules/order"
    done
done
cat > "$dir/initrd/init" <<'I'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
for m in $($B cat /modules/order); do $B insmod /modules/$m; done
nine=trans=virtio,version=9p2000.L,msize=262144
$B mount -t 9p -o $nine,ro,cache=loose host /host || $B poweroff -f
for d in proc sys dev; do $B mount -o bind /$d /host/$d; done
$B mkdir -p /dev/pts /dev/shm
$B mount -t devpts x /host/dev/pts
for d in dev/shm run var/tmp tmp; do $B mount -t tmpfs x /host/$d; done
$B mount -t 9p -o $nine out /host/mnt
$B ip link set lo up
$B chroot /host /bin/bash /mnt/job > /host/mnt/output 2>&1
echo $? > /host/mnt/status
$B sync; $B poweroff -f
I
chmod +x "$dir/initrd/init"
(cd "$dir/initrd" && find . | cpio -o -H newc --quiet | gzip -1) > "$dir/initrd.gz"
echo "$kernel" > "$dir/ready"
